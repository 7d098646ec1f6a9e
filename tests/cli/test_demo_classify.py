"""The demo that sorts notices: every arm is measured on the same notices, none of which is among the labelled ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tomoni.cli import demo
from tomoni.hub import BUNDLED, locate

ARMS = [
    "the commonest kind",
    "TF-IDF and a linear classifier",
    "encoder, random weights, tuned",
    "encoder, head only (solved)",
    "encoder, all weights tuned",
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path / "cache"))


def run(folder: Path, *options: str) -> dict[str, Any]:
    assert demo.command(["--task", "classify", "--folder", str(folder), *options]) == 0
    found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


def test_all_bundled_models_together_are_at_most_twenty_megabytes() -> None:
    folders = [locate(f"bundled:{name}").folder for name in BUNDLED]
    assert sum(path.stat().st_size for folder in folders for path in folder.iterdir()) <= 20_000_000


@pytest.mark.slow
def test_a_small_demo_measures_every_arm_and_leaves_a_model_to_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(tmp_path / "demo", "--labelled", "20", "--held-out", "12")
    assert [arm["name"] for arm in result["arms"]] == ARMS
    assert all(arm["asked"] == 12 for arm in result["arms"])
    printed = capsys.readouterr().out
    assert "tomoni predict" in printed
    trained_on = {
        json.loads(line)["text"] for line in (tmp_path / "demo" / "data" / "labelled.jsonl").open(encoding="utf-8")
    }
    measured = {
        json.loads(line)["text"] for line in (tmp_path / "demo" / "data" / "held_out.jsonl").open(encoding="utf-8")
    }
    assert not trained_on & measured


@pytest.mark.slow
def test_what_the_encoder_has_read_puts_it_ahead_of_every_baseline(tmp_path: Path) -> None:
    arms = {arm["name"]: arm for arm in run(tmp_path / "demo")["arms"]}
    tuned = arms["encoder, all weights tuned"]
    for other in ("the commonest kind", "TF-IDF and a linear classifier", "encoder, random weights, tuned"):
        assert tuned["low"] > arms[other]["high"], other
