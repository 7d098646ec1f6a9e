"""Figures of a rehearsal: means over paired seeds with bootstrap intervals, and labels needed to reach a level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from tomoni.feedback.arrays import Float


@dataclass(frozen=True, slots=True)
class Figure:
    """`met`: whether the criterion holds, None where there is none. `value` of inf: the level was never reached."""

    experiment: str
    name: str
    value: float
    low: float
    high: float
    criterion: str = ""
    met: bool | None = None


def bootstrap(statistic: Callable[[Float], float], runs: int, *, resamples: int, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of statistic(weights of the runs); with all weights 1 it is the figure itself."""
    drawn_RS = np.random.default_rng(seed).multinomial(runs, np.full(runs, 1 / runs), resamples).astype(float)
    spread = np.sort([statistic(weight_S) for weight_S in drawn_RS])
    edges = (int(0.025 * resamples), min(int(0.975 * resamples), resamples - 1))  # not interpolated: some may be inf
    return float(spread[edges[0]]), float(spread[edges[1]])


def mean(experiment: str, name: str, value_S: Sequence[float] | Float, *, resamples: int) -> Figure:
    value_S = np.asarray(value_S, dtype=np.float64)
    low, high = bootstrap(lambda w_S: float(w_S @ value_S / w_S.sum()), len(value_S), resamples=resamples)
    return Figure(experiment, name, float(value_S.mean()), low, high)


def needed(level_N: Float, sizes_N: Float, target: float) -> float:
    """Labels at which a rising curve reaches `target`: made monotone (isotonic least squares), then linear in log
    labels between the sizes. The first size where it lies above from the start; inf where it never does."""
    rising_N = np.asarray(isotonic_regression(level_N).x)
    above = np.flatnonzero(rising_N >= target)
    if not len(above):
        return float("inf")
    i = int(above[0])
    if i == 0:
        return float(sizes_N[0])
    part = (target - rising_N[i - 1]) / (rising_N[i] - rising_N[i - 1])
    return float(np.exp(np.log(sizes_N[i - 1]) + part * np.log(sizes_N[i] / sizes_N[i - 1])))


def labels_saved(
    experiment: str, name: str, ours_SN: Float, theirs_SN: Float, sizes_N: Float, *, resamples: int
) -> Figure:
    """Labels of `theirs` at its last size over those with which `ours` reaches the same level, on the mean curves.

    `theirs` may end earlier than `ours`. 0: never reached within the sizes.
    """

    def ratio(weight_S: Float) -> float:
        ours_N, theirs_N = weight_S @ ours_SN / weight_S.sum(), weight_S @ theirs_SN / weight_S.sum()
        target = float(isotonic_regression(theirs_N).x[-1])
        return float(sizes_N[theirs_SN.shape[1] - 1] / needed(ours_N, sizes_N, target))

    low, high = bootstrap(ratio, len(ours_SN), resamples=resamples)
    return Figure(experiment, name, ratio(np.ones(len(ours_SN))), low, high)
