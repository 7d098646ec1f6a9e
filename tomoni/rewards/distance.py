"""KL(policy || start) from the tokens that the policy sampled. Numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tomoni.rewards.answered import Float64


def kl_of(gaps: Sequence[Float64]) -> Float64:
    """[N] of N completions, each with d = log p - log p_start of its tokens: numbers whose mean estimates the divergence,
    in nats a completion.

        sum_t d + lambda (exp(-d) - 1),     lambda = - Cov(d, exp(-d)) / Var(exp(-d))  over all tokens

    exp(-d) - 1 has the expectation 0 under the policy, so that any multiple of it may be added; this one leaves the least
    variance. Near the start lambda is 1, and this is k3 of Schulman 2020 ("Approximating KL"), whose error is a small part
    of that of d alone (k1); far from it, where one token that the start liked much better would outweigh a hundred
    completions in k3, lambda goes to 0.
    """
    if not gaps:
        return np.zeros(0)
    every = np.concatenate(gaps)
    surplus = np.expm1(-every)
    off = surplus - surplus.mean()
    squares = float((off**2).sum())
    share = float(np.clip(-(every * off).sum() / squares, 0.0, 1.0)) if squares > 0 else 1.0
    return np.array([float((gap_T + share * np.expm1(-gap_T)).sum()) for gap_T in gaps])
