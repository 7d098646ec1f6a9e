"""Intervals and tests against other implementations and against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tomoni.evaluate.metrics import mcnemar, most_frequent, paired_bootstrap, perplexity, same_answer, wilson


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [  # scipy 1.17: binomtest(right, total).proportion_ci(method="wilson")
        (0, 20, 0.0, 0.161125158),
        (1, 3, 0.061491945, 0.792340399),
        (499, 500, 0.988759293, 0.999646864),
        (5, 5, 0.565517535, 1.0),
        (263, 1319, 0.178717982, 0.221814867),
    ],
)
def test_wilsons_interval_is_scipys(right: int, total: int, low: float, high: float) -> None:
    ours = wilson(right, total)
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=1e-8)
    assert ours.value == right / total


def test_wilsons_interval_by_hand() -> None:
    """80 of 100, z = 1.96: centre (.8 + .019208) / 1.038416 = .7889; half 1.96 sqrt(.0016 + .000096) / 1.038416 = .0777."""
    ours = wilson(80, 100)
    assert (round(ours.low, 3), round(ours.high, 3)) == (0.711, 0.867)


def test_nothing_tried_says_nothing() -> None:
    ours = wilson(0, 0)
    assert math.isnan(ours.value)
    assert (ours.low, ours.high) == (0, 1)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(30, 12, 0.007915897334896727), (200, 150, 0.008720036530555947), (0, 1, 1.0)],  # scipy 1.17: binomtest
)
def test_mcnemar_is_scipys_binomial_test(only_first: int, only_second: int, p: float) -> None:
    first = [True] * only_first + [False] * only_second
    assert mcnemar(first, [not right for right in first]) == pytest.approx(p)


def test_mcnemar_counts_only_questions_that_tell_the_models_apart() -> None:
    """6 against 1: 2 * (C(7,0) + C(7,1)) / 2^7 = 16 / 128."""
    first = [True] * 6 + [False] + [True] * 50 + [False] * 9
    second = [False] * 6 + [True] + [True] * 50 + [False] * 9
    assert mcnemar(first, second) == pytest.approx(16 / 128)
    assert mcnemar(second, first) == pytest.approx(16 / 128)
    assert mcnemar([True, False], [True, False]) == 1.0


def test_the_paired_bootstrap_finds_the_difference_that_pairing_shows() -> None:
    noise = np.random.default_rng(0)
    first = noise.normal(0, 10, 400)
    second = first + 0.5 + noise.normal(0, 0.5, 400)
    ours = paired_bootstrap(first.tolist(), second.tolist())
    # the normal approximation of the mean of differences
    differences = second - first
    half = 1.96 * differences.std(ddof=1) / math.sqrt(400)
    assert ours.value == pytest.approx(differences.mean())
    assert (ours.low, ours.high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.01)
    assert ours == paired_bootstrap(first.tolist(), second.tolist())


@pytest.mark.parametrize(
    ("answer", "desired", "same"),
    [
        ("午前9時", "午前９時", True),
        ("ﾊﾟﾝ", "パン", True),
        ("か\u3099", "が", True),
        (" two  words\n", "two words", True),
        ("午前9時", "午後9時", False),
        ("はは", "ばば", False),
        ("Yes", "yes", False),
        ("", "yes", False),
    ],
)
def test_an_answer_matches_but_for_forms_that_readers_do_not_tell_apart(answer: str, desired: str, same: bool) -> None:
    assert same_answer(answer, desired) is same


def test_the_most_frequent_answer_counts_forms_together() -> None:
    assert most_frequent(["a", "カ", "ｶ", "b", "カ"]) == "カ"


def test_perplexity_is_the_number_of_equally_likely_tokens() -> None:
    assert perplexity(math.log(50)) == pytest.approx(50)
    assert perplexity(1e6) == math.inf
