"""What the demos of learning from people and from a reward claim, on enough questions to tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tomoni.cli import demo


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path / "cache"))


def run(folder: Path, *options: str) -> dict[str, Any]:
    assert demo.command(["--folder", str(folder), *options]) == 0
    found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_courtesy_is_learnt_from_a_reward_and_the_facts_are_kept(tmp_path: Path, method: str) -> None:
    result = run(tmp_path / "demo", "--task", "politeness", "--method", method, "--held-out", "2000")
    share = result["share"]["all"]
    assert result["questions"] >= 1_000
    assert share["before"]["high"] < 0.50
    assert share["after"]["value"] > 0.90
    change = result["right"]["change"]  # of 1, paired
    assert change["value"] > -0.02 and change["low"] > -0.03  # on more questions the bound, too, is above -.02 (LOG.md)
    assert result["right"]["before"]["value"] > 0.85  # so that there was something to lose


@pytest.mark.slow
def test_a_persons_taste_is_learnt_from_that_persons_choices_alone(tmp_path: Path) -> None:
    result = run(tmp_path / "demo", "--task", "preferences")
    agreement, won = result["agreement"], result["win_rate"]
    assert agreement["reward model"]["low"] > agreement["the longer answer wins"]["high"]
    assert won["after DPO"]["low"] > 0.70
    # drawing again changes nothing that the taste would see
    assert won["before, drawn again"]["low"] < 0.5 < won["before, drawn again"]["high"]
