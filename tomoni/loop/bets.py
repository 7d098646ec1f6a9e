"""Evidence that may be looked at after every judgement: betting against a null hypothesis. Numpy and scipy only.

Whoever bets against "the mean is at most 0" with stakes fixed before each outcome cannot expect to grow rich while that is
true. So the capital, an *e-value*, passes 1/alpha with probability at most alpha, however often it is looked at and
whenever one stops (Ville 1939; Waudby-Smith and Ramdas 2024):

    E_n = sum_g pi_g prod_i (1 + lambda_gi y_i)          E[y_i | past] <= 0 under the null,  0 <= lambda_gi < 1 / |least y_i|

The lambdas are spread by a prior (a beta distribution on the share of the highest stake, at Gauss-Jacobi nodes): a finite
mixture, so nothing is approximate about E being an e-value; and up to twice as many outcomes as there are nodes it equals
the integral. Without ties and with the uniform prior that is

    E = 2^(n+1) B(s+1, n-s+1) (1 - I_.5(s+1, n-s+1))          s wins of n
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import betaincc, betaln, logsumexp, roots_jacobi

from tomoni.errors import DataError
from tomoni.feedback.arrays import Float

NODES = 48


@dataclass(frozen=True)
class Prior:
    """Of the stake, as a share of the highest possible: Beta(a, b) at `nodes` points."""

    a: float = 1.0
    b: float = 1.0
    nodes: int = NODES

    @cached_property
    def _points(self) -> tuple[Float, Float]:
        x_G, weight_G = roots_jacobi(self.nodes, self.b - 1, self.a - 1)
        return (np.asarray(x_G) + 1) / 2, np.log(np.asarray(weight_G) / np.sum(weight_G))

    @property
    def share_G(self) -> Float:
        return self._points[0]

    @property
    def logweight_G(self) -> Float:
        return self._points[1]


UNIFORM = Prior()
WINS = Prior(2.0, 6.0)  # win rates of .53 to .73 are what a round brings; it costs little where it brings more
MARGINS = Prior(2.0, 4.0)  # of a slice's mean over its margin


@dataclass(frozen=True, slots=True, eq=False)
class Bets:
    """A game so far: `logcapital_NG` after each outcome, of each stake, the prior's weights in it; log E is its sum."""

    logcapital_NG: Float
    stake_NG: Float

    @property
    def log_e_N(self) -> Float:
        """log E after each outcome."""
        return np.asarray(logsumexp(self.logcapital_NG, axis=1)) if len(self.logcapital_NG) else np.zeros(0)

    @property
    def log_e(self) -> float:
        return float(self.log_e_N[-1]) if len(self.logcapital_NG) else 0.0


def play(
    y_N: Float,
    least_N: Float | float,
    *,
    bet_N: Float | float = 1.0,
    unit_N: Float | float | None = None,
    prior: Prior = UNIFORM,
) -> Bets:
    """Bets against "each y has, given those before, a mean of at most 0".

    `least_N`: the lowest value that each y could have had (below 0), and `bet_N`: what part of the stake is laid on it,
    0 to 1; both known before the outcome is. The stake is share x bet / unit (-least unless given), and never so high that
    an outcome could take more than there is. Raises DataError for an outcome that could not be, or a bet outside 0 to 1.
    """
    y_N = np.asarray(y_N, dtype=np.float64)
    least_N = np.broadcast_to(np.asarray(least_N, dtype=np.float64), y_N.shape)
    bet_N = np.broadcast_to(np.asarray(bet_N, dtype=np.float64), y_N.shape)
    if not np.all((bet_N >= 0) & (bet_N <= 1)):
        raise DataError("a bet lies outside 0 to 1", next_step="give the weight of a judge as a share of the stake")
    if not np.all((least_N < 0) & (y_N >= least_N - 1e-12)):
        raise DataError("an outcome lies below the lowest one", next_step="give bounds that hold for every outcome")
    unit_N = -least_N if unit_N is None else np.broadcast_to(np.asarray(unit_N, dtype=np.float64), y_N.shape)
    highest_N = prior.share_G.max() / -least_N
    stake_NG = np.minimum(prior.share_G * (bet_N / unit_N)[:, None], highest_N[:, None])
    steps_NG = np.log1p(stake_NG * y_N[:, None])
    return Bets(prior.logweight_G + np.cumsum(steps_NG, axis=0), stake_NG)


def growth(mean: float, null: float, *, prior: Prior) -> float:
    """Nats that an outcome of 0 or 1 with this mean adds at the best stake of the prior against a mean of `null`."""
    stake_G = prior.share_G / null
    gain_G = mean * np.log1p(stake_G * (1 - null)) + (1 - mean) * np.log1p(-stake_G * null)
    return float(gain_G.max())


def uniform_mixture(wins: int, losses: int) -> float:
    """log E of the closed form above: no ties, everyone believed fully, all win rates from .5 to 1 alike."""
    n = wins + losses
    tail = float(betaincc(wins + 1, losses + 1, 0.5))
    return float((n + 1) * np.log(2) + betaln(wins + 1, losses + 1) + np.log(max(tail, 1e-300)))


def spent(round_: int, *, total: float = 0.05) -> float:
    """The part of `total` that round number `round_` (from 1) may spend: they sum to it over all rounds there will be."""
    if round_ < 1:
        raise DataError(f"round {round_}", next_step="rounds are counted from 1")
    return total * 6 / (np.pi**2 * round_**2)
