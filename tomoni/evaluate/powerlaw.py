"""A power law through a learning curve, with intervals: what more data would bring. numpy and scipy only.

    value(n) = a - b n^-c            (of a loss b is negative: a + |b| n^-c)

For a given c the law is linear in a and b, so all is computed exactly along a grid of c: the best law, and profile
intervals (every law counts that fits almost as well as the best one). It is written here as

    value(n) = v - s u(n),   u(n) = ((n/N)^-c - 1) / c

with N the largest size: v is the value there, and c = 0 is the logarithm s ln(n/N), where no limit is in sight. One
doubling from N on brings s (1 - 2^-c) / c.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tomoni.evaluate.metrics import Interval

Float64 = NDArray[np.float64]
EXPONENTS = np.linspace(0.0, 3.0, 601)
FEWEST_SIZES = 3
MISFIT = 0.05  # p-value under which the points do not follow the law
PRIOR = 2  # degrees of freedom that all sizes' common spread counts for in each size's own


@dataclass(frozen=True, slots=True)
class Point:
    """One training: on `size` items, in the `repeat`-th draw, it reached `value`."""

    size: int
    repeat: int
    value: float


@dataclass(frozen=True, slots=True)
class NoLaw:
    reason: str


@dataclass(frozen=True)
class Law:
    """`fits`: the p-value that the points' means lie on it (None where nothing tells: one repeat, or three sizes)."""

    sizes: Float64
    exponent: float
    value: float
    slope: float
    scale: float  # what residuals are multiples of: 1 where they are as large as the spread of repeats
    freedom: int
    fits: float | None
    points: int
    _solved: tuple[_Line, ...]
    _threshold: float

    @property
    def full(self) -> float:
        """N, the largest size that was trained on."""
        return float(self.sizes[-1])

    @property
    def misfits(self) -> bool:
        return self.fits is not None and self.fits < MISFIT

    @property
    def logarithmic(self) -> bool:
        """The points bend so little that no limit shows."""
        return self.exponent == EXPONENTS[0]

    def at(self, size: float) -> float:
        return self.value - self.slope * float(_u(size / self.full, self.exponent))

    def value_at(self, size: float) -> Interval:
        return self._interval(self.at(size), lambda c: (1.0, -float(_u(size / self.full, c))))

    def gain(self, factor: float = 2.0) -> Interval:
        """What `factor` times N would add to the value at N."""
        return self._interval(self.at(factor * self.full) - self.value, lambda c: (0.0, -float(_u(factor, c))))

    @cached_property
    def limit(self) -> Interval:
        """The value that no amount of such data exceeds; infinite where none shows."""
        best = self.value + self.slope / self.exponent if self.exponent else math.copysign(math.inf, self.slope)
        return self._interval(best, lambda c: (1.0, 1 / c if c else math.inf))

    @property
    def coefficients(self) -> tuple[float, float, float]:
        """a, b, c of a - b n^-c; a and b are infinite where c is 0."""
        if not self.exponent:
            return self.limit.value, math.copysign(math.inf, self.slope), 0.0
        b = self.slope * self.full**self.exponent / self.exponent
        return self.limit.value, b, self.exponent

    @property
    def exponents(self) -> tuple[float, float]:
        """The ends of c's interval."""
        fine = [line.exponent for line in self._solved if line.residual <= self._threshold]
        return min(fine), max(fine)

    def _interval(self, best: float, direction: Callable[[float], tuple[float, float]]) -> Interval:
        """Over all c that fit: the linear model's interval of direction·(v, s), at that c."""
        low, high = best, best
        for line in self._solved:
            if line.residual > self._threshold:
                continue
            first, second = direction(line.exponent)
            if math.isinf(second):  # a limit of the logarithm
                low, high = (
                    min(low, math.copysign(math.inf, line.slope)),
                    max(high, math.copysign(math.inf, line.slope)),
                )
                continue
            along = np.array([first, second])
            centre = first * line.value + second * line.slope
            half = math.sqrt(max(0.0, self._threshold - line.residual) * float(along @ line.covariance @ along))
            low, high = min(low, centre - half), max(high, centre + half)
        return Interval(best, low, high)


