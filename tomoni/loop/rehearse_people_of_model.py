"""Who judges the answers of a rehearsal's language model, and what its prompts and models are."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tomoni.feedback.entries import prompt_id
from tomoni.loop.taste import Prompt
from tomoni.records import Message
from tomoni.world.tastes import Taste

if TYPE_CHECKING:
    from tomoni.evaluate.subject import Subject


@dataclass(slots=True)
class Person:
    """Who judges by `taste`, and is wrong now and then."""

    id: str
    taste: Taste
    flips: float
    rng: random.Random

    def verdict(self, first: str, second: str, *, coin: bool = False) -> str:
        if coin:
            return self.rng.choice(("first", "second"))
        said = self.taste.prefers(first, second, self.rng)
        if said != "tie" and self.rng.random() < self.flips:
            return {"first": "second", "second": "first"}[said]
        return said


def preferred(taste: Taste, new: Subject, old: Subject, prompts: Sequence[Prompt]) -> float:
    """How often the new model's answer has more of the taste than the old one's, each drawn once; ties half."""
    from tomoni.loop.practice import draw_one

    texts = zip(draw_one(new, prompts, seed=2), draw_one(old, prompts, seed=1), strict=True)
    gap_N = np.array([taste.score(one) - taste.score(other) for one, other in texts])
    return float((gap_N > 0).mean() + 0.5 * (gap_N == 0).mean())


def prompts_of(records: Iterable[Mapping[str, Any]]) -> list[Prompt]:
    """The first question of each, once."""
    found = [(Message("user", record["messages"][0]["content"]),) for record in records]
    return list({prompt_id(one): one for one in found}.values())


def open_model(place: str | Path) -> Subject:
    from tomoni.evaluate.subject import open_subject

    return open_subject(place)
