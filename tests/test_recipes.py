"""Every recipe really starts: three steps on a tiny model, and the result is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import tiny
from tests.run import tasks
from tomoni.cli import train
from tomoni.data.vocabulary import train_tokenizer

DOCS = Path(__file__).parent.parent / "docs"
RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
WORDS = ("春", "夏", "秋", "冬", "spring", "summer", "autumn", "winter")
PAIRS = [
    {"prompt": f"{word}の次は？（{number}）", "chosen": f"{WORDS[(i + 1) % 8]}です。", "rejected": f"{word}"}
    for number in range(3)
    for i, word in enumerate(WORDS)
]
REWARD = """
def score(completion, prompt):
    return sum(letter in "aeiou" for letter in completion) - 0.1 * len(completion)
"""
SAMPLING = ("bestofn", "grpo", "rloo", "ppo")
SMALLER = ["--max_completion_length", "12", "--batch_size", "4"]
ROWS = {
    "sft": [{"prompt": f"{word}の次は？", "completion": f"{WORDS[(i + 1) % 8]}です。"} for i, word in enumerate(WORDS)]
    * 3,
    **dict.fromkeys(("dpo", "orpo", "simpo", "reward"), PAIRS),
    "kto": [
        {"prompt": pair["prompt"], "completion": pair["chosen" if good else "rejected"], "label": good}
        for pair in PAIRS
        for good in (True, False)
    ],
    **{method: [{"prompt": pair["prompt"]} for pair in PAIRS] for method in SAMPLING},
    **{method: rows() for method, rows in tasks.ROWS.items()},
    "pretrain": [{"text": f"{word}のあとには{WORDS[(i + 1) % 8]}が来る。" * 3} for i, word in enumerate(WORDS)] * 3,
}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_trains_three_steps_and_leaves_a_result(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path / "cache"))
    written = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    data = tmp_path / "data.jsonl"
    rows = [{"id": str(number), **row} for number, row in enumerate(ROWS[written["method"]])]
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    overrides = [
        "--train_file",
        str(data),
        "--output_dir",
        str(tmp_path / "run"),
        "--max_steps",
        "3",
        "--eval_steps",
        "0",
    ]
    overrides += ["--validation_share", "0.3", "--max_length", "128"]
    if "model_name_or_path" in written:
        make = tiny.encoder_folder if written["method"] in tasks.ROWS else tiny.folder
        overrides += ["--model_name_or_path", str(make(tmp_path / "model"))]
    elif "tokenizer" in written:
        train_tokenizer((row["text"] for row in ROWS["pretrain"]), vocab_size=300).save_pretrained(tmp_path / "tokens")
        overrides += ["--tokenizer", str(tmp_path / "tokens")]

    if written["method"] in SAMPLING:
        (tmp_path / "reward.py").write_text(REWARD, encoding="utf-8")
        overrides += ["--reward_funcs", f"{tmp_path / 'reward.py'}:score", *SMALLER]

    if written["method"] in ("classify", "regress") and written.get("train") != "head":
        overrides += ["--head_start", "new"]  # these few texts are told apart by the solved head already

    assert train.command([str(recipe), *overrides]) == 0

    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["step"] == (1 if written.get("train") == "head" else 3)  # a head alone is solved, in one step
    assert (tmp_path / "run" / report["model"]).is_dir()
    every_metric_is_explained(tmp_path / "run")
    if written["method"] in SAMPLING:
        completions_were_scored(tmp_path / "run", report)
    else:
        assert report["after"]["loss"] < report["before"]["loss"]


def every_metric_is_explained(run: Path) -> None:
    """A number that no page explains helps nobody."""
    pages = "".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    names = {re.sub("^rewards/score/", "rewards/NAME/", name) for line in lines for name in json.loads(line)}
    assert "grad_norm" in names
    assert {name for name in names if f"`{name}`" not in pages} == set()


def completions_were_scored(run: Path, report: dict[str, Any]) -> None:
    """What three steps do to a reward is lost in the noise of sampling; what was sampled, scored and learnt is not."""
    lines = (run / "completions.jsonl").read_text(encoding="utf-8").splitlines()
    told = [json.loads(line) for line in lines]
    rollouts = {line["step"] for line in told}
    assert rollouts and rollouts <= {0, 1, 2}
    assert len(told) % (4 * len(rollouts)) == 0  # of each of 4 prompts equally many
    for line in told:
        text = line["completion"]
        assert line["reward"] == pytest.approx(len(re.findall("[aeiou]", text)) - len(text) / 10)
    assert report["figures"][0]["what"].startswith("reward")
    assert report["before"]["objective/kl"] == pytest.approx(0, abs=1e-3)  # it starts as its own reference
    assert report["after"]["entropy"] != report["before"]["entropy"]  # the policy has moved
