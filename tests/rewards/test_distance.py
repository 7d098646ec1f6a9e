"""The estimate of the divergence, where its value is known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from tomoni.rewards.distance import kl_of


def languages(apart: float) -> tuple[np.ndarray, np.ndarray]:
    """Next-token probabilities of a policy and its start, the first `apart` from the second in the logits."""
    rng = np.random.default_rng(0)
    logits, other = rng.normal(0, 1, 200), rng.normal(0, 1, 200)
    both = [np.exp(one - np.logaddexp.reduce(one)) for one in (logits + apart * other, logits)]
    return both[0], both[1]


def estimates(apart: float, *, draws: int = 300) -> tuple[float, dict[str, np.ndarray]]:
    """The exact divergence of a completion of 20 tokens, and estimates from 60 completions each."""
    policy, start = languages(apart)
    exact = 20 * float((policy * np.log(policy / start)).sum())
    gap = np.log(policy / start)
    rng = np.random.default_rng(1)
    found: dict[str, list[float]] = {"ours": [], "k1": [], "k3": []}
    for _ in range(draws):
        gaps = gap[rng.choice(200, (60, 20), p=policy)]
        found["ours"].append(float(kl_of(list(gaps)).mean()))
        found["k1"].append(float(gaps.sum(1).mean()))
        found["k3"].append(float((np.exp(-gaps) - 1 + gaps).sum(1).mean()))
    return exact, {name: np.array(values) for name, values in found.items()}


def error(values: np.ndarray, exact: float) -> float:
    return float(np.sqrt(((values - exact) ** 2).mean()))


@pytest.mark.parametrize("apart", [0.05, 0.3, 1.0, 1.5])
def test_it_is_right_on_average_and_at_least_as_near_as_either_plain_estimate(apart: float) -> None:
    exact, found = estimates(apart)
    assert found["ours"].mean() == pytest.approx(exact, rel=0.02)
    assert error(found["ours"], exact) < 1.05 * min(error(found["k1"], exact), error(found["k3"], exact))


def test_near_the_start_its_error_is_a_small_part_of_that_of_the_plain_difference() -> None:
    exact, found = estimates(0.05)
    assert error(found["ours"], exact) < 0.1 * error(found["k1"], exact)


def test_far_from_the_start_one_unlikely_token_does_not_outweigh_all_others() -> None:
    exact, found = estimates(3.0)
    assert error(found["ours"], exact) < 0.05 * exact
    assert error(found["ours"], exact) < 0.15 * error(found["k3"], exact)


def test_a_policy_that_has_not_moved_has_no_distance_and_no_completions_have_none() -> None:
    assert kl_of([np.zeros(3), np.zeros(1)]).tolist() == [0.0, 0.0]
    assert kl_of([]).tolist() == []
