"""From rewards to advantages, against direct sums and plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tomoni.rewards.advantages import gae, group_relative, leave_one_out, whitened

NUMBERS = st.floats(-100, 100, width=32)
GROUPS = st.tuples(st.integers(1, 5), st.integers(2, 8)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=NUMBERS)
)


@given(
    st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=12), st.floats(0, 1, width=32), st.floats(0, 1, width=32)
)
def test_advantages_are_the_discounted_sum_of_errors(
    steps: list[tuple[float, float]], gamma: float, lam: float
) -> None:
    rewards, values = np.array(steps).T
    T = len(steps)
    errors = [rewards[t] + gamma * (values[t + 1] if t + 1 < T else 0.0) - values[t] for t in range(T)]
    expected = [sum((gamma * lam) ** (later - t) * errors[later] for later in range(t, T)) for t in range(T)]
    advantages, returns = gae(rewards, values, gamma=gamma, lam=lam)
    np.testing.assert_allclose(advantages, expected, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(returns, advantages + values, rtol=1e-9, atol=1e-6)


def test_without_discount_the_return_is_the_sum_of_what_comes() -> None:
    rewards, values = np.array([0.5, 0.0, -1.0, 2.0]), np.array([7.0, -3.0, 2.0, 0.1])
    _, returns = gae(rewards, values, gamma=1.0, lam=1.0)
    np.testing.assert_allclose(returns, [1.5, 1.0, 1.0, 2.0])


@given(GROUPS)
def test_each_reward_is_compared_with_the_others_of_its_group(rewards_BK: np.ndarray) -> None:
    for row, found in zip(rewards_BK.tolist(), leave_one_out(rewards_BK), strict=True):
        for place, reward in enumerate(row):
            others = row[:place] + row[place + 1 :]
            assert found[place] == pytest.approx(reward - sum(others) / len(others), rel=1e-9, abs=1e-6)


@given(GROUPS, NUMBERS)
def test_a_groups_advantages_sum_to_nothing_and_forget_its_level(rewards_BK: np.ndarray, shift: float) -> None:
    for find in (leave_one_out, lambda r: group_relative(r, "none")):
        np.testing.assert_allclose(find(rewards_BK).sum(1), 0, atol=1e-6)
        np.testing.assert_allclose(find(rewards_BK + shift), find(rewards_BK), atol=1e-6)


def test_the_scales_of_a_group_by_hand() -> None:
    rewards_BK = np.array([[1.0, 0.0, 0.0, 1.0], [3.0, 3.0, 3.0, 3.0]])
    std = (1 / 3) ** 0.5  # of the first group, by 1 / (K - 1)
    np.testing.assert_allclose(group_relative(rewards_BK, "group")[0], np.array([1, -1, -1, 1]) * 0.5 / (std + 1e-4))
    assert not group_relative(rewards_BK, "group")[1].any()
    whole = np.array([1, 0, 0, 1, 3, 3, 3, 3]).std(ddof=1)
    np.testing.assert_allclose(group_relative(rewards_BK, "batch")[0], np.array([1, -1, -1, 1]) * 0.5 / (whole + 1e-4))


@given(arrays(np.float64, st.integers(2, 30), elements=NUMBERS))
def test_whitening_never_adds_the_mean_back(values: np.ndarray) -> None:
    if values.std() < 1e-3:
        return
    scaled = whitened(values, shift_mean=False)
    np.testing.assert_allclose(scaled * values.std(), values, rtol=1e-4, atol=1e-6)  # a reward of 0 stays 0
    centred = whitened(values, shift_mean=True)
    assert abs(centred.mean()) < 1e-6
    assert centred.std() == pytest.approx(1, rel=1e-4)


def test_rewards_that_are_all_alike_teach_nothing() -> None:
    assert not whitened(np.full(5, 0.7), shift_mean=True).any()
    assert np.isfinite(whitened(np.zeros(5), shift_mean=False)).all()
