"""Numbers with their uncertainty: pure functions of counts and sequences. No torch."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate between the ends of its interval."""

    value: float
    low: float
    high: float


def wilson(right: int, total: int, confidence: float = 0.95) -> Interval:
    """A proportion with Wilson's score interval (1927), which stays within 0 and 1 and holds for few trials.

    Nothing tried: the interval is everything, the value NaN.
    """
    if not 0 <= right <= total:
        raise ValueError(f"{right} right of {total}")
    if total == 0:
        return Interval(math.nan, 0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    # at the ends the formula gives 0 and 1 only to rounding
    return Interval(share, 0.0 if right == 0 else centre - half, 1.0 if right == total else centre + half)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean with the normal interval of its standard error. Fewer than two values tell nothing of their spread: the
    interval is NaN."""
    count = len(values)
    if count < 2:
        return Interval(float(values[0]) if count else math.nan, math.nan, math.nan)
    mean = float(np.mean(values))
    half = NormalDist().inv_cdf((1 + confidence) / 2) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """The exact two-sided p-value that two models are right equally often on the same questions.

    Only questions that one of them gets right and the other wrong count (McNemar 1947, by the binomial distribution).
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    told_apart = only_first + only_second
    tail = sum(math.comb(told_apart, count) for count in range(min(only_first, only_second) + 1))
    return min(1.0, float(2 * tail / 2**told_apart))  # whole numbers: exact up to one division


def paired_bootstrap(
    first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The mean of second - first over the same items, with the percentile interval of resampled items."""
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    if len(differences) == 0:
        return Interval(math.nan, math.nan, math.nan)
    generator = np.random.Generator(np.random.Philox(key=seed))
    means = np.concatenate(
        [
            differences[generator.integers(len(differences), size=(size, len(differences)))].mean(1)
            for size in _portions(resamples, max(1, 2_000_000 // len(differences)))
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(differences.mean()), float(low), float(high))


def same_answer(answer: str, desired: str) -> bool:
    """Exact match, but for what no reader would call a difference: Unicode forms (NFKC: full width, half-width kana,
    combining marks) and white space."""
    return _plain(answer) == _plain(desired)


def most_frequent(answers: Sequence[str]) -> str:
    """The commonest answer; of several the one that comes first."""
    counts = Counter(_plain(answer) for answer in answers)
    return max(answers, key=lambda answer: counts[_plain(answer)])


def perplexity(loss: float) -> float:
    """exp of a loss in nats a token."""
    return math.exp(loss) if loss < 700 else math.inf


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _portions(total: int, most: int) -> list[int]:
    return [most] * (total // most) + ([total % most] if total % most else [])
