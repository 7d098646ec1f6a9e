"""The reward head: a Bayesian Bradley-Terry model on differences of kept features. Numpy and scipy only.

    w ~ N(0, s0^2 I)        P(first wins) = q_n(w . delta)        delta = phi(first) - phi(second)

with q_n the channel of the person who answered (tomoni/feedback/channel.py). The posterior is taken as a Gaussian around
its mode (Laplace), with Fisher information in place of the Hessian, which is never negative whatever the channel:

    Sigma^-1 = I / s0^2 + sum_n c_n omega_n delta delta^T          omega = (dq/dD)^2 / (q (1 - q))

c_n is the label's weight. s0 by evidence (MacKay 1992) or by five-fold cross-validation. The evidence has a broad prior of
its own, centred where gaps have a standard deviation of 2, so that five labels do not send s0 to 0 or to infinity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize_scalar
from scipy.special import expit

from tomoni.errors import DataError
from tomoni.feedback.arrays import Float, checked, decoded, encoded
from tomoni.feedback.channel import Channel
from tomoni.feedback.space import Space

__all__ = ["Cavity", "Head", "Prior", "Space", "calibrated"]

Prior = Literal["evidence", "cv"] | float

USUAL_GAP = 2.0  # standard deviation of the gaps that people are asked about, before anything is known
USUAL_SCALE = USUAL_GAP / 2**0.5  # of the prior, where answers have a variance of 1
GAP_SPREAD = 1.0  # of the usual gap's logarithm
WIDEST = 3.0  # the search for s0 goes that far to both sides, in units of the logarithm
FOLDS = 5
MOST_STEPS = 60
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Cavity:
    """Mean and variance of each label's gap as the other labels alone would have it (leave one out, Laplace)."""

    mean_N: Float
    variance_N: Float

    @property
    def probability_N(self) -> Float:
        return calibrated(self.mean_N, self.variance_N)


def calibrated(mean: Float, variance: Float) -> Float:
    """E[s(D)] for D ~ N(mean, variance): MacKay's approximation."""
    return expit(mean / np.sqrt(1 + np.pi * variance / 8))


