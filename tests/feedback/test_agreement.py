"""Agreement beside other implementations and published cases."""

from __future__ import annotations

import warnings
from typing import Any

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from tomoni.errors import DataError
from tomoni.feedback.agreement import alpha, fleiss, gwet, kappa, self_consistency


def ratings(items: int, raters: int, values: int, missing: float, seed: int) -> np.ndarray:
    """[raters, items] of a common opinion and noise, NaN where one did not answer."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, values, items)
    found = np.where(rng.random((raters, items)) < 0.6, truth, rng.integers(0, values, (raters, items))).astype(float)
    found[rng.random((raters, items)) < missing] = np.nan
    return found


def units_of(table: np.ndarray) -> list[list[int]]:
    return [[int(one) for one in column if not np.isnan(one)] for column in table.T]


@pytest.mark.parametrize("metric", ["nominal", "ordinal"])
@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("values", [2, 4])
def test_alpha_is_that_of_the_package_krippendorff(metric: Any, missing: float, values: int) -> None:
    for seed in range(3):
        table = ratings(40, 5, values, missing, seed)
        expected = krippendorff.alpha(
            reliability_data=table, level_of_measurement=metric, value_domain=list(range(values))
        )
        assert alpha(units_of(table), metric=metric).value == pytest.approx(expected, abs=1e-9)


def test_alpha_is_that_of_crowd_kit() -> None:
    pandas = pytest.importorskip("pandas")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from crowdkit.metrics.data import alpha_krippendorff
    table = ratings(30, 4, 3, 0.3, 1)
    rows = [(item, rater, table[rater, item]) for rater in range(4) for item in range(30) if table[rater, item] >= 0]
    expected = alpha_krippendorff(pandas.DataFrame(rows, columns=["task", "worker", "label"]))
    assert alpha(units_of(table)).value == pytest.approx(expected, abs=1e-9)


def test_cohens_kappa_is_that_of_scikit_learn() -> None:
    first, second = np.nan_to_num(ratings(80, 2, 3, 0, 3)).astype(int)
    assert kappa(first.tolist(), second.tolist()).value == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)


def test_fleiss_kappa_is_that_of_his_own_table() -> None:
    """Fleiss 1971: 14 raters, 10 subjects, 5 categories; P_o = .378, P_e = .213, kappa = .210."""
    counts = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
    units = [[label for label, count in enumerate(row) for _ in range(count)] for row in counts]
    found = fleiss(units)
    assert found.value == pytest.approx(0.210, abs=5e-4)
    assert found.share == pytest.approx(0.378, abs=5e-4)
    assert (found.items, found.labels) == (10, 140)


def test_gwets_coefficient_stays_high_where_kappa_collapses() -> None:
    """118 items both call good, 5 + 2 on which they differ, 0 both call bad (Gwet 2008 has such a case), by hand:
    P_o = 118/125 = .944; pi = 243/250; P_e = 2 (.972)(.028) = .054432; AC1 = (.944 - .054432) / (1 - .054432)."""
    units = [["good", "good"]] * 118 + [["good", "bad"]] * 5 + [["bad", "good"]] * 2
    assert gwet(units).value == pytest.approx((0.944 - 0.054432) / (1 - 0.054432), abs=1e-9)
    low = kappa([a for a, _ in units], [b for _, b in units]).value
    assert low is not None and low < 0


def test_gwets_coefficient_counts_labels_that_nobody_gave() -> None:
    units = [["左", "左"], ["左", "右"], ["右", "右"]]
    two, three = gwet(units), gwet(units, values=["左", "右", "同じ"])
    # pi = 1/2 each: P_e = .5 over one other label, .25 over two
    assert two.value == pytest.approx((2 / 3 - 0.5) / 0.5)
    assert three.value == pytest.approx((2 / 3 - 0.25) / 0.75)


@pytest.mark.parametrize("seed", range(3))
def test_intervals_by_item_are_those_of_a_bootstrap_written_out(seed: int) -> None:
    table = ratings(60, 3, 2, 0.1, seed)
    units = units_of(table)
    rng = np.random.default_rng(seed + 100)
    drawn = [alpha([units[i] for i in rng.integers(0, 60, 60)], resamples=1).value for _ in range(400)]
    found = alpha(units)
    low, high = np.quantile([one for one in drawn if one is not None], [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low, abs=0.06), pytest.approx(high, abs=0.06))


def test_intervals_hold_the_truth_about_95_times_in_a_hundred() -> None:
    # two raters who each copy a balanced truth with probability .8 and else toss a coin: alpha = .8^2
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 2, 150)
        both = np.where(rng.random((2, 150)) < 0.8, truth, rng.integers(0, 2, (2, 150)))
        found = alpha(both.T.tolist(), resamples=300)
        assert found.low is not None and found.high is not None
        held += found.low < 0.64 < found.high
    assert 0.9 < held / 200 < 0.99


@given(st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=12))
@settings(max_examples=80, deadline=None)
def test_no_collection_of_labels_breaks_a_coefficient(units: list[list[int]]) -> None:
    for found in (alpha(units, metric="ordinal", resamples=20), fleiss(units, resamples=20), gwet(units, resamples=20)):
        assert found.value is None or (np.isfinite(found.value) and found.value <= 1 + 1e-12)


def test_where_nothing_can_be_said_no_number_is_given() -> None:
    assert alpha([]).value is None and alpha([["a"], ["b"]]).items == 0
    assert alpha([["a", "a"], ["a", "a"]]).value is None  # krippendorff refuses it as well
    assert gwet([["a", "a"], ["a", "a"]]).value == 1
    assert alpha([["a", "b"]]).low is None


def test_swapped_repeats_give_a_persons_consistency_with_himself() -> None:
    repeats = [("first", "first")] * 6 + [("second", "second")] * 6 + [("first", "second")] * 2 + [("tie", "first")]
    found = self_consistency(repeats)
    assert found.share == pytest.approx(12 / 15)
    assert found.value == pytest.approx(cohen_kappa_score(*zip(*repeats, strict=True)))


def test_labels_outside_the_scale_and_lists_of_two_lengths_are_named() -> None:
    with pytest.raises(DataError, match="'5'"):
        alpha([[1, 5]], values=[1, 2, 3])
    with pytest.raises(DataError, match="2 labels beside 1"):
        kappa(["a", "b"], ["a"])
