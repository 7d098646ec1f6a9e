"""Which pairs of answers to put before people: by `feedback.ask` where enough has been said, else by chance. No torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tomoni.studio.insight import embed

if TYPE_CHECKING:
    from tomoni.feedback.entries import Answer
    from tomoni.studio.insight import Fitted

Chosen = tuple["Answer", "Answer", str]  # two answers, and by which rule they were chosen


@dataclass(frozen=True, slots=True)
class Candidate:
    """Different answers to one prompt."""

    prompt: str
    answers: tuple[Answer, ...]


def choose(candidates: Sequence[Candidate], fitted: Fitted | None, n: int) -> list[Chosen]:
    """At most `n` pairs, each of another prompt."""
    if fitted is None or not all(_fits(candidate, fitted) for candidate in candidates):
        return [by_chance(candidate) for candidate in random.sample(list(candidates), min(n, len(candidates)))]
    from tomoni.feedback import ask

    answers = [answer for candidate in candidates for answer in candidate.answers]
    by_id = {answer.id: answer for answer in answers}
    among = ask.Candidates.of(
        [answer.id for answer in answers], [answer.prompt for answer in answers], embed(fitted.space, answers)
    )
    picks = ask.choose(among, fitted.people.head, n=n, seed=random.getrandbits(31), rule=fitted.rule)
    one_each = {by_id[pick.first].prompt: pick for pick in reversed(picks)}
    return [(by_id[pick.first], by_id[pick.second], str(pick.selected_by)) for pick in one_each.values()]


def _fits(candidate: Candidate, fitted: Fitted) -> bool:
    size = len(fitted.space.centre_F)
    return all(answer.features is not None and len(answer.features) == size for answer in candidate.answers)


def by_chance(candidate: Candidate) -> Chosen:
    first, second = random.sample(candidate.answers, 2)
    return first, second, "random"
