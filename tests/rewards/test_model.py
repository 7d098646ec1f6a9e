"""A reward model is trained, saved, and scores completions: with the policy's tokenizer their tokens, else their text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from tests import tiny
from tests.methods import rollouts
from tests.rewards import encoder
from tests.rewards.completions import ASKED, answered
from tomoni.data.render import Renderer
from tomoni.engine import scoring
from tomoni.errors import ModelError, RunError
from tomoni.records import Message
from tomoni.rewards.model import RewardModel
from tomoni.run import start
from tomoni.settings.reward import Config

TEXTS = ("九時です。", "知らない", "nine", "", "十時に開きます。" * 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of reward runs, by the kind of body."""
    place = tmp_path_factory.mktemp("報酬")
    rows = [
        {
            "prompt": f"何時に開く{'か' * (number % 3)}",
            "chosen": f"九時{'。' * (1 + number % 4)}",
            "rejected": "知らない" * (1 + number % 2),
        }
        for number in range(12)
    ]
    (place / "pairs.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    bodies = {"decoder": tiny.folder(place / "llama"), "encoder": encoder.folder(place / "bert")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOMONI_CACHE", str(place / "cache"))
        for kind, body in bodies.items():
            start(
                Config(
                    model_name_or_path=str(body),
                    train_file=str(place / "pairs.jsonl"),
                    output_dir=str(place / kind),
                    max_steps=12,
                    batch_size=6,
                    learning_rate=3e-3,
                    max_length=100,
                    device="cpu",
                    threads=1,
                )
            )
    return {kind: place / kind for kind in bodies}


