"""Has the policy been driven beyond what its reward is good for? Numpy only.

The further a policy goes from where it began, the more of its reward is won by what the reward gets wrong. Gao et al.
2022 (equations 1 and 2) found the score that was really wanted to follow

    reinforcement learning    R(d) = d (alpha - beta ln d)       peak d* = exp(alpha / beta - 1),  R* = beta d*
    best of n                 R(d) = d (alpha - beta d)          peak d* = alpha / (2 beta),       R* = alpha d* / 2

with d = sqrt(KL(policy || start)) and R(0) = 0 at the start. Both are linear in alpha and beta: least squares, with
intervals by Student's t. What a curve cannot tell from so few or so narrow points is said and not guessed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Form = Literal["rl", "best_of_n"]

FEWEST = 5  # evaluations; three are left to tell the scatter from
WIDEST_OVER_NEAREST = 1.5  # of their distances: along less than that the two terms look alike
MOST = 50.0  # of ln d*: what lies beyond e to the 50th is nowhere
Z_95 = 1.959964  # two-sided
# of a fall that is seen twice, and of one that is seen once: the best of many evaluations is a lucky one, and those after
# it lie below it by chance. With 100 prompts whose score stays at its best, 12 evaluations raise the alarm in 2 of
# 100 runs and 24 in 8; at 1.64, which one would take for a single comparison, 12 do in 28.
Z_TWICE = 2.575829
Z_ONCE = 3.290527


class Estimate(NamedTuple):
    value: float
    se: float

    def below_zero(self, z: float) -> bool:
        return self.value + z * self.se < 0


def paired(now: Sequence[float], then: Sequence[float]) -> Estimate:
    """The mean difference item by item, and its standard error."""
    gains_N = _column(now) - _column(then)
    se = float(gains_N.std(ddof=1) / math.sqrt(len(gains_N))) if len(gains_N) > 1 else math.inf
    return Estimate(float(gains_N.mean()), se)


def at_equal_length(gains_N: Sequence[float], log_ratios_N: Sequence[float]) -> Estimate:
    """The gain of an item whose completion is as long as before: a in  gain_i = a + b ln(length now / then) + error.

    Where all lengths changed by the same factor, gain and length cannot be told apart: no number then, unless none
    changed.
    """
    y_N, x_N = _column(gains_N), _column(log_ratios_N)
    n, mean = len(y_N), float(x_N.mean())
    spread = float(((x_N - mean) ** 2).sum())
    if spread < 1e-12 * n:
        same = bool(np.all(x_N == 0))
        return paired(gains_N, [0.0] * n) if same else Estimate(math.nan, math.nan)
    b = float(((x_N - mean) * (y_N - y_N.mean())).sum()) / spread
    a = float(y_N.mean()) - b * mean
    if n < 3:
        return Estimate(a, math.inf)
    noise = float(((y_N - a - b * x_N) ** 2).sum()) / (n - 2)
    return Estimate(a, math.sqrt(noise * (1 / n + mean**2 / spread)))


def best_of_n_kl(n: int) -> float:
    """KL of the best of n from the policy that was sampled, in nats; an upper bound, reached where no two are alike."""
    return math.log(n) - (n - 1) / n


@dataclass(frozen=True, slots=True)
class Curve:
    """`alpha` and `beta` with standard errors, `covariance` between them, `noise`: standard deviation of a point
    around the curve, `error`: that which the points themselves have, `t`: the 97.5 % quantile that belongs to their number."""

    form: Form
    alpha: Estimate
    beta: Estimate
    covariance: float
    noise: float
    error: float
    t: float
    points: int

    def at(self, d: float) -> float:
        if d <= 0:
            return 0.0
        return d * (self.alpha.value - self.beta.value * (math.log(d) if self.form == "rl" else d))

    @property
    def is_rough(self) -> bool:
        """Whether the points lie further from it than they are unsure: the score follows another curve."""
        return 0 < 2 * self.error < self.noise

    @property
    def bends(self) -> bool:
        """Whether there surely is a peak: beta above 0, and for the best of n alpha too."""
        surely = [self.beta] if self.form == "rl" else [self.beta, self.alpha]
        return all(one.value - self.t * one.se > 0 for one in surely)

    @property
    def peak(self) -> float | None:
        """d*, where the curve bends."""
        if not self.bends:
            return None
        ratio = self.alpha.value / self.beta.value
        if self.form == "best_of_n":
            return ratio / 2
        return math.exp(ratio - 1) if ratio < MOST else None

    @property
    def peak_interval(self) -> tuple[float, float] | None:
        """95 %, by the delta method on ln d*."""
        if (peak := self.peak) is None:
            return None
        a, b = self.alpha.value, self.beta.value
        towards_a, towards_b = (1 / b, -a / b**2) if self.form == "rl" else (1 / a, -1 / b)
        variance = (
            (towards_a * self.alpha.se) ** 2
            + (towards_b * self.beta.se) ** 2
            + 2 * towards_a * towards_b * self.covariance
        )
        away = min(self.t * math.sqrt(max(variance, 0.0)), MOST)
        return peak * math.exp(-away), peak * math.exp(away)

    @property
    def peak_gain(self) -> float | None:
        return None if self.peak is None else self.at(self.peak)


@dataclass(frozen=True, slots=True)
class NoCurve:
    reason: str


def fit(
    distances: Sequence[float], gains: Sequence[float], form: Form = "rl", *, errors: Sequence[float] = ()
) -> Curve | NoCurve:
    """Least squares of gains over the start on d = sqrt(KL). The start itself lies on every such curve and adds
    nothing; points at d = 0 are it.

    `errors`: the points' standard errors. All are differences from the same scores at the start, on the same prompts, so
    that they scatter less around a curve than they are unsure together: the larger of the two is taken for the noise.
    """
    d_N, r_N = _column(distances), _column(gains)
    error_N = _column(errors) if len(errors) else np.zeros(len(d_N))
    away = (d_N > 0) & np.isfinite(d_N) & np.isfinite(r_N) & np.isfinite(error_N)
    d_N, r_N, error_N = d_N[away], r_N[away], error_N[away]
    n = len(d_N)
    if n < FEWEST:
        return NoCurve(f"too few points: {n} of at least {FEWEST} evaluations away from the start")
    if d_N.max() < WIDEST_OVER_NEAREST * d_N.min():
        return NoCurve(
            f"the points are too near each other: sqrt(KL) from {d_N.min():.3g} to {d_N.max():.3g}, "
            f"and a curve needs a factor of {WIDEST_OVER_NEAREST}"
        )
    X_N2 = np.stack([d_N, -d_N * (np.log(d_N) if form == "rl" else d_N)], axis=1)
    scale_2 = np.linalg.norm(X_N2, axis=0)
    Q_N2, R_22 = np.linalg.qr(X_N2 / scale_2)
    if abs(R_22[1, 1]) < 1e-8:
        return NoCurve("the points are too near each other to tell a bend from a line")
    inverse_22 = np.linalg.inv(R_22) / scale_2[:, None]
    solution_2 = inverse_22 @ (Q_N2.T @ r_N)
    error = math.sqrt(float((error_N**2).mean()))
    variance = max(float(((r_N - X_N2 @ solution_2) ** 2).sum()) / (n - 2), error**2)
    covariance_22 = variance * inverse_22 @ inverse_22.T
    se_2 = np.sqrt(np.diag(covariance_22))
    alpha, beta = (Estimate(float(value), float(se)) for value, se in zip(solution_2, se_2, strict=True))
    return Curve(form, alpha, beta, float(covariance_22[0, 1]), math.sqrt(variance), error, t_975(n - 2), n)


@dataclass(frozen=True, slots=True)
class Point:
    """One evaluation beside the start: `kl` in nats a completion; `gain`, `controlled` (at equal length) and `trained`
    (what is trained on, where that is another reward) over the start; `fall`: over the best before it, the start
    included."""

    step: int
    kl: float
    gain: Estimate
    controlled: Estimate
    trained: Estimate | None
    fall: Estimate

    @property
    def distance(self) -> float:
        return math.sqrt(max(self.kl, 0.0))


def curve_of(points: Sequence[Point], form: Form = "rl") -> Curve | NoCurve:
    gains = [point.gain for point in points]
    return fit(
        [point.distance for point in points],
        [gain.value for gain in gains],
        form,
        errors=[gain.se for gain in gains],
    )


def overoptimised(points: Sequence[Point], form: Form = "rl") -> str | None:
    """Why the policy has gone too far, or None: the held-out score has surely fallen (the upper bound of the paired
    difference from the best evaluation is below 0) at two evaluations in a row; or at one, and the policy stands beyond
    the whole interval of the fitted peak. The curve alone is no reason: it bends for a score that stands still, too."""
    last_two = points[-2:]
    if len(last_two) == 2 and all(point.fall.below_zero(Z_TWICE) for point in last_two):
        falls = " and ".join(f"{point.fall.value:.3g} ± {Z_95 * point.fall.se:.2g}" for point in last_two)
        return (
            f"the held-out score has fallen twice: {falls} against the best evaluation before, "
            f"at steps {last_two[0].step} and {last_two[1].step}"
        )
    curve = curve_of(points, form)
    if not isinstance(curve, Curve) or not (interval := curve.peak_interval):
        return None
    if points[-1].distance > interval[1] and points[-1].fall.below_zero(Z_ONCE):
        return (
            f"the held-out score has fallen, and the policy stands at sqrt(KL) {points[-1].distance:.3g} from its start, beyond the fitted peak "
            f"{curve.peak:.3g} ({interval[0]:.3g} to {interval[1]:.3g})"
        )
    return None


def t_975(freedom: int) -> float:
    """The 97.5 % quantile of Student's t from 3 degrees of freedom on, to 1 %: Cornish and Fisher's expansion in
    1 / freedom (Abramowitz and Stegun 26.7.5)."""
    z, v = Z_95, float(freedom)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def _column(values: Sequence[float]) -> Float64:
    return np.asarray(values, dtype=np.float64)
