"""Repetition, variety and what length brings, against numbers counted by hand or found another way."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tomoni.report import Stats
from tomoni.rewards.variety import length_slope, variety


def test_repetition_is_the_share_of_a_completions_phrases_that_were_there_before() -> None:
    # abcabcabc: abca bcab cabc abca bcab cabc, 3 of 6; abcde: abcd bcde, none; xy: no phrase of four, not counted
    found = variety([[1, 2, 3] * 3, [1, 2, 3, 4, 5], [8, 9]])
    assert found["completions/repetition"].value == pytest.approx((3 / 6 + 0) / 2)


def test_distinct_n_is_over_all_completions_together() -> None:
    # tokens 1 2 1 | 1 2: 2 of 5 different; pairs 12 21 | 12: 2 of 3, and no pair goes from one completion to the next
    found = variety([[1, 2, 1], [1, 2]])
    assert found["completions/distinct_1"].value == pytest.approx(2 / 5)
    assert found["completions/distinct_2"].value == pytest.approx(2 / 3)


def test_completions_of_one_token_have_no_pairs_and_say_nothing_of_them() -> None:
    assert set(variety([[1], [2]])) == {"completions/distinct_1"}


def by_dummies(rewards_BK: np.ndarray, logs_BK: np.ndarray) -> float:
    """Ordinary least squares with a constant for each prompt."""
    B, K = rewards_BK.shape
    design = np.concatenate([logs_BK.reshape(-1, 1), np.kron(np.eye(B), np.ones((K, 1)))], axis=1)
    return float(np.linalg.lstsq(design, rewards_BK.reshape(-1), rcond=None)[0][0])


def test_the_slope_is_that_of_a_regression_with_a_constant_for_each_prompt() -> None:
    rng = np.random.default_rng(1)
    logs_BK = rng.normal(3, 0.5, (6, 4))
    # prompts with long answers are worth less here: read between prompts, the slope would have the other sign
    rewards_BK = 0.7 * logs_BK - 5 * logs_BK.mean(1, keepdims=True) + rng.normal(0, 0.1, (6, 4))
    found = length_slope(rewards_BK, logs_BK)
    assert found.value == pytest.approx(by_dummies(rewards_BK, logs_BK))
    assert found.value > 0.4 and np.polyfit(logs_BK.ravel(), rewards_BK.ravel(), 1)[0] < 0


def test_steps_add_up_to_the_slope_over_all_their_prompts() -> None:
    rng = np.random.default_rng(2)
    logs_BK, rewards_BK = rng.normal(3, 0.5, (7, 5)), rng.normal(0, 1, (7, 5))
    parts = Stats(slope=length_slope(rewards_BK[:2], logs_BK[:2])) + Stats(
        slope=length_slope(rewards_BK[2:], logs_BK[2:])
    )
    assert parts["slope"].value == pytest.approx(by_dummies(rewards_BK, logs_BK))


def test_completions_that_are_all_as_long_tell_no_slope() -> None:
    assert math.isnan(length_slope(np.array([[1.0, 2.0]]), np.array([[3.0, 3.0]])).value)
    assert "slope" not in Stats(slope=length_slope(np.array([[1.0, 2.0]]), np.array([[3.0, 3.0]]))).finite()
