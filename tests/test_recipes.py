"""Every recipe really starts: three steps on a tiny model, and the result is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests import tiny
from tomoni.cli import train
from tomoni.data.vocabulary import train_tokenizer

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
WORDS = ("春", "夏", "秋", "冬", "spring", "summer", "autumn", "winter")
ROWS = {
    "sft": [{"prompt": f"{word}の次は？", "completion": f"{WORDS[(i + 1) % 8]}です。"} for i, word in enumerate(WORDS)]
    * 3,
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
        overrides += ["--model_name_or_path", str(tiny.folder(tmp_path / "model"))]
    elif "tokenizer" in written:
        train_tokenizer((row["text"] for row in ROWS["pretrain"]), vocab_size=300).save_pretrained(tmp_path / "tokens")
        overrides += ["--tokenizer", str(tmp_path / "tokens")]

    assert train.command([str(recipe), *overrides]) == 0

    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["step"] == 3
    assert report["after"]["loss"] < report["before"]["loss"]
    assert (tmp_path / "run" / report["model"]).is_dir()
