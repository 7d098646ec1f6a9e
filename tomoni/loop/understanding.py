"""How well a common taste foretells what people say: what the reward head knows, beside what it could know at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tomoni.evaluate.calibration import expected_error
from tomoni.feedback.people import Judged, People


@dataclass(frozen=True, slots=True)
class Understood:
    """Each answer foretold from all others. `ceiling`: the accuracy that these people's slips would leave if their taste
    were known exactly and no pair were close; `ece` in ten bins; `loss` in nats; over `n` answers that were no tie."""

    accuracy: float
    ceiling: float
    ece: float
    loss: float
    n: int


def understood(judged: Sequence[Judged], found: People) -> Understood | None:
    """None where nobody said anything but ties."""
    told_N = np.array([one.y in (0.0, 1.0) and not one.gold for one in judged], dtype=bool)
    if not told_N.any():
        return None
    skill_N = np.array([found.of(one.person).kappa for one in judged])[told_N]
    first_N = np.array([one.y for one in judged])[told_N] == 1.0
    # that this person says the first: the others' taste, seen through the person's slips
    chance_N = np.clip(0.5 + skill_N * (found.gaps.probability_N[told_N] - 0.5), 1e-6, 1 - 1e-6)
    right_N = (chance_N > 0.5) == first_N
    said_N = np.where(first_N, chance_N, 1 - chance_N)
    return Understood(
        accuracy=float(right_N.mean()),
        ceiling=float((0.5 + np.abs(skill_N) / 2).mean()),
        ece=expected_error(np.maximum(chance_N, 1 - chance_N), right_N, bins=10),
        loss=float(-np.log(said_N).mean()),
        n=len(said_N),
    )