@dataclass(frozen=True, slots=True)
class Head:
    """`w_D` and `covariance_DD` of the posterior; `scale`: s0; `evidence`: log evidence per Laplace, nats.

    `length`: which feature is the log length, or None.
    """

    w_D: Float
    covariance_DD: Float
    scale: float
    labels: int = 0
    evidence: float = 0.0
    length: int | None = None

    @classmethod
    def blank(cls, dimensions: int, *, scale: float = USUAL_SCALE, length: int | None = None) -> Head:
        """Before the first label; by default for a Space whose components are not whitened."""
        return cls(np.zeros(dimensions), np.eye(dimensions) * scale**2, scale, length=length)

    @classmethod
    def fit(
        cls,
        deltas_ND: Float,
        y_N: Float,
        *,
        weights_N: Float | None = None,
        noise_N: Float | None = None,
        channel: Channel | None = None,
        prior: Prior = "evidence",
        length: int | None = None,
        start: Head | None = None,
    ) -> Head:
        """y: 1 the first won, 0 the second, .5 a tie. `noise_N` is a flip rate a label; `channel` says more than that.

        `start`: a head near the result, to save time. Raises DataError for what is not finite or not in range.
        """
        deltas_ND, y_N, weights_N, channel = _read(deltas_ND, y_N, weights_N, noise_N, channel)
        if len(y_N) == 0:
            scale = float(prior) if isinstance(prior, int | float) else USUAL_SCALE
            return cls.blank(deltas_ND.shape[1], scale=scale, length=length)
        labels = _Labels(deltas_ND, y_N, weights_N, channel)
        near = start if start is not None and start.labels and len(start.w_D) == deltas_ND.shape[1] else None
        mode_D = np.zeros(deltas_ND.shape[1]) if near is None else near.w_D
        if isinstance(prior, int | float):
            scale = float(prior)
        elif prior == "evidence":
            scale = labels.scale_by_evidence(mode_D, None if near is None else near.scale)
        else:
            scale = labels.scale_by_folds()
        mode = labels.mode(scale, mode_D)
        return cls(mode.w_D, mode.covariance_DD, scale, len(y_N), mode.evidence, length)

    def told(self, delta_D: Float, y: float, *, noise: float = 0.0, channel: Channel | None = None) -> Head:
        """With one label more, in O(D^2): the exact mode along Sigma delta, and Sherman and Morrison's update.

        The prior's scale stays; `fit` again after a batch.
        """
        channel = channel or Channel.flipping(np.array([noise]))
        u_D = self.covariance_DD @ delta_D
        v, m, moved = float(delta_D @ u_D), float(delta_D @ self.w_D), 0.0
        for _ in range(MOST_STEPS):
            now = channel.answered(np.array([m + v * moved]), np.array([y]))
            step = (float(now.slope_N[0]) - moved) / (1 + v * float(now.information_N[0]))
            moved += step
            if abs(step) < 1e-10:
                break
        omega = float(channel.answered(np.array([m + v * moved]), np.array([y])).information_N[0])
        covariance_DD = self.covariance_DD - np.outer(u_D, u_D) * (omega / (1 + omega * v))
        return replace(self, w_D=self.w_D + u_D * moved, covariance_DD=covariance_DD, labels=self.labels + 1)

    def mean(self, delta: Float) -> Float:
        """Of the gap, for one delta or N of them."""
        return delta @ self.w_D

    def variance(self, delta: Float) -> Float:
        return np.maximum(((delta @ self.covariance_DD) * delta).sum(-1), 0.0)

    def probability(self, delta: Float) -> Float:
        """That the first is the better one, with what is not known counted in (a right answer, no person's noise)."""
        return calibrated(self.mean(delta), self.variance(delta))

    def cavity(self, deltas_ND: Float, y_N: Float, channel: Channel, weights_N: Float | None = None) -> Cavity:
        """Each of the labels that this head was fitted on, predicted by the others."""
        m_N, v_N = self.mean(deltas_ND), self.variance(deltas_ND)
        now = channel.answered(m_N, y_N)
        weight_N = np.ones(len(m_N)) if weights_N is None else weights_N
        left_N = np.maximum(1 - weight_N * now.information_N * v_N, 1e-3)
        return Cavity(m_N - v_N * weight_N * now.slope_N / left_N, v_N / left_N)

    def scores(
        self, phi_ND: Float, *, reference_MD: Float, caution: float = 1.0, length: Literal["learnt"] | float = "learnt"
    ) -> Float:
        """Scores of N answers to one prompt, lower confidence bounds: w . phi~ - caution sqrt(phi~^T Sigma phi~).

        phi~ is phi less the mean of the M `reference` samples of the same prompt, for only differences are known.
        `length`: what a unit of log length is worth; 0 takes length out of the score, "learnt" leaves what people said.
        """
        from_reference_ND = phi_ND - reference_MD.mean(0)
        if length == "learnt" or self.length is None:
            return self.mean(from_reference_ND) - caution * np.sqrt(self.variance(from_reference_ND))
        wished_N = from_reference_ND[:, self.length] * float(length)
        from_reference_ND = from_reference_ND.copy()
        from_reference_ND[:, self.length] = 0.0
        return wished_N + self.mean(from_reference_ND) - caution * np.sqrt(self.variance(from_reference_ND))

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "head",
            "schema": SCHEMA,
            "w": encoded(self.w_D),
            "covariance": encoded(self.covariance_DD),
            "scale": self.scale,
            "labels": self.labels,
            "evidence": self.evidence,
            "length": self.length,
        }

    @classmethod
    def from_json(cls, form: Mapping[str, Any]) -> Head:
        """Bit for bit what `to_json` gave; raises DataError for anything else."""
        form = checked(form, kind="head", schema=SCHEMA)
        w_D = decoded(form.get("w"), name="w", dimensions=1)
        covariance_DD = decoded(form.get("covariance"), name="covariance", dimensions=2)
        length = form.get("length")
        if covariance_DD.shape != (len(w_D), len(w_D)) or not (length is None or 0 <= int(length) < len(w_D)):
            raise DataError("a head whose parts do not fit each other", next_step="fit it again from the judgements")
        return cls(w_D, covariance_DD, float(form["scale"]), int(form["labels"]), float(form["evidence"]), length)


@dataclass(frozen=True, slots=True)
class _Mode:
    w_D: Float
    covariance_DD: Float
    evidence: float


