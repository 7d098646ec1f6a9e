"""The win rate that would be if both answers were of the same length. Numpy only.

    logit P(candidate wins) = theta + b tanh(dlen / sd)          dlen: log length of the candidate's over the base's answer

theta is what is left at dlen = 0 (the idea is AlpacaEval's; the fit is our own). Ties are half a win and half a loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from tomoni.feedback.arrays import Float

THETA_PRIOR = 3.0  # standard deviations: wide, so that a few judgements that all agree still have an answer
SLOPE_PRIOR = 2.0
ONE_SIDED = 1.6448536269514722  # 95 %


@dataclass(frozen=True, slots=True)
class Controlled:
    """`rate` with its one-sided 95 % lower bound `low`; `slope`: log odds from a far longer answer; `theta` in log odds."""

    rate: float
    low: float
    theta: float
    theta_low: float
    slope: float
    n: int


def length_controlled(x_N: Float, dlen_N: Float, *, weight_N: Float | None = None) -> Controlled:
    """`x_N` in 0 to 1, `dlen_N` log ratios of lengths. `weight_N`: how much each counts, 0 to 1, as of a judge who attends so
    often; the bound allows for their scatter as it is (White's sandwich), not for as many fewer judgements."""
    x_N, dlen_N = np.asarray(x_N, dtype=np.float64), np.asarray(dlen_N, dtype=np.float64)
    weight_N = np.ones(len(x_N)) if weight_N is None else np.asarray(weight_N, dtype=np.float64)
    deviation = float(np.sqrt(np.mean(dlen_N**2))) if len(dlen_N) else 0.0
    far_N = np.tanh(dlen_N / deviation) if deviation > 1e-9 else np.zeros(len(x_N))
    design_N2 = np.stack([np.ones(len(x_N)), far_N], axis=1)
    prior_22 = np.diag([THETA_PRIOR**-2, SLOPE_PRIOR**-2])
    w_2 = np.zeros(2)
    for _ in range(60):
        p_N = expit(design_N2 @ w_2)
        bend_22 = design_N2.T @ (design_N2 * (weight_N * p_N * (1 - p_N))[:, None]) + prior_22
        step_2 = np.linalg.solve(bend_22, design_N2.T @ (weight_N * (x_N - p_N)) - prior_22 @ w_2)
        w_2 = w_2 + np.clip(step_2, -2, 2)
        if float(np.abs(step_2).max()) < 1e-10:
            break
    scatter_22 = design_N2.T @ (design_N2 * (weight_N**2 * p_N * (1 - p_N))[:, None]) + prior_22
    around_22 = np.linalg.inv(bend_22)
    error = math.sqrt(float((around_22 @ scatter_22 @ around_22)[0, 0]))
    theta = float(w_2[0])
    low = theta - ONE_SIDED * error
    return Controlled(float(expit(theta)), float(expit(low)), theta, low, float(w_2[1]), len(x_N))
