"""The road on real data: Japanese instructions through `tomoni sft`, and a real Llama tuned, stopped and resumed."""

from __future__ import annotations

import json
import os
import signal
from itertools import islice
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.realdata import stories
from tomoni.cli import sft
from tomoni.data.read import read
from tomoni.evaluate.appraise import rows_of
from tomoni.evaluate.holdout import measure, token_counts, unigram
from tomoni.evaluate.subject import open_subject
from tomoni.run import start
from tomoni.run.events import Event, Stepped
from tomoni.settings.sft import Config

pytestmark = pytest.mark.realdata


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_japanese_instructions_lower_the_held_out_loss_by_15_percent_and_beat_a_unigram_model(
    realdata: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path / "cache"))
    source = realdata / "dolly_ja" / "dolly_ja.jsonl"
    with source.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, 1700)]
    keep = ("instruction", "input", "output")
    short = [{key: row[key] for key in keep} for row in rows if row["output"].strip() and row["instruction"].strip()]
    train = write(tmp_path / "train.jsonl", short[:1200])
    held_out = write(tmp_path / "held_out.jsonl", short[1200:1400])
    output = tmp_path / "run"

    code = sft.command(
        ["--model_name_or_path", "bundled:small", "--train_file", str(train), "--validation_file", str(held_out),
         "--output_dir", str(output), "--max_length", "384", "--on_long_rows", "truncate", "--num_train_epochs", "2",
         "--learning_rate", "2e-3", "--batch_size", "16", "--sample_prompts", "0"]
    )  # fmt: skip

    assert code == 0
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    losses = {when: report[when]["stats"]["loss"] for when in ("before", "after")}
    before, after = (total / count for total, count in losses.values())
    assert after < 0.85 * before

    tuned = open_subject(output, max_length=384)
    tuned.renderer.on_long_rows = "truncate"
    trained_on = rows_of(list(read([str(train)])), tuned.renderer)
    looked_at = rows_of(list(read([str(held_out)])), tuned.renderer)
    chance = unigram(token_counts(trained_on, len(tuned.tokenizer)), looked_at)
    assert measure(tuned.model, looked_at).loss == pytest.approx(after, rel=1e-3)
    assert after < chance.loss


def test_a_real_llama_tunes_stops_and_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path / "cache"))
    stories.source()  # or skipped
    model = tmp_path / "stories"
    stories.convert(model)
    told = [{"prompt": f"Who has the {thing}?", "completion": f"{who} has the {thing}."}
            for who, thing in zip(("Tom", "Lily", "Ben", "Sue") * 6, ("ball", "cat", "hat", "dog", "car", "toy") * 4, strict=True)]  # fmt: skip
    data = write(tmp_path / "told.jsonl", told)

    def config(name: str) -> Config:
        return Config(
            model_name_or_path=str(model), train_file=(str(data),), output_dir=str(tmp_path / name), batch_size=8,
            max_steps=12, learning_rate=2e-3, sample_prompts=0, save_steps=4, threads=1,
        )  # fmt: skip

    whole = start(config("whole"))
    assert whole.before is not None and whole.after is not None
    assert whole.after.loss < 0.8 * whole.before.loss

    def ask_to_stop(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    assert start(config("broken"), on_event=ask_to_stop).status == "stopped"
    resumed = start(config("broken"))
    assert resumed.model is not None and whole.model is not None
    one, other = (load_file(folder / "model.safetensors") for folder in (whole.model, resumed.model))
    assert one.keys() == other.keys()
    assert all(bool((one[name] == other[name]).all()) for name in one)
