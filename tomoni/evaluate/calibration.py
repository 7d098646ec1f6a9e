"""Whether probabilities are true: among texts said to be 80 % sure, 80 % should be right. No torch.

One number, the temperature, divides all scores so that the held-out loss is least (Guo et al. 2017, section 4.2). It
changes no decision of a single class, only how sure it is said to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from tomoni.evaluate.classes import log_softmax

BINS = 15
FEWEST = 30  # texts that say anything about a temperature


@dataclass(frozen=True, slots=True)
class Calibration:
    """`temperature` from all texts; the errors before and after are measured on texts that did not choose it (each half's
    temperature is found on the other)."""

    temperature: float
    before: float
    after: float
    texts: int


def probabilities(scores_NC: NDArray[np.floating], *, several: bool, temperature: float = 1.0) -> NDArray[np.float64]:
    scaled = scores_NC.astype(np.float64) / temperature
    return 1 / (1 + np.exp(-scaled)) if several else np.exp(log_softmax(scaled))


def calibrate(scores_NC: NDArray[np.floating], labels: NDArray[np.generic], *, several: bool) -> Calibration:
    """labels: int [N], or [N, C] of 0 and 1."""
    count = len(scores_NC)
    before = _error(probabilities(scores_NC, several=several), labels, several=several)
    if count < FEWEST:
        return Calibration(1.0, before, before, count)
    found = np.zeros(scores_NC.shape, dtype=np.float64)
    half = np.arange(count) % 2 == 0
    for mine in (half, ~half):
        other = temperature_of(scores_NC[~mine], labels[~mine], several=several)
        found[mine] = probabilities(scores_NC[mine], several=several, temperature=other)
    after = _error(found, labels, several=several)
    return Calibration(temperature_of(scores_NC, labels, several=several), before, after, count)


def temperature_of(scores_NC: NDArray[np.floating], labels: NDArray[np.generic], *, several: bool) -> float:
    """That of the least loss, between 1/20 and 20."""

    def loss(log_temperature: float) -> float:
        scaled = scores_NC.astype(np.float64) / np.exp(log_temperature)
        if several:
            return float((np.logaddexp(0, scaled) - scaled * labels).mean())
        return -float(log_softmax(scaled)[np.arange(len(labels)), labels].mean())

    found = minimize_scalar(loss, bounds=(-np.log(20), np.log(20)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def expected_error(sure: Sequence[float] | NDArray[np.floating], right: NDArray[np.generic], bins: int = BINS) -> float:
    """The expected calibration error (Naeini et al. 2015): over bins of equal width, |share right - mean sureness| by their
    share of all."""
    sure_N, right_N = np.asarray(sure, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if len(sure_N) == 0:
        return float("nan")
    bin_N = np.clip(np.ceil(sure_N * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_N, right_N - sure_N, minlength=bins)
    return float(np.abs(gaps).sum() / len(sure_N))


def _error(p_NC: NDArray[np.float64], labels: NDArray[np.generic], *, several: bool) -> float:
    """Of the likeliest class; of several, of every class's own probability."""
    if several:
        return expected_error(p_NC.ravel(), np.asarray(labels).ravel())
    return expected_error(p_NC.max(1), p_NC.argmax(1) == labels)
