"""E6: how often does the gate promote a candidate that is not better, and how many answers does it need for one that is?

Somebody looks after every single answer, which is what breaks a test of fixed size (35 in 100 wrong by a thousand answers).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict
from scipy.special import expit
from scipy.stats import binom

from tomoni.feedback.arrays import Float
from tomoni.loop.gate import Rules, log_evidence, log_ratio
from tomoni.loop.rehearse_figures import Figure, mean

FILE = Path(__file__).with_name("rehearse_gate.yaml")
Null = Literal["plain", "people"]


class GateProtocol(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: int
    seed: int
    runs: int
    cap: int
    resamples: int
    nulls: tuple[Null, ...]
    ties: float
    gap: float
    reliabilities: tuple[float, ...]
    side_lean: float
    both_orders: float
    win_rates: tuple[float, ...]
    criteria: Mapping[str, float]
    sha256: str


def gate_protocol(*, quick: bool = False, seed: int | None = None) -> GateProtocol:
    """`quick`: 100 runs. `seed`: another one than the protocol's, to look around."""
    content = FILE.read_bytes()
    form = yaml.safe_load(content)
    form["schema_"] = form.pop("schema")
    changes = ({"runs": 100, "resamples": 200} if quick else {}) | ({} if seed is None else {"seed": seed})
    return GateProtocol(**(form | changes), sha256=hashlib.sha256(content).hexdigest())


def e6(p: GateProtocol) -> Iterator[Figure]:
    rules = Rules(cap=p.cap)
    needed = math.log(1 / rules.alpha_of(1))
    limit = p.criteria["false_promotions"]
    for null in p.nulls:
        x_RN, trust_RN, answers_RN = _null(p, null)
        wrong_R = (log_evidence(x_RN, trust_RN) >= needed) & (answers_RN <= p.cap)
        figure = mean(
            "E6",
            f"{null}: false promotions in {p.runs:,} nulls, looked at after every answer",
            wrong_R.max(1).astype(np.float64),
            resamples=p.resamples,
        )
        yield Figure(*_parts(figure), f"at most {limit}", figure.value <= limit)
        peeking_R = _peeking(x_RN, answers_RN <= p.cap)
        yield mean("E6", f"{null}: the same by a z-test at 1.645 after every answer", peeking_R, resamples=p.resamples)
    for rate in p.win_rates:
        yield from _power(p, rate, rules, needed)


def _parts(figure: Figure) -> tuple[str, str, float, float, float]:
    return figure.experiment, figure.name, figure.value, figure.low, figure.high


def _null(p: GateProtocol, null: Null) -> tuple[Float, Float, Float]:
    """x, trust and the number of answers so far, of each unit: [runs, cap]."""
    rng = np.random.default_rng([p.seed, p.nulls.index(null)])
    shape = (p.runs, p.cap)
    if null == "plain":
        return (
            (rng.random(shape) < 0.5).astype(np.float64),
            np.ones(shape),
            np.broadcast_to(np.arange(1, p.cap + 1.0), shape),
        )
    both = rng.random(shape) < p.both_orders
    gap = rng.normal(0, p.gap, shape)
    kappa = rng.choice(np.array(p.reliabilities), shape)
    first_side = rng.choice([-1, 1], shape)
    one = _judged(p, gap, first_side, kappa, rng)
    two = _judged(p, gap, -first_side, kappa, rng)
    x = np.where(both, (one + two) / 2, one)
    return x, kappa * np.where(both, 2.0, 1.0), np.cumsum(np.where(both, 2.0, 1.0), axis=1)


def _judged(p: GateProtocol, gap: Float, side: Any, kappa: Float, rng: Any) -> Float:
    won = expit(gap + p.side_lean * side)
    seen = 0.5 + kappa * (won - 0.5)
    answered = (rng.random(gap.shape) < seen).astype(np.float64)
    return np.where(rng.random(gap.shape) < p.ties, 0.5, answered)


def _peeking(x_RN: Float, counted_RN: Any) -> Float:
    """Whether the z of the mean passes 1.645 at any look from the tenth unit on."""
    n_N = np.arange(1, x_RN.shape[1] + 1)
    total_RN, square_RN = np.cumsum(x_RN - 0.5, axis=1), np.cumsum((x_RN - 0.5) ** 2, axis=1)
    z_RN = total_RN / np.sqrt(np.maximum(square_RN, 1e-12))
    return ((z_RN > 1.645) & counted_RN & (n_N >= 10)).max(1).astype(np.float64)


def _power(p: GateProtocol, rate: float, rules: Rules, needed: float) -> Iterator[Figure]:
    """Plain answers: share promoted, answers until decided, and the fixed size with the same power."""
    rng = np.random.default_rng([p.seed, 100 + round(100 * rate)])
    x_RN = (rng.random((p.runs, p.cap)) < rate).astype(np.float64)
    up_RN = log_evidence(x_RN, np.ones_like(x_RN)) >= needed
    up_RN[:, : rules.fewest - 1] = False
    down_RN = log_ratio(x_RN, np.ones_like(x_RN), rules.worth) <= math.log(rules.beta / (1 - rules.alpha_of(1)))
    up_R, down_R = (np.where(hit_RN.max(1), hit_RN.argmax(1) + 1, p.cap + 1) for hit_RN in (up_RN, down_RN))
    promoted_R = (up_R < down_R).astype(np.float64)
    used_R = np.minimum(np.minimum(up_R, down_R), p.cap).astype(np.float64)
    power = mean("E6", f"win rate {rate:.2f}: promoted", promoted_R, resamples=p.resamples)
    yield power
    used = mean("E6", f"win rate {rate:.2f}: answers until decided, mean", used_R, resamples=p.resamples)
    yield used
    yield Figure(
        "E6", f"win rate {rate:.2f}: answers until promoted, median of those", *_median(used_R[promoted_R > 0])
    )
    for alpha, decides in ((rules.alpha_of(1), False), (rules.alpha, rate == p.criteria["labels_at"])):
        fixed, limit = fixed_size(rate, power.value, alpha), p.criteria["share_of_fixed"]
        name = f"win rate {rate:.2f}: mean over the {fixed} answers of a fixed-size test of that power at alpha {alpha:.3f}"
        figure = Figure("E6", name, used.value / fixed, used.low / fixed, used.high / fixed)
        yield Figure(*_parts(figure), f"at most {limit}", figure.value <= limit) if decides else figure


def _median(values: Float) -> tuple[float, float, float]:
    """With the middle half."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)) if len(values) else (math.inf,) * 3
    return float(middle), float(low), float(high)


def fixed_size(rate: float, power: float, alpha: float) -> int:
    """Least number of plain answers for which an exact one-sided binomial test keeps alpha and reaches the power."""
    n = np.arange(5, 20_000)
    critical_N = binom.isf(alpha, n, 0.5) + 1  # wins from which it promotes
    reached_N = binom.sf(critical_N - 1, n, rate) >= power
    return int(n[int(reached_N.argmax())])
