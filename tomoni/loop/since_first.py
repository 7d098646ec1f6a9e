"""How far a line of versions has come since its first one, from blind judgements alone.

Each round asks, besides the gate's pairs of candidate and base, a few pairs of candidate and first version. They decide
nothing. Together with every round's own judgements they place all versions on one scale (Bradley and Terry 1952): a
version's strength against the first, with what is not known of it. Who beats whom is taken to add up along the line, as
that model does; the direct pairs are there so that it is not taken on trust alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from tomoni.evaluate.metrics import Interval
from tomoni.evaluate.overoptimisation import Z_95
from tomoni.feedback.arrays import Float
from tomoni.loop import asked as asking
from tomoni.loop.evidence import RANDOM, Said

if TYPE_CHECKING:
    from tomoni.evaluate.subject import Subject
    from tomoni.feedback.entries import PromptRow
    from tomoni.registry import Registry, Version

FIRST = "first"  # selected_by of pairs with the first version's answers
PAIRS = 20
FILE = "first.jsonl"
SETTLED = 1e-10  # of a strength, in logits


def first_of(registry: Registry, version: Version) -> Version:
    """Where the line begins: what people began to teach, before any press of Learn and any round; the version itself where
    it was made otherwise."""
    while version.base is not None and (version.method == "learn" or version.method.startswith("round")):
        version = registry.get(version.base)
    return version


def ask(
    round_: int, first: Subject, candidate: Subject, held_out: Sequence[PromptRow], *, key: str, seed: int
) -> list[asking.Asked]:
    """Pairs of both versions' answers to some of the held-out prompts, which people judge among the gate's."""
    key = f"{key} {FIRST}"
    rows = random.Random(key).sample(list(held_out), min(PAIRS, len(held_out)))
    answers = asking.answered(first, candidate, [row.messages for row in rows], seed=seed)
    chosen = [(row, FIRST) for row in rows]
    pairs, _ = asking.pairs_of(round_, chosen, answers, key=key, slices={row.topic: row.topic for row in rows})
    return pairs


# -- one scale -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Met:
    """`n` pairs of answers of two versions, of which the new one's was preferred in `won` (ties half)."""

    new: str
    old: str
    won: float
    n: int


def met(new: str, old: str, said: Iterable[Said], selected_by: str = RANDOM) -> Met:
    """Each pair once: the mean of what was said of it. Pairs that were passed over say nothing."""
    by_pair: dict[str, list[float]] = {}
    for one in said:
        if one.selected_by == selected_by and not one.skipped:
            by_pair.setdefault(one.pair.partition("~")[0], []).append(one.x)
    return Met(new, old, sum(float(np.mean(xs)) for xs in by_pair.values()), len(by_pair))


def against(first: str, known: Sequence[Met]) -> dict[str, Interval]:
    """Of each version that judgements connect with the first: how often its answer is preferred to the first's, with the
    95 % interval of its strength (Laplace). Half a win and half a loss more in each meeting keep what is one-sided finite."""
    linked = _linked(first, known)
    names = sorted(linked - {first})
    if not names:
        return {}
    place = {name: number for number, name in enumerate(names)}
    games = [one for one in known if one.n and {one.new, one.old} <= linked]
    design_GV = np.zeros((len(games), len(names)))
    for row, one in enumerate(games):
        for name, sign in ((one.new, 1.0), (one.old, -1.0)):
            if name != first:
                design_GV[row, place[name]] = sign
    won_G = np.array([one.won + 0.5 for one in games])
    n_G = np.array([one.n + 1.0 for one in games])
    strength_V, covariance_VV = _fitted(design_GV, won_G, n_G)
    error_V = np.sqrt(np.diag(covariance_VV))
    return {
        name: Interval(*(float(expit(strength_V[at] + z * error_V[at])) for z in (0.0, -Z_95, Z_95)))
        for name, at in place.items()
    }


def _linked(first: str, known: Sequence[Met]) -> set[str]:
    found, before = {first}, 0
    while len(found) > before:
        before = len(found)
        found |= {name for one in known if one.n and {one.new, one.old} & found for name in (one.new, one.old)}
    return found


def _fitted(design_GV: Float, won_G: Float, n_G: Float) -> tuple[Float, Float]:
    """Newton's steps, halved where the likelihood would fall; the likelihood is concave."""
    strength_V = np.zeros(design_GV.shape[1])

    def likelihood(at_V: Float) -> float:
        x_G = design_GV @ at_V
        return float(won_G @ x_G - n_G @ np.logaddexp(0.0, x_G))

    while True:
        p_G = expit(design_GV @ strength_V)
        curvature_VV = design_GV.T @ (design_GV * (n_G * p_G * (1 - p_G))[:, None])
        step_V = np.linalg.solve(curvature_VV, design_GV.T @ (won_G - n_G * p_G))
        while likelihood(strength_V + step_V) < likelihood(strength_V) and np.abs(step_V).max() > SETTLED:
            step_V = step_V / 2
        strength_V = strength_V + step_V
        if np.abs(step_V).max() <= SETTLED:
            return strength_V, np.asarray(np.linalg.inv(curvature_VV), dtype=np.float64)
