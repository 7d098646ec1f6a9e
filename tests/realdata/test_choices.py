"""A reward model with a real encoder on what people really chose: read, learnt from, saved, opened and measured. How good
one becomes takes minutes, and stands in docs/methods/reward.md (bench/people.py)."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench import people

pytestmark = pytest.mark.realdata


def test_people_s_choices_are_all_accounted_for(realdata: Path) -> None:
    for name, lines in (("hh_rlhf", 1800), ("pandalm", 799)):
        found, left_out = people.SETS[name](realdata)
        assert len(found) + sum(left_out.values()) == lines
        assert len(found) > 0.8 * lines and all(one.chosen.strip() and one.rejected.strip() for one in found)
        share = sum(one.held_out for one in found) / len(found)
        assert 0.1 < share < 0.3


def test_words_tell_better_than_chance_what_people_choose_and_length_alone_hardly(realdata: Path) -> None:
    found, _ = people.hh_rlhf(realdata)
    train, test = ([one for one in found if one.held_out is held_out] for held_out in (False, True))
    right = people.by_words(train, test)
    assert sum(right) / len(right) > 0.55


def test_minilm_s_head_learns_from_people_and_scores_as_it_was_measured(
    realdata: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(people, "LONGEST", 96)
    monkeypatch.setitem(people.EPOCHS, "head", 2.0)
    found, _ = people.pandalm(realdata)
    short = [one for one in found if len(one.chosen) + len(one.rejected) < 300]
    train, test = short[:48], short[48:72]
    told = people.by_model(train, test, "head", 0, tmp_path)
    assert told["loss"] < 1.5 and 0 <= told["ece"] <= 0.5 and math.isfinite(told["brier"])
    assert sum(told["right"]) / len(test) == pytest.approx(told["accuracy"], abs=1e-6)
