"""E6: how often the gate promotes what is no better, looked at after every judgement, and how many judgements it takes.

Everything is fixed by the protocol (rehearse_gate.yaml). The arms:

    plain     one perfect judge, no ties: the closed form's case, beside a z-test that is looked at as often
    head      the same, with the reward head as a control variate
    crowd     a mixed pool with ties, a tenth in both orders, people's weights known with an error
    equal     the same people and answers, everybody counted alike
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from scipy.special import expit
from scipy.stats import norm

from tomoni.evaluate.metrics import wilson
from tomoni.loop.evidence import RANDOM, Counted
from tomoni.loop.gate import Game, Settings
from tomoni.loop.lengths import length_controlled
from tomoni.loop.rehearse_figures import Figure, bootstrap

FILE = Path(__file__).with_name("rehearse_gate.yaml")
Arm = Literal["plain", "head", "crowd", "equal"]
ARMS: tuple[Arm, ...] = ("plain", "head", "crowd", "equal")
BLOCK = 50  # judgements between two looks of a z-test that is looked at now and then


@dataclass(frozen=True, slots=True)
class Protocol:
    form: Mapping[str, Any]
    sha256: str
    quick: bool

    def seeds(self, which: Literal["nulls", "candidates"]) -> range:
        first = int(self.form["seeds"]["first"])
        return range(first, first + int(self.form["seeds"][which]))

    @property
    def settings(self) -> Settings:
        return Settings(worth=self.form["worth"], miss=self.form["miss"], most=self.form["most"])


def protocol(*, quick: bool = False, first_seed: int | None = None, file: Path = FILE) -> Protocol:
    """`first_seed`: other seeds than the protocol's, for looking around without using them up."""
    content = file.read_bytes()
    form = yaml.safe_load(content)
    smaller = form.pop("quick")
    if quick:
        form = form | smaller
    if first_seed is not None:
        form["seeds"] = form["seeds"] | {"first": first_seed}
    return Protocol(form, hashlib.sha256(content).hexdigest(), quick)


@dataclass(frozen=True, slots=True)
class Run:
    """`outcome` after `labels` judgements; `reached`: judgements until the evidence sufficed, were nothing given up, inf where
    it never did; `z_often`, `z_block`: whether a z-test would ever have promoted, looked at after
    every judgement, and after every 50."""

    outcome: Literal["promote", "keep"]
    labels: int
    reached: float
    z_often: bool
    z_block: bool


def rehearse(p: Protocol) -> Iterator[Figure]:
    """Figures as they are found."""
    for arm in ARMS[:3]:
        yield from _nulls(p, arm, [run(p, arm, seed, null=True) for seed in p.seeds("nulls")])
    found = {arm: [run(p, arm, seed, null=False) for seed in p.seeds("candidates")] for arm in ARMS}
    for arm, runs in found.items():
        yield from _candidates(p, arm, runs)
    reached = {arm: np.array([one.reached for one in runs]) for arm, runs in found.items()}
    name = "crowd: judgements until the evidence suffices where all count alike, over those where people are weighed (medians)"

    def ratio(weight_S: np.ndarray) -> float:
        times = weight_S.astype(int)
        equal, weighed = (float(np.median(np.repeat(reached[arm], times))) for arm in ("equal", "crowd"))
        return equal / weighed

    count = len(reached["crowd"])
    yield Figure("E6", name, ratio(np.ones(count)), *bootstrap(ratio, count, resamples=500))


def _nulls(p: Protocol, arm: Arm, runs: list[Run]) -> Iterator[Figure]:
    limit = float(p.form["criteria"]["false_promotions"])
    rate = wilson(sum(one.outcome == "promote" for one in runs), len(runs))
    wanted = f"at most {limit:.0%}"
    yield Figure("E6", f"{arm}: false promotions", rate.value, rate.low, rate.high, wanted, rate.value <= limit)
    labels, low, high = _labels(runs)
    yield Figure("E6", f"{arm}: judgements until one that is no better is given up, mean", labels, low, high)
    if arm == "plain":
        for name, hits in (
            ("every judgement", [one.z_often for one in runs]),
            ("every 50", [one.z_block for one in runs]),
        ):
            rate = wilson(sum(hits), len(hits))
            yield Figure("E6", f"z-test looked at after {name}: false promotions", rate.value, rate.low, rate.high)


