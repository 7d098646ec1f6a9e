"""The demo's tuned model answers the demo's questions in llama.cpp, onnxruntime and plain transformers as in tomoni."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tomoni.cli.app import main
from tomoni.cli.demo import MAX_NEW_TOKENS, TUNING
from tomoni.engine.sampler import Sampling
from tomoni.evaluate import sidebyside
from tomoni.evaluate.subject import open_subject
from tomoni.export import parity
from tomoni.records import Message
from tomoni.run import start
from tomoni.settings.sft import Config
from tomoni.world import bundled_world, held_out_questions, is_right, tuning_questions

ASKED = 60

pytestmark = pytest.mark.slow


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), encoding="utf-8")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run with the demo's own settings and data, and the questions that it holds out."""
    folder = tmp_path_factory.mktemp("demo")
    world = bundled_world()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TOMONI_CACHE", str(folder / "cache"))
        _write(folder / "tuning.jsonl", list(tuning_questions(world, 600, 0)))
        _write(folder / "held_out.jsonl", list(held_out_questions(world, ASKED, 0)))
        settings = TUNING | {"model_name_or_path": "bundled:small", "train_file": str(folder / "tuning.jsonl")}
        assert start(Config(output_dir=str(folder / "run"), **settings)).status == "finished"
        yield folder


def _questions(demo: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (demo / "held_out.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_tuned_model_has_learnt_so_that_equal_answers_mean_something(demo: Path) -> None:
    asked = [
        sidebyside.Task(one["id"], tuple(Message(t["role"], t["content"]) for t in one["messages"][:-1]), one["answer"])
        for one in _questions(demo)
    ]
    answers = sidebyside.ask(
        open_subject(demo / "run"), asked, Sampling(max_new_tokens=MAX_NEW_TOKENS, temperature=0.0)
    )
    world = bundled_world()
    right = sum(is_right(text, one, world) for text, one in zip(answers.texts, _questions(demo), strict=True))
    assert right > ASKED / 2 and len(set(answers.texts)) > ASKED / 3
    assert parity.MOST_TOKENS >= MAX_NEW_TOKENS


@pytest.mark.parametrize(("to", "form"), [("hf", "f32"), ("gguf", "f32"), ("gguf", "f16"), ("onnx", "f32")])
def test_every_answer_is_the_same_where_little_or_nothing_is_rounded(demo: Path, to: str, form: str) -> None:
    found = _exported(demo, to, form)
    assert found["prompts"] == found["text_equal"] == found["tokens_equal"] == ASKED
    assert found["answers_equal"] == found["ended"] == found["ended_before"] == ASKED
    assert set(found["ends"].values()) == {True}


@pytest.mark.parametrize(
    ("to", "form"), [("gguf", "bf16"), ("gguf", "q8_0"), ("gguf", "q5_1"), ("gguf", "q4_0"), ("onnx", "int8")]
)
def test_rounded_forms_stay_within_their_bounds(demo: Path, to: str, form: str) -> None:
    found = _exported(demo, to, form)
    assert found["prompts"] == found["text_equal"] == found["tokens_equal"] == ASKED
    assert found["answers_equal"] >= {"bf16": 0.9, "q8_0": 0.9, "int8": 0.6}.get(form, 0.5) * ASKED


def _exported(demo: Path, to: str, form: str) -> dict[str, Any]:
    output = demo / f"{to}-{form}"
    prompts = str(demo / "held_out.jsonl")
    words = ["--to", to, "--quantization", form, "--output", str(output), "--prompts", prompts]
    assert main(["export", str(demo / "run"), *words, "--most-prompts", str(ASKED)]) == 0
    return dict(json.loads((output / "parity.json").read_text(encoding="utf-8")))