@dataclass(frozen=True, eq=False)
class _Line:
    """The best law of one exponent: weighted sum of squares, v and s, their covariance for residuals of scale 1."""

    exponent: float
    residual: float
    value: float
    slope: float
    covariance: Float64


def fit(points: Sequence[Point], *, confidence: float = 0.95) -> Law | NoLaw:
    """The law of these points, or why there is none.

    Sizes count by the spread of their repeats (each size's own, shrunk towards all sizes'). Where the means of the
    sizes lie further from the law than repeats lie from each other (F test of lack of fit, 5 %), the distance of the
    means is the measure of what is not known; `Law.misfits` says so.
    """
    if not all(math.isfinite(point.value) for point in points):
        return NoLaw("a training ended with a value that is no number")
    sizes = sorted({point.size for point in points})
    if len(sizes) < FEWEST_SIZES:
        return NoLaw(f"a law needs {FEWEST_SIZES} sizes, and there {'is' if len(sizes) == 1 else 'are'} {len(sizes)}")
    if len(points) <= FEWEST_SIZES:
        return NoLaw("as many points as the law has numbers: it would fit anything")
    groups = [np.array([point.value for point in points if point.size == size]) for size in sizes]
    variances = _variances(groups)
    n = np.asarray(sizes, dtype=np.float64)
    counts = np.array([len(group) for group in groups], dtype=np.float64)
    means = np.array([group.mean() for group in groups])
    pure = float(sum(((g - g.mean()) ** 2).sum() / v for g, v in zip(groups, variances, strict=True)))
    lines = tuple(_line(float(c), n / n[-1], means, counts / variances) for c in EXPONENTS)
    best = min(lines, key=lambda line: line.residual)
    pure_freedom, fit_freedom = len(points) - len(sizes), len(sizes) - FEWEST_SIZES
    fits = _lack_of_fit(best.residual, fit_freedom, pure, pure_freedom)
    freedom = len(points) - FEWEST_SIZES
    square = (best.residual + pure) / freedom
    if pure_freedom:  # the variances are those of the repeats: a smaller scale is luck
        square = max(square, 1.0) if pure > 0 else square
    if fits is not None and fits < MISFIT:
        square, freedom = max(square, best.residual / fit_freedom), fit_freedom
    t = float(stats.t.ppf((1 + confidence) / 2, freedom))
    return Law(
        n, best.exponent, best.value, best.slope, math.sqrt(square), freedom, fits, len(points), lines,
        best.residual + square * t * t,
    )  # fmt: skip


def _u(ratio: float, exponent: float) -> float:
    return math.expm1(-exponent * math.log(ratio)) / exponent if exponent else -math.log(ratio)


def _line(exponent: float, ratios: Float64, means: Float64, weights: Float64) -> _Line:
    design = np.stack([np.ones_like(ratios), -np.array([_u(float(r), exponent) for r in ratios])], 1)
    covariance = np.linalg.inv(design.T @ (design * weights[:, None])).astype(np.float64)
    value, slope = covariance @ (design.T @ (weights * means))
    gaps = means - design @ np.array([value, slope])
    return _Line(exponent, float(weights @ gaps**2), float(value), float(slope), covariance)


def _variances(groups: Sequence[Float64]) -> Float64:
    """Of one training at each size. Repeats of the largest size share their data, so their spread is too small: it counts
    for at least half of that of the size before (a draw of twice as much data varies half as much)."""
    squares = np.array([float(((group - group.mean()) ** 2).sum()) for group in groups])
    freedoms = np.array([len(group) - 1 for group in groups])
    if not freedoms.sum() or not squares.sum():
        return np.ones(len(groups))
    pooled = squares.sum() / freedoms.sum()
    variances: Float64 = (squares + PRIOR * pooled) / (freedoms + PRIOR)
    variances[-1] = max(variances[-1], variances[-2] / 2)
    return variances


def _lack_of_fit(residual: float, fit_freedom: int, pure: float, pure_freedom: int) -> float | None:
    if not fit_freedom or not pure_freedom or pure == 0:
        return None
    return float(stats.f.sf((residual / fit_freedom) / (pure / pure_freedom), fit_freedom, pure_freedom))
