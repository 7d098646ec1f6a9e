"""Which pairs of answers to put before people: by `feedback.ask` where enough has been said, else by chance. No torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tomoni.feedback.entries import Answer
    from tomoni.feedback.store import Store

Chosen = tuple["Answer", "Answer", str]  # two answers, and by which rule they were chosen


@dataclass(frozen=True, slots=True)
class Candidate:
    """Different answers to one prompt."""

    prompt: str
    answers: tuple[Answer, ...]


def choose(store: Store, candidates: Sequence[Candidate]) -> list[Chosen]:
    """One pair of each prompt."""
    return [by_chance(candidate) for candidate in candidates]


def by_chance(candidate: Candidate) -> Chosen:
    first, second = random.sample(candidate.answers, 2)
    return first, second, "random"
