"""How far a line of versions has come since its first: against figures by hand and by a general optimiser."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from tomoni.loop.evidence import Said
from tomoni.loop.since_first import FIRST, Met, against, met


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_a_version_that_met_the_first_alone_is_as_good_as_what_was_judged() -> None:
    # (69.5 + .5) / (99 + 1) = .7; standard error of the logit 1 / sqrt(100 * .7 * .3)
    found = against("v1", [Met("v2", "v1", 69.5, 99)])["v2"]
    error = 1.959964 / math.sqrt(100 * 0.7 * 0.3)
    assert found.value == pytest.approx(0.7, abs=1e-9)
    assert logit(found.low) == pytest.approx(logit(0.7) - error, abs=1e-6)
    assert logit(found.high) == pytest.approx(logit(0.7) + error, abs=1e-6)


def test_along_a_line_strengths_add_up_and_so_do_their_variances() -> None:
    found = against("v1", [Met("v2", "v1", 59.5, 99), Met("v3", "v2", 69.5, 99)])["v3"]
    assert logit(found.value) == pytest.approx(logit(0.6) + logit(0.7), abs=1e-9)
    error = 1.959964 * math.sqrt(1 / 24 + 1 / 21)
    assert logit(found.high) - logit(found.value) == pytest.approx(error, abs=1e-6)


def test_direct_pairs_make_it_surer() -> None:
    line = [Met("v2", "v1", 60, 100), Met("v3", "v2", 70, 100)]
    alone, both = (against("v1", known)["v3"] for known in (line, [*line, Met("v3", "v1", 16, 20)]))
    assert alone.low < both.low < both.value < both.high < alone.high


def test_a_version_that_nothing_connects_with_the_first_is_left_out() -> None:
    found = against("v1", [Met("v2", "v1", 3, 4), Met("v9", "v8", 3, 4), Met("v3", "v1", 0, 0)])
    assert set(found) == {"v2"}
    assert against("v1", []) == {}


def test_who_always_wins_is_not_infinitely_better() -> None:
    found = against("v1", [Met("v2", "v1", 20, 20)])["v2"]
    assert found.value == pytest.approx(20.5 / 21) and found.high < 1


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=12
    )
)
def test_strengths_are_the_likeliest(games: list[tuple[int, int, int, int]]) -> None:
    known = [Met(f"v{new}", f"v{old}", won, won + lost) for new, old, won, lost in games if new != old]
    found = against("v0", known)
    names = sorted(found)
    used = [one for one in known if one.n and {one.new, one.old} <= {*names, "v0"}]

    def cost(strength_V: np.ndarray) -> float:
        at = {"v0": 0.0, **dict(zip(names, strength_V, strict=True))}
        gaps = [(one, at[one.new] - at[one.old]) for one in used]
        return sum(
            (one.won + 0.5) * np.logaddexp(0, -gap) + (one.n - one.won + 0.5) * np.logaddexp(0, gap)
            for one, gap in gaps
        )

    if names:
        ours = cost(np.array([logit(found[name].value) for name in names]))
        assert ours <= minimize(cost, np.zeros(len(names)), method="BFGS").fun + 1e-6


def test_a_pair_counts_once_and_what_is_passed_over_or_chosen_otherwise_does_not() -> None:
    said = [
        Said(1, "a", "Aoi", 1.0),
        Said(2, "a~again", "Ren", 0.0),
        Said(3, "b", "Aoi", 1.0),
        Said(4, "c", "Aoi", 0.5, skipped=True),
        Said(5, "d", "Aoi", 0.0, selected_by=FIRST),
    ]
    assert met("v2", "v1", said) == Met("v2", "v1", 1.5, 2)
    assert met("v2", "v1", said, FIRST) == Met("v2", "v1", 0.0, 1)
