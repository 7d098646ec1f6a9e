"""What the head knows, in figures that are worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tomoni.feedback.people import Judged, People
from tomoni.loop.understanding import understood


def said(person: str, y: float, *, gold: bool = False) -> Judged:
    return Judged(person, np.zeros(2), y, expected=1.0 if gold else None)


def taste(skills: dict[str, float], probabilities: list[float]) -> People:
    """A fit of which only the skills, and the probability of each first answer by all others, are known."""
    fit = SimpleNamespace(
        of=lambda person: SimpleNamespace(kappa=skills[person]),
        gaps=SimpleNamespace(probability_N=np.array(probabilities)),
    )
    return cast(Any, fit)


def test_each_answer_is_foretold_through_the_slips_of_who_gave_it() -> None:
    judged = [said("a", 1.0), said("b", 0.0), said("a", 0.0), said("a", 0.5), said("a", 1.0, gold=True)]
    found = understood(judged, taste({"a": 1.0, "b": 0.5}, [0.9, 0.8, 0.32, 0.6, 0.99]))
    assert found is not None
    assert found.n == 3  # neither the tie nor the known answer
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.ceiling == pytest.approx((1 + 0.75 + 1) / 3)
    assert found.ece == pytest.approx((abs(1 - 0.9) + abs((0 - 0.65) + (1 - 0.68))) / 3)
    assert found.loss == pytest.approx(-(math.log(0.9) + math.log(0.35) + math.log(0.68)) / 3)


def test_nothing_is_said_where_everything_is_a_tie() -> None:
    assert understood([said("a", 0.5)], taste({"a": 1.0}, [0.7])) is None