def _candidates(p: Protocol, arm: Arm, runs: list[Run]) -> Iterator[Figure]:
    power = wilson(sum(one.outcome == "promote" for one in runs), len(runs))
    yield Figure("E6", f"{arm}: better ones promoted", power.value, power.low, power.high)
    labels, low, high = _labels(runs)
    yield Figure("E6", f"{arm}: judgements until the decision, mean", labels, low, high)
    yield Figure("E6", f"{arm}: the same, median", float(np.median([one.labels for one in runs])), math.nan, math.nan)
    if arm not in ("plain", "head"):
        return
    rate, alpha, criteria = float(p.form["world"]["rate"]), float(p.form["alpha"]), p.form["criteria"]
    for name, asked in (("a power of 80 %", 0.8), ("the same power", min(power.value, 0.999))):
        fixed = fixed_size(rate, alpha, asked)
        figure = Figure(
            "E6",
            f"{arm}: mean judgements over the fixed-size test's {fixed:.0f} at {name}",
            labels / fixed,
            low / fixed,
            high / fixed,
        )
        if name == "a power of 80 %":
            figure = replace(
                figure,
                criterion=f"at most {criteria['labels']} (aim {criteria['aim']})",
                met=figure.value <= criteria["labels"],
            )
        yield figure


def fixed_size(rate: float, alpha: float, power: float) -> float:
    """Judgements of a one-sided test of one half at this level and power, decided once (normal approximation)."""
    spread = norm.isf(alpha) * 0.5 + norm.ppf(power) * math.sqrt(rate * (1 - rate))
    return float((spread / (rate - 0.5)) ** 2)


def _labels(runs: list[Run]) -> tuple[float, float, float]:
    values = np.array([one.labels for one in runs], dtype=np.float64)
    half = 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half


# -- one run ---------------------------------------------------------------------------------------------------------


def run(p: Protocol, arm: Arm, seed: int, *, null: bool) -> Run:
    pairs, labels = world(p, arm, seed, null=null)
    outcome, n = course(pairs, -math.log(float(p.form["alpha"])), p.settings)
    x_N = np.array([pair.x for pair in pairs])
    z_N = (np.cumsum(x_N) - 0.5 * np.arange(1, len(x_N) + 1)) / (0.5 * np.sqrt(np.arange(1, len(x_N) + 1)))
    beyond_N = z_N > norm.isf(float(p.form["alpha"]))
    log_e_N = Game(pairs).bets.log_e_N
    enough_N = log_e_N >= -math.log(float(p.form["alpha"]))
    reached = float(labels[: int(enough_N.argmax()) + 1].sum()) if enough_N.any() else math.inf
    return Run(outcome, int(labels[:n].sum()), reached, bool(beyond_N.any()), bool(beyond_N[BLOCK - 1 :: BLOCK].any()))


def course(pairs: list[Counted], needed: float, settings: Settings) -> tuple[Literal["promote", "keep"], int]:
    """What the gate decides, and after how many pairs, when it is asked after every one; that is `gate.decide` on each
    beginning of `pairs`, which a test holds."""
    game = Game(pairs)
    passed_N = np.maximum.accumulate(game.bets.log_e_N) >= needed
    futile_N = ~passed_N & (game.futility_N(settings.worth) >= -math.log(settings.miss))
    end = min(int(futile_N.argmax()) if futile_N.any() else len(pairs), settings.most, len(pairs))
    for place in np.flatnonzero(passed_N[:end]):
        some = slice(place + 1)
        controlled = length_controlled(game.x_N[some], game.dlen_N[some], weight_N=game.bet_N[some])
        if controlled.theta_low > 0:
            return "promote", int(place) + 1
    return "keep", min(end + 1, len(pairs))


