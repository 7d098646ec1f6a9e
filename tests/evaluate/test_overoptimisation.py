"""The curve of score against distance, and the rule that stops a run, on series that were made."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomoni.evaluate.overoptimisation import (
    Curve,
    Estimate,
    Form,
    NoCurve,
    Point,
    at_equal_length,
    best_of_n_kl,
    fit,
    overoptimised,
    paired,
    t_975,
)

DISTANCES = np.array([0.3, 0.6, 1.0, 1.5, 2.0, 2.6, 3.1, 3.5, 4.0, 4.4])


def of(form: Form, alpha: float, beta: float, d: np.ndarray) -> np.ndarray:
    return d * (alpha - beta * (np.log(d) if form == "rl" else d))


def fitted(form: Form, alpha: float, beta: float, noise: float = 0.0, seed: int = 0) -> Curve:
    scores = of(form, alpha, beta, DISTANCES) + np.random.default_rng(seed).normal(0, noise, len(DISTANCES))
    curve = fit(DISTANCES.tolist(), scores.tolist(), form)
    assert isinstance(curve, Curve)
    return curve


@given(
    alpha=st.floats(0.05, 5),
    beta=st.floats(0.02, 2),
    form=st.sampled_from(["rl", "best_of_n"]),
    scale=st.floats(0.01, 100),
)
@settings(max_examples=50, deadline=None)
def test_without_noise_alpha_and_beta_are_found_whatever_the_scale(
    alpha: float, beta: float, form: Form, scale: float
) -> None:
    d = DISTANCES * scale
    curve = fit(d.tolist(), of(form, alpha, beta, d).tolist(), form)
    assert isinstance(curve, Curve)
    assert curve.alpha.value == pytest.approx(alpha, rel=1e-6)
    assert curve.beta.value == pytest.approx(beta, rel=1e-6)


@pytest.mark.parametrize(("form", "alpha", "beta"), [("rl", 0.8, 0.45), ("best_of_n", 0.8, 0.15)])
def test_the_peak_is_where_a_search_along_the_curve_finds_it(form: Form, alpha: float, beta: float) -> None:
    curve = fitted(form, alpha, beta)
    grid = np.linspace(0.01, 8, 200_001)
    values = of(form, alpha, beta, grid)
    assert curve.peak == pytest.approx(grid[values.argmax()], abs=1e-4)
    assert curve.peak_gain == pytest.approx(values.max(), rel=1e-6)


@pytest.mark.parametrize(("form", "alpha", "beta"), [("rl", 0.8, 0.45), ("best_of_n", 0.8, 0.15)])
def test_intervals_hold_the_truth_in_about_95_of_100_series(form: Form, alpha: float, beta: float) -> None:
    peak = math.exp(alpha / beta - 1) if form == "rl" else alpha / (2 * beta)
    held = {"alpha": 0, "beta": 0, "peak": 0}
    for seed in range(400):
        curve = fitted(form, alpha, beta, noise=0.04, seed=seed)
        held["alpha"] += abs(curve.alpha.value - alpha) < curve.t * curve.alpha.se
        held["beta"] += abs(curve.beta.value - beta) < curve.t * curve.beta.se
        assert curve.peak_interval is not None
        held["peak"] += curve.peak_interval[0] < peak < curve.peak_interval[1]
    # 400 draws at .95 have a standard deviation of .011
    assert all(0.91 < count / 400 < 0.985 for count in held.values()), held


def test_points_that_are_unsure_themselves_make_the_curve_unsure_however_well_they_lie_on_it() -> None:
    scores = of("rl", 0.8, 0.45, DISTANCES)
    sure = fit(DISTANCES.tolist(), scores.tolist())
    unsure = fit(DISTANCES.tolist(), scores.tolist(), errors=[1.5] * len(DISTANCES))
    assert isinstance(sure, Curve) and isinstance(unsure, Curve)
    assert sure.alpha.value == unsure.alpha.value and unsure.noise == pytest.approx(1.5)
    assert sure.bends and not unsure.bends and unsure.peak is None and unsure.peak_interval is None
    # the covariance of least squares, written out
    design = np.stack([DISTANCES, -DISTANCES * np.log(DISTANCES)], axis=1)
    expected = 1.5**2 * np.linalg.inv(design.T @ design)
    assert [unsure.alpha.se, unsure.beta.se] == pytest.approx(np.sqrt(np.diag(expected)).tolist())
    assert unsure.covariance == pytest.approx(expected[0, 1])


def test_points_that_follow_another_curve_are_told_from_points_that_scatter() -> None:
    steps = np.where(DISTANCES < 3, 0.5, -1.0).tolist()
    other, right = (
        fit(DISTANCES.tolist(), r, errors=[0.05] * 10) for r in (steps, of("rl", 0.8, 0.45, DISTANCES).tolist())
    )
    assert isinstance(other, Curve) and isinstance(right, Curve)
    assert other.is_rough and not right.is_rough


def test_too_few_or_too_narrow_points_are_said_and_not_fitted() -> None:
    few = fit([0.0, 0.0, 0.5, 1.0, 2.0, 3.0], [0.0, 0.0, 1, 1, 1, 1])
    assert few == NoCurve("too few points: 4 of at least 5 evaluations away from the start")
    narrow = fit([2.0, 2.1, 2.2, 2.3, 2.4, 2.9], [1.0, 2, 3, 2, 1, 0])
    assert isinstance(narrow, NoCurve) and "from 2 to 2.9" in narrow.reason
    unknown = fit([1.0, 2, 3, 4, math.nan], [1.0] * 5)
    assert isinstance(unknown, NoCurve)


def test_a_rising_line_has_no_peak() -> None:
    curve = fit(DISTANCES.tolist(), (0.3 * DISTANCES + np.tile([0.02, -0.02], 5)).tolist())
    assert isinstance(curve, Curve) and curve.peak is None


@pytest.mark.parametrize("n", [1, 2, 4, 64])
def test_the_distance_of_the_best_of_n_is_the_integral_of_its_density(n: int) -> None:
    # the best of n uniform draws has the density n u^(n-1)
    u = (np.arange(2_000_000) + 0.5) / 2_000_000
    density = n * u ** (n - 1)
    terms = np.where(density > 0, density * np.log(np.where(density > 0, density, 1)), 0)
    assert best_of_n_kl(n) == pytest.approx(float(terms.mean()), abs=1e-5)


def test_quantiles_are_those_of_the_printed_table() -> None:
    table = {3: 3.182, 4: 2.776, 5: 2.571, 7: 2.365, 10: 2.228, 20: 2.086, 60: 2.000}
    assert {freedom: t_975(freedom) for freedom in table} == pytest.approx(table, rel=2e-3)


def test_a_paired_difference_by_hand() -> None:
    # differences 1, 0, 2: mean 1, standard deviation 1, standard error 1 / sqrt 3
    found = paired([2.0, 1.0, 4.0], [1.0, 1.0, 2.0])
    assert found == pytest.approx((1.0, 1 / math.sqrt(3)))
    assert paired([2.0], [1.0]).se == math.inf


def test_the_gain_at_equal_length_is_the_intercept_of_a_regression() -> None:
    rng = np.random.default_rng(3)
    longer = rng.normal(0.6, 0.4, 50)
    gains = 0.25 + 0.5 * longer + rng.normal(0, 0.1, 50)
    found = at_equal_length(gains.tolist(), longer.tolist())
    slope, intercept = np.polyfit(longer, gains, 1)
    design = np.stack([np.ones(50), longer], axis=1)
    noise = ((gains - design @ [intercept, slope]) ** 2).sum() / 48
    assert found.value == pytest.approx(intercept)
    assert found.se == pytest.approx(math.sqrt(noise * np.linalg.inv(design.T @ design)[0, 0]))
    assert abs(found.value - 0.25) < 4 * found.se


def test_a_reward_that_is_length_gains_nothing_at_equal_length() -> None:
    longer = np.random.default_rng(4).normal(0.6, 0.4, 50)
    assert at_equal_length((2 * longer).tolist(), longer.tolist()).value == pytest.approx(0, abs=1e-9)


def test_where_all_grew_by_the_same_factor_gain_and_length_cannot_be_told_apart() -> None:
    assert math.isnan(at_equal_length([1.0, 2.0, 3.0], [0.5, 0.5, 0.5]).value)
    assert at_equal_length([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]) == pytest.approx((2.0, 1 / math.sqrt(3)))


# the rule


def series(levels: list[float], *, noise: float, distances: list[float] | None = None, seed: int = 0) -> list[Point]:
    """Points as a run makes them: 100 prompts, each with an own level, measured at the start and after."""
    rng = np.random.default_rng(seed)
    own = rng.normal(0, 1, 100)
    start = own + rng.normal(0, noise, 100)
    best, points = start, []
    for step, level in enumerate(levels, 1):
        now = own + level + rng.normal(0, noise, 100)
        fall = paired(now.tolist(), best.tolist())
        best = now if fall.value > 0 else best
        gain = paired(now.tolist(), start.tolist())
        distance = distances[step - 1] if distances else 1.0
        points.append(Point(step, distance**2, gain, gain, None, fall))
    return points


def first_alarm(points: list[Point]) -> int | None:
    return next((count for count in range(1, len(points) + 1) if overoptimised(points[:count])), None)


def test_a_score_that_falls_twice_raises_the_alarm_at_the_second_fall_and_not_before() -> None:
    points = series([0.5, 1.0, 0.6, 0.2], noise=0.3)
    assert first_alarm(points) == 4
    reason = overoptimised(points)
    assert reason is not None and "fallen twice" in reason and "steps 3 and 4" in reason


def test_one_fall_that_is_made_good_raises_none() -> None:
    assert first_alarm(series([0.5, 1.0, 0.6, 1.2, 1.5, 1.0, 1.6], noise=0.3)) is None


def test_a_policy_that_is_worse_than_its_start_raises_it_although_no_evaluation_was_better() -> None:
    assert first_alarm(series([-0.5, -0.8], noise=0.3)) == 2


def test_a_score_that_stands_still_seldom_raises_it() -> None:
    alarms = sum(first_alarm(series([1.0] * 12, noise=0.5, seed=seed)) is not None for seed in range(300))
    assert alarms / 300 < 0.05


def test_a_fall_of_a_quarter_of_the_spread_is_mostly_seen_within_two_evaluations() -> None:
    alarms = sum(first_alarm(series([0.5, 1.0, 0.75, 0.75], noise=0.5, seed=seed)) is not None for seed in range(200))
    assert alarms / 200 > 0.65


def test_one_sure_fall_is_enough_where_the_policy_stands_beyond_the_fitted_peak() -> None:
    d = np.array([0.3, 0.6, 1.0, 1.4, 1.9, 2.4])
    points = series(of("rl", 1.0, 1.0, d).tolist(), noise=0.05, distances=d.tolist())  # the peak is at 1
    assert overoptimised(points) is not None
    # with every fall but the last unsure it is the curve that speaks
    unsure = [replace(point, fall=Estimate(point.fall.value, 10.0)) for point in points[:-1]]
    reason = overoptimised([*unsure, points[-1]])
    assert reason is not None and "beyond the fitted peak" in reason
    assert overoptimised([*unsure, replace(points[-1], fall=Estimate(-0.1, 10.0))]) is None
    assert overoptimised([*unsure[2:], points[-1]]) is None, "too few for a curve"


@pytest.mark.parametrize("noise", [0.3, 0.6])
def test_a_score_that_rises_to_a_level_and_stays_there_seldom_raises_it(noise: float) -> None:
    d = np.linspace(0.3, 4, 14)
    levels = np.minimum(d, 1.0).tolist()
    alarms = [first_alarm(series(levels, noise=noise, distances=d.tolist(), seed=seed)) for seed in range(200)]
    assert sum(alarm is not None for alarm in alarms) / 200 < 0.12