def opened(folder: Path, policy: Any = None) -> RewardModel:
    cfg = rollouts.config("grpo")
    return RewardModel(folder, cfg, policy if policy is not None else tiny.tokenizer())


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_it_learns_and_its_scores_have_mean_0_and_standard_deviation_1_on_what_was_looked_at(
    kind: str, trained: dict[str, Path]
) -> None:
    report = json.loads((trained[kind] / "report.json").read_text(encoding="utf-8"))
    assert report["after"]["loss"] < 0.5 < report["before"]["loss"] and report["after"]["accuracy"] > 0.9
    rows = [
        json.loads(line) for line in (trained[kind].parent / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    reward = opened(trained[kind])
    reward.same = False  # these answers end as the data's do, so text and tokens are the same
    told = [
        answered(row[which], name=f"{number}") for number, row in enumerate(rows) for which in ("chosen", "rejected")
    ]
    asked = [(Message("user", row["prompt"]),) for row in rows for _ in range(2)]
    scores = reward(
        [type(one)(one.id, prompt, one.completion, one.row) for one, prompt in zip(told, asked, strict=True)]
    )
    assert np.mean(scores) == pytest.approx(0, abs=1e-4) and np.std(scores) == pytest.approx(1, rel=1e-4)
    assert all(good > bad for good, bad in zip(scores[::2], scores[1::2], strict=True))


def test_a_decoders_scores_are_those_of_transformers_times_gain_plus_bias(trained: dict[str, Path]) -> None:
    folder = trained["decoder"] / "model"
    about = json.loads((folder / "reward.json").read_text(encoding="utf-8"))
    classifier = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    reward = opened(trained["decoder"])
    assert reward.same
    answers = [answered(text, name=str(number)) for number, text in enumerate(TEXTS)]
    for answer, score in zip(answers, reward(answers), strict=True):
        with torch.no_grad():
            plain = float(classifier(torch.tensor(answer.row.tokens[None].astype(np.int64))).logits)
        assert score == pytest.approx(about["gain"] * plain + about["bias"], rel=1e-4, abs=1e-4)


def test_with_another_tokenizer_the_text_is_read_and_gives_the_same_score(trained: dict[str, Path]) -> None:
    """Bytes in another order: its ids mean something else, so sampled ids must not be read as they are."""
    other: PreTrainedTokenizerFast = tiny.tokenizer()
    other.add_tokens(["九時"])
    assert (
        other("九時", add_special_tokens=False)["input_ids"]
        != tiny.tokenizer()("九時", add_special_tokens=False)["input_ids"]
    )
    same, different = opened(trained["decoder"]), opened(trained["decoder"], other)
    assert same.same and not different.same
    for number, text in enumerate(TEXTS[:-1]):
        mine = answered(text, name=str(number))
        prompt = Renderer(other).prompt(ASKED)
        made = np.array([*other(text, add_special_tokens=False)["input_ids"], 258], dtype=np.int32)
        weights = np.concatenate([np.zeros(len(prompt)), np.ones(len(made))]).astype(np.float32)
        theirs = type(mine)(mine.id, mine.prompt, text, type(mine.row)(np.concatenate([prompt, made]), weights))
        assert different([theirs]) == pytest.approx(same([mine]), rel=1e-5, abs=1e-5)


def test_an_encoder_reads_any_policys_text_and_an_empty_completion_too(trained: dict[str, Path]) -> None:
    scores = opened(trained["encoder"])([answered(text, name=str(number)) for number, text in enumerate(TEXTS)])
    assert np.isfinite(scores).all() and len(set(scores)) == len(TEXTS)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_a_completion_that_it_cannot_hold_is_named_and_never_judged_by_its_beginning(
    kind: str, trained: dict[str, Path]
) -> None:
    reward = opened(trained[kind])
    reward.same = False
    with pytest.raises(RunError, match="cannot read completion 長い/0/0: with its prompt it is longer than 100 tokens"):
        reward([answered("あ" * 200, name="長い/0/0")])


def test_a_prompt_that_fills_its_context_loses_its_beginning_not_the_answer(trained: dict[str, Path]) -> None:
    reward = opened(trained["encoder"])
    answer = answered("九時。", name="a")
    long = type(answer)("a", (Message("user", "何" * 300 + "時に開"),), answer.completion, answer.row)
    row = reward._row(long)
    assert len(row) == 100
    said = encoder.tokenizer().decode(row.tokens).replace(" ", "")
    assert said.endswith("[SEP]九時。[SEP]") and "何時に開[SEP]" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "reward.json").unlink(), "is no reward model"),
        (lambda folder: (folder / "reward.json").write_text("{"), "cannot be read"),
        (
            lambda folder: (folder / "reward.json").write_text(
                '{"encoder": false, "pool": "last", "gain": NaN, "bias": 0, "max_length": 9}'
            ),
            "cannot be",
        ),
        (
            lambda folder: (folder / "reward.json").write_text(
                '{"encoder": false, "pool": "last", "gain": 0, "bias": 0, "max_length": 9}'
            ),
            "cannot be",
        ),
        (
            lambda folder: (folder / "reward.json").write_text(
                '{"encoder": false, "pool": "last", "gain": "x", "bias": 0, "max_length": 9}'
            ),
            "cannot be",
        ),
        (lambda folder: (folder / "reward.json").write_text("[]"), "is not a JSON object"),
        (lambda folder: (folder / "config.json").write_text("{}"), "unknown architecture None"),
        (lambda folder: _spoil(folder, "model.embed_tokens.weight"), "weights that are not numbers"),
        (lambda folder: _spoil(folder, "score.weight"), "weights that are not numbers"),
    ],
)
def test_a_damaged_one_is_refused(change: Any, said: str, trained: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    copied = Path(shutil.copytree(trained["decoder"] / "model", tmp_path / "copy"))
    change(copied)
    with pytest.raises(ModelError, match=said):
        opened(copied)


def _spoil(folder: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors[name][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors")


def test_where_all_scores_are_alike_they_are_not_blown_up() -> None:
    class Flat:
        def scores(self, items: Any) -> Any:
            return [(np.array([0.25]), np.array([0.25]))]

    assert scoring.scale_of(Flat(), [None]) == scoring.Scale(1.0, -0.25)  # type: ignore[arg-type, list-item]
