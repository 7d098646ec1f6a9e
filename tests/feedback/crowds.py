"""People who answer by rule, about a taste that is linear in the features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from tomoni.feedback.people import Judged

KINDS = ("crowd",) * 12 + ("random",) * 3 + ("position",) * 3 + ("reversed",) * 2
FLIPS = {"perfect": 0.0, "trained": 0.15, "crowd": 0.25}


def answer(kind: str, gap: float, side: int, rng: np.random.Generator) -> float:
    """1 the first wins, 0 the second."""
    if kind == "random":
        return float(rng.random() < 0.5)
    if kind == "position":
        return float((rng.random() < 0.92) == (side > 0))
    right = float(rng.random() < expit(gap))
    if kind == "reversed":
        return 1 - right
    return 1 - right if rng.random() < FLIPS[kind] else right


def answers(
    kinds: Sequence[str] = KINDS,
    *,
    each: int = 40,
    d: int = 16,
    seed: int = 0,
    gap: float = 2.5,
    gold: float = 0.05,
) -> tuple[list[Judged], np.ndarray]:
    """`each` answers of every person in turn, and the taste. Person number k is called k, two digits, then its kind."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=d)
    w *= gap / np.linalg.norm(w) / np.sqrt(2)
    found = []
    for number in range(each):
        for k, kind in enumerate(kinds):
            delta, side = rng.normal(size=d) * np.sqrt(2), int(rng.choice([-1, 1]))
            is_gold = rng.random() < gold
            if is_gold:
                delta = delta + w * ((rng.choice([-3.0, 3.0]) - delta @ w) / (w @ w))
            y = answer(kind, float(delta @ w), side, rng)
            expected = float(delta @ w > 0) if is_gold else None
            found.append(Judged(f"{k:02} {kind}", delta, y, side, expected, item=f"{number} {k}"))
    return found, w
