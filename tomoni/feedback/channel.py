"""How a person's answer depends on the true gap between two answers. Numpy only.

A person attends with probability A, answers the reverse with F, and clicks without reading with S = 1 - A - F:

    q(D) = A s(D + b) + F s(-D) + base          s the logistic function, D the gap of the first over the second

seen from the stored first answer. `b` is how much that person favours the side on which the first one stood, `base` is
S times the chance that a click without reading falls on that side. A plain flip rate e is A = 1 - e, F = e.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from tomoni.feedback.arrays import Float

LEAST = 1e-9  # of a probability, so that its logarithm stays finite


class Answered(NamedTuple):
    """Of N labels at given gaps: log-likelihood, its slope in the gap, and the Fisher information about the gap."""

    loglik_N: Float
    slope_N: Float
    information_N: Float


@dataclass(frozen=True, slots=True)
class Channel:
    """Of N labels, one each; or scalars, for one person."""

    attends_N: Float
    reverses_N: Float
    base_N: Float
    offset_N: Float

    @classmethod
    def flipping(cls, noise_N: Float) -> Channel:
        """Everybody attends, and a share `noise_N` (0 to .5) of the answers comes out reversed."""
        noise_N = np.asarray(noise_N, dtype=np.float64)
        zero_N = np.zeros_like(noise_N)
        return cls(1 - noise_N, noise_N, zero_N, zero_N)

    @classmethod
    def perfect(cls, n: int) -> Channel:
        return cls.flipping(np.zeros(n))

    def __getitem__(self, which: Any) -> Channel:
        return Channel(self.attends_N[which], self.reverses_N[which], self.base_N[which], self.offset_N[which])

    def first_wins(self, gap: Float) -> tuple[Float, Float]:
        """q and dq/dD at gaps of any shape that the parameters broadcast with."""
        attending, reversing = expit(gap + self.offset_N), expit(-gap)
        q = self.attends_N * attending + self.reverses_N * reversing + self.base_N
        slope = self.attends_N * attending * (1 - attending) - self.reverses_N * reversing * (1 - reversing)
        return np.clip(q, LEAST, 1 - LEAST), slope

    def answered(self, gap_N: Float, y_N: Float) -> Answered:
        """y: 1 the first won, 0 the second, between them a soft label."""
        q_N, slope_N = self.first_wins(gap_N)
        spread_N = q_N * (1 - q_N)
        return Answered(
            y_N * np.log(q_N) + (1 - y_N) * np.log1p(-q_N),
            slope_N * (y_N - q_N) / spread_N,
            slope_N**2 / spread_N,
        )