def world(p: Protocol, arm: Arm, seed: int, *, null: bool) -> tuple[list[Counted], np.ndarray]:
    """The pairs as the gate counts them, and the judgements that each took."""
    rng = np.random.default_rng([seed, 6, int(null)])
    form, n = p.form["world"], int(p.form["most"])
    dlen_N = rng.normal(0, form["length"], n)
    crowd = arm in ("crowd", "equal")
    rate = p.form["crowd"]["rate"] if crowd else form["rate"]
    mu = 0.0 if null else _mean_gap(rate, form["spread"])
    own = math.sqrt(form["spread"] ** 2 - (form["liking"] * form["length"]) ** 2)
    gap_N = mu + rng.normal(0, own, n) + form["liking"] * dlen_N
    if crowd:
        x_N, bet_N, labels_N = _crowd(p.form["crowd"], gap_N, rng)
        bet_N = bet_N if arm == "crowd" else np.full(n, 1.0)
    else:
        x_N, bet_N, labels_N = (rng.random(n) < expit(gap_N)).astype(float), np.ones(n), np.ones(n)
    expected_N, elsewhere_N = _head(p.form["head"], mu, form["spread"], gap_N, rng)
    seen = arm == "head"
    return [
        Counted(
            f"p{place}", float(x_N[place]), float(bet_N[place]), "", float(dlen_N[place]), RANDOM, ("k",),
            float(expected_N[place]) if seen else None, float(elsewhere_N[place]) if seen else None,
        )
        for place in range(n)
    ], labels_N  # fmt: skip


def _mean_gap(rate: float, spread: float) -> float:
    """By bisection on the mean of s(N(mu, spread^2)), at Gauss-Hermite nodes."""
    x_G, weight_G = np.polynomial.hermite_e.hermegauss(60)
    low, high = 0.0, 20.0
    for _ in range(80):
        middle = (low + high) / 2
        mean = float(weight_G @ expit(middle + spread * x_G) / weight_G.sum())
        low, high = (middle, high) if mean < rate else (low, middle)
    return low


def _head(
    form: Mapping[str, Any], mu: float, spread: float, gap_N: np.ndarray, rng: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Win rates as a head gives them that sees gaps through noise and does not know `mu`."""
    blur, others = float(form["blur"]) * spread, int(form["elsewhere"])
    shrunk = spread**2 / (spread**2 + blur**2)
    left = math.sqrt(1 + math.pi * shrunk * blur**2 / 8)
    elsewhere_NM = mu + rng.normal(0, spread, (len(gap_N), others))
    both = (gap_N, elsewhere_NM)
    own_N, other_NM = (expit(shrunk * (gaps + rng.normal(0, blur, gaps.shape)) / left) for gaps in both)
    return own_N, other_NM.mean(1)


def _crowd(form: Mapping[str, Any], gap_N: np.ndarray, rng: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outcomes, bets and judgements of each pair; both orders are by two people."""
    kinds = [kind for kind, share in form["shares"].items() for _ in range(round(share * form["people"]))]
    known_K = np.clip([_kappa(form, kind) + rng.normal(0, form["error"]) for kind in kinds], 0, 1)
    lean_K = rng.normal(0, 0.3, len(kinds))
    both_N = rng.random(len(gap_N)) < form["both"]
    side_N = np.where(rng.random(len(gap_N)) < 0.5, 1.0, -1.0)

    def asked(side_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        who_N = rng.integers(0, len(kinds), len(gap_N))
        p_N = _first(form, np.array(kinds)[who_N], gap_N, side_N, lean_K[who_N])
        x_N = np.where(rng.random(len(gap_N)) < form["tie"], 0.5, rng.random(len(gap_N)) < p_N)
        return x_N, known_K[who_N]

    (x_N, bet_N), (again_N, bet_again_N) = asked(side_N), asked(-side_N)
    x_N, bet_N = np.where(both_N, (x_N + again_N) / 2, x_N), np.where(both_N, (bet_N + bet_again_N) / 2, bet_N)
    return x_N, bet_N, 1.0 + both_N


def _kappa(form: Mapping[str, Any], kind: str) -> float:
    return {"crowd": 1 - 2 * form["flips"], "reversed": 2 * form["flips"] - 1}.get(kind, 0.0)


def _first(
    form: Mapping[str, Any], kind_N: np.ndarray, gap_N: np.ndarray, side_N: np.ndarray, lean_N: np.ndarray
) -> np.ndarray:
    """P(the candidate's answer is preferred), which stands at `side_N`."""
    seen_N = expit(gap_N + side_N * form["lean"] * lean_N)
    attending_N = form["flips"] + (1 - 2 * form["flips"]) * np.where(kind_N == "reversed", 1 - seen_N, seen_N)
    clicking_N = np.where(kind_N == "position", expit(side_N * 2.0), 0.5)
    return np.asarray(np.where(np.isin(kind_N, ("crowd", "reversed")), attending_N, clicking_N))