@dataclass(frozen=True, slots=True)
class _Labels:
    deltas_ND: Float
    y_N: Float
    weights_N: Float
    channel: Channel

    def objective(self, w_D: Float, scale: float) -> float:
        answered = self.channel.answered(self.deltas_ND @ w_D, self.y_N)
        return float(self.weights_N @ answered.loglik_N) - float(w_D @ w_D) / (2 * scale**2)

    def mode(self, scale: float, start_D: Float) -> _Mode:
        """Fisher scoring with a halving line search."""
        w_D, best, d = start_D, self.objective(start_D, scale), len(start_D)
        eye_DD = np.eye(d) / scale**2
        for _ in range(MOST_STEPS):
            now = self.channel.answered(self.deltas_ND @ w_D, self.y_N)
            slope_D = self.deltas_ND.T @ (self.weights_N * now.slope_N) - w_D / scale**2
            step_D = cho_solve(cho_factor(self._precision(now.information_N, eye_DD)), slope_D)
            size, gain = 1.0, float(slope_D @ step_D)
            while size > 1e-6 and (value := self.objective(w_D + size * step_D, scale)) < best:
                size /= 2
            if gain < 1e-8 or size <= 1e-6:
                break
            w_D, best = w_D + size * step_D, value
        information_N = self.channel.answered(self.deltas_ND @ w_D, self.y_N).information_N
        factor = cho_factor(self._precision(information_N, eye_DD))
        half_log_det = float(np.log(np.diag(factor[0])).sum())
        evidence = self.objective(w_D, scale) - d * float(np.log(scale)) - half_log_det
        covariance_DD = cho_solve(factor, np.eye(d))
        return _Mode(w_D, (covariance_DD + covariance_DD.T) / 2, evidence)

    def _precision(self, information_N: Float, eye_DD: Float) -> Float:
        rows_ND = self.deltas_ND * np.sqrt(self.weights_N * information_N)[:, None]
        return eye_DD + rows_ND.T @ rows_ND

    def usual_scale(self) -> float:
        """That at which gaps have their usual spread."""
        rms = float(np.sqrt((self.deltas_ND**2).sum(1).mean()))
        return USUAL_GAP / max(rms, 1e-6)

    def scale_by_evidence(self, start_D: Float, near: float | None) -> float:
        """`near`: a scale found before, where only its neighbourhood is searched."""
        usual, mode_D = float(np.log(self.usual_scale())), start_D

        def cost(log_scale: float) -> float:
            nonlocal mode_D
            mode = self.mode(float(np.exp(log_scale)), mode_D)
            mode_D = mode.w_D
            return 0.5 * ((log_scale - usual) / GAP_SPREAD) ** 2 - mode.evidence

        middle, wide = (usual, WIDEST) if near is None else (float(np.log(near)), 0.7)
        found = minimize_scalar(cost, bounds=(middle - wide, middle + wide), method="bounded", options={"xatol": 0.03})
        return float(np.exp(found.x))

    def scale_by_folds(self) -> float:
        """The scale whose held-out log-likelihood is best, over five folds; fewer where there are fewer labels."""
        usual, folds = self.usual_scale(), min(FOLDS, len(self.y_N))
        if folds < 2:
            return usual
        part_N = np.arange(len(self.y_N)) % folds
        scales = usual * np.exp(np.linspace(-2, 1.5, 8))
        return float(max(scales, key=lambda scale: sum(self._held_out(scale, part_N == k) for k in range(folds))))

    def _held_out(self, scale: float, out_N: Any) -> float:
        kept = _Labels(self.deltas_ND[~out_N], self.y_N[~out_N], self.weights_N[~out_N], self.channel[~out_N])
        mode = kept.mode(scale, np.zeros(self.deltas_ND.shape[1]))
        m_N = self.deltas_ND[out_N] @ mode.w_D
        v_N = ((self.deltas_ND[out_N] @ mode.covariance_DD) * self.deltas_ND[out_N]).sum(1)
        moderated_N = m_N / np.sqrt(1 + np.pi * v_N / 8)
        return float(self.weights_N[out_N] @ self.channel[out_N].answered(moderated_N, self.y_N[out_N]).loglik_N)


def _read(
    deltas_ND: Float, y_N: Float, weights_N: Float | None, noise_N: Float | None, channel: Channel | None
) -> tuple[Float, Float, Float, Channel]:
    deltas_ND = np.asarray(deltas_ND, dtype=np.float64)
    y_N = np.asarray(y_N, dtype=np.float64)
    n = len(y_N)
    if deltas_ND.ndim != 2 or len(deltas_ND) != n:
        raise DataError(f"{n} labels for differences of shape {deltas_ND.shape}", next_step="one row a label")
    weights_N = np.ones(n) if weights_N is None else np.asarray(weights_N, dtype=np.float64)
    noise_N = np.zeros(n) if noise_N is None else np.asarray(noise_N, dtype=np.float64)
    within = {
        "labels": ((y_N >= 0) & (y_N <= 1), "0 to 1"),
        "weights": ((weights_N >= 0) & np.isfinite(weights_N), "0 or more"),
        "noise": ((noise_N >= 0) & (noise_N <= 0.5), "0 to .5"),
        "differences": (np.isfinite(deltas_ND).all(1), "finite numbers"),
    }
    for name, (good_N, wanted) in within.items():
        if not good_N.all():
            raise DataError(f"{name}: number {int(np.argmin(good_N))} is out of range", choices=[wanted])
    return deltas_ND, y_N, weights_N, channel or Channel.flipping(noise_N)
