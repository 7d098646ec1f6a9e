"""From rewards to advantages: numpy in float64, over the whole step, before anything is cut for memory."""

from __future__ import annotations

import numpy as np

from tomoni.rewards.answered import Float64

SMALLEST_STD = 1e-4  # added to a standard deviation before it divides, as DeepSeekMath's reference does


def leave_one_out(rewards_BK: Float64) -> Float64:
    """Each reward minus the mean of the others in its group: r_i - sum_{j != i} r_j / (K - 1) (Kool et al. 2019)."""
    K = rewards_BK.shape[1]
    others_BK = (rewards_BK.sum(1, keepdims=True) - rewards_BK) / (K - 1)
    return rewards_BK - others_BK


def group_relative(rewards_BK: Float64, scale: str) -> Float64:
    """Each reward minus its group's mean, divided by the standard deviation of its group ("group"), of the whole step
    ("batch"), or not at all ("none"). A group that agrees has no advantage either way."""
    centred_BK = rewards_BK - rewards_BK.mean(1, keepdims=True)
    match scale:
        case "group":
            return centred_BK / (rewards_BK.std(1, ddof=1, keepdims=True) + SMALLEST_STD)
        case "batch":
            return centred_BK / (rewards_BK.std(ddof=1) + SMALLEST_STD)
        case "none":
            return centred_BK
        case _:
            raise ValueError(scale)


def gae(rewards_T: Float64, values_T: Float64, *, gamma: float, lam: float) -> tuple[Float64, Float64]:
    """Advantages and returns of one episode that ends after its last token (Schulman et al. 2016, equation 16):

    delta_t = r_t + gamma V_{t+1} - V_t,   A_t = delta_t + gamma lambda A_{t+1},   returns = A + V
    """
    advantages_T = np.zeros(len(rewards_T))
    later, next_value = 0.0, 0.0
    for t in reversed(range(len(rewards_T))):
        delta = rewards_T[t] + gamma * next_value - values_T[t]
        later = delta + gamma * lam * later
        advantages_T[t] = later
        next_value = values_T[t]
    return advantages_T, advantages_T + values_T


def whitened(values: Float64, *, shift_mean: bool) -> Float64:
    """Divided by the standard deviation; `shift_mean`: with the mean taken off first.

    Without it only the scale changes, so that a reward of 0 stays 0. (lm-human-preferences takes the mean off and adds
    it again after dividing, which moves every reward by mean - mean / std.)
    """
    std = values.std() + 1e-8
    return (values - values.mean()) / std if shift_mean else values / std
