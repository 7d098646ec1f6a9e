"""A law through a learning curve: exact where it is exact, wide where little is known, silent where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from tomoni.evaluate.powerlaw import Law, NoLaw, Point, fit

SIZES = (62, 125, 250, 500, 1000)


def points(value: object, repeats: int = 3, noise: float = 0.0, seed: int = 0) -> list[Point]:
    random = np.random.default_rng(seed)
    return [
        Point(size, repeat, float(value(size)) + noise / math.sqrt(size) * random.normal())  # type: ignore[operator]
        for size in SIZES
        for repeat in range(repeats)
    ]


def law_of(some: list[Point]) -> Law:
    found = fit(some)
    assert isinstance(found, Law)
    return found


@pytest.mark.parametrize(("a", "b", "c"), [(0.95, 1.2, 0.5), (1.0, 0.8, 0.3), (2.0, -3.0, 0.4), (0.5, 40.0, 1.5)])
def test_points_on_a_law_give_that_law(a: float, b: float, c: float) -> None:
    found = law_of(points(lambda n: a - b * n**-c, repeats=1))
    assert found.coefficients == pytest.approx((a, b, c), rel=1e-6)
    gain = found.gain()
    assert gain.value == pytest.approx(b * 1000**-c - b * 2000**-c, rel=1e-6)
    assert gain.high - gain.low < 1e-6
    assert found.limit.value == pytest.approx(a)


def test_a_straight_line_over_the_doublings_has_no_limit() -> None:
    found = law_of(points(lambda n: 0.2 + 0.05 * math.log2(n), repeats=1))
    assert found.logarithmic
    assert found.gain().value == pytest.approx(0.05)
    assert found.gain(4).value == pytest.approx(0.1)
    assert found.limit.value == math.inf


def test_the_interval_of_the_next_doubling_holds_what_comes_in_19_of_20_worlds() -> None:
    def law(n: float) -> float:
        return 0.95 - 1.2 * n**-0.5

    true = law(2000) - law(1000)
    held = 0
    for seed in range(100):
        gain = law_of(points(law, noise=0.3, seed=seed)).gain()
        held += gain.low <= true <= gain.high
    assert held >= 89  # 95 of 100 are meant; 88 or fewer would come by chance once in 400


def test_another_optimiser_finds_the_same_law() -> None:
    some = points(lambda n: 0.9 - 2 * n**-0.6, noise=0.2, seed=5)
    groups = {size: [p.value for p in some if p.size == size] for size in SIZES}
    pooled = sum(np.var(g) * 3 for g in groups.values()) / 10
    spread = [(np.var(g) * 3 + 2 * pooled) / 4 for g in groups.values()]
    spread[-1] = max(spread[-1], spread[-2] / 2)
    sigma = np.repeat(np.sqrt(spread), 3)
    best, _ = curve_fit(
        lambda n, a, b, c: a - b * n**-c, [p.size for p in some], [p.value for p in some], p0=(0.9, 2, 0.6), sigma=sigma
    )
    found = law_of(some)
    assert found.coefficients[2] == pytest.approx(best[2], abs=0.005)  # the grid's step
    assert found.at(2000) == pytest.approx(best[0] - best[1] * 2000 ** -best[2], abs=1e-4)


def test_points_that_do_not_follow_a_law_are_said_not_to_and_widen_the_interval() -> None:
    straight = law_of(points(lambda n: 0.9 - n**-0.5, noise=0.02, seed=1))
    bent = law_of(points(lambda n: 0.9 - n**-0.5 + (0.02 if n == 250 else 0), noise=0.02, seed=1))
    assert not straight.misfits
    assert bent.misfits
    wide, narrow = bent.value_at(2000), straight.value_at(2000)
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


def test_a_flat_curve_may_bring_nothing() -> None:
    gain = law_of(points(lambda n: 0.5, noise=0.3, seed=3)).gain()
    assert gain.low < 0 < gain.high


@pytest.mark.parametrize(
    "some",
    [
        [],
        [Point(10, 0, 0.1), Point(20, 0, 0.2)],
        [Point(10, 0, 0.1), Point(20, 0, 0.2), Point(40, 0, 0.3)],
        [*points(lambda n: 0.9 - n**-0.5), Point(2000, 0, math.nan)],
    ],
)
def test_too_little_or_broken_is_no_law(some: list[Point]) -> None:
    found = fit(some)
    assert isinstance(found, NoLaw)
    assert found.reason


@given(st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=5), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_other_units_give_the_same_law(values: list[float], scale: float, shift: float) -> None:
    before = fit([Point(size, 0, value) for size, value in zip(SIZES, values, strict=True)])
    after = fit([Point(size, 0, scale * value + shift) for size, value in zip(SIZES, values, strict=True)])
    assert isinstance(before, Law)
    assert isinstance(after, Law)
    room = 1e-5 * (scale * max(map(abs, values)) + abs(shift) + 1)
    assert before.gain().low <= before.gain().value <= before.gain().high
    assert abs(after.value - (scale * before.value + shift)) <= room or after.exponent != before.exponent
