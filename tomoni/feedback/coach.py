"""What people are told after a batch, as numbers and keys; the words are the studio's. Numpy only.

Coaching pays by the square: a label is worth (2a - 1)^2 of a perfect one, so that from 75 to 85 % accuracy a person's
labels are worth twice as much. What a model thinks is never shown before the answer is given, for people lean to what
they are shown; `guess_after` cannot be called without the answer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tomoni.feedback.agreement import Agreement, alpha, self_consistency
from tomoni.feedback.arrays import Float
from tomoni.feedback.flags import Flag, Lean, lean, repeats, review
from tomoni.feedback.head import Head
from tomoni.feedback.people import Judged, People, Reliability
from tomoni.feedback.weave import drawing

Useful = Literal["comparisons", "corrections", "rules", "slower", "repeats"]

MOST_DIFFERENT = 3
DIFFERS = 0.6  # chance that a good judge says otherwise, from which an answer is shown
MANY_TIES = 0.4  # of a batch: then neither answer is good, and one better answer says more
FEW_LABELS = 30
GUESS_EVERY = 5
TREND = 100  # labels a point


@dataclass(frozen=True, slots=True)
class Differs:
    """An answer that the rest of the people (or gold) would hardly have given. `chance`: that a good judge says otherwise.

    `number`: of the answer in the list that was given; `rules`: of the guideline, that its tags touch.
    """

    number: int
    item: str
    said: float
    chance: float
    gold: bool
    tags: tuple[str, ...]
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Learnt:
    """What the last training changed, for the person who judged: prompts with answers before and after, by id."""

    version: str
    trials: tuple[str, ...]
    predicted: tuple[float, float, float] | None = None  # win rate and its 95 % interval
    measured: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Coaching:
    """Of one person after a batch. `before`: A - F as it was before the batch, None for a first batch."""

    person: str
    reliability: Reliability
    worth: float
    differs: tuple[Differs, ...]
    lean: Lean
    consistency: Agreement | None
    gold_right: int
    gold_asked: int
    rules: tuple[tuple[str, int], ...]
    flags: tuple[Flag, ...]
    learnt: Learnt | None
    useful: Useful


def after_batch(
    judged: Sequence[Judged],
    people: People,
    *,
    person: str,
    since: int = 0,
    rules: Mapping[str, Sequence[str]] | None = None,
    learnt: Learnt | None = None,
) -> Coaching:
    """`judged` are everybody's answers, in the order that `people` was fitted on; the batch are the person's from
    number `since` on. `rules`: ids of the guideline's rules that each reason tag belongs to."""
    at = [number for number in range(since, len(judged)) if judged[number].person == person]
    all_differ = [one for number in at if (one := _differs(judged, people, number, rules or {})) is not None]
    all_differ.sort(key=lambda one: (-one.chance, one.number))
    touched = Counter(rule for one in all_differ for rule in one.rules)
    again = repeats(judged, person)
    gold = [one for one in judged if one.person == person and one.gold and one.y in (0, 1)]
    flags = tuple(flag for flag in review(judged, people) if flag.person == person)
    reliability = people.of(person)
    return Coaching(
        person,
        reliability,
        reliability.worth,
        tuple(all_differ[:MOST_DIFFERENT]),
        lean(judged, people, person),
        self_consistency(again) if again else None,
        sum(one.y == one.expected for one in gold),
        len(gold),
        tuple(sorted(touched.items(), key=lambda item: (-item[1], item[0]))),
        flags,
        learnt,
        _useful([judged[number] for number in at], touched, flags, reliability),
    )


def _differs(
    judged: Sequence[Judged], people: People, number: int, rules: Mapping[str, Sequence[str]]
) -> Differs | None:
    one = judged[number]
    if one.y not in (0, 1):
        return None
    first = float(people.gaps.probability_N[number])
    chance = 1 - first if one.y == 1 else first
    if chance < DIFFERS:
        return None
    touched = tuple(dict.fromkeys(rule for tag in one.tags for rule in rules.get(tag, ())))
    return Differs(number, one.item, one.y, chance, one.gold, one.tags, touched)


def _useful(batch: Sequence[Judged], touched: Counter[str], flags: Sequence[Flag], reliability: Reliability) -> Useful:
    """The kind of judgement that would help most next."""
    keys = {flag.key for flag in flags}
    if keys & {"fast", "runs", "position", "blind", "inattentive"}:
        return "slower"
    if "inconsistent" in keys:
        return "repeats"
    if len(batch) >= 5 and sum(one.y not in (0, 1) for one in batch) > MANY_TIES * len(batch):
        return "corrections"
    if touched and max(touched.values()) >= 3 and reliability.n >= FEW_LABELS:
        return "rules"
    return "comparisons"


class NotYet(Exception):
    """A programmer's mistake: the model's guess was asked for before the person's answer."""


@dataclass(frozen=True, slots=True)
class Guess:
    """What the model thought of the pair just answered: the chance that the first is better."""

    first: float


def guess_after(answer: Judged | None, head: Head, *, person: str, number: int, seed: int = 0) -> Guess | None:
    """The model's guess on one answer in five (drawn, so that nobody waits for it), once the answer is given."""
    if answer is None:
        raise NotYet("the guess belongs after the answer")
    block, place = divmod(number, GUESS_EVERY)
    if int(drawing(seed, person, "guess", block).integers(GUESS_EVERY)) != place:
        return None
    return Guess(float(head.probability(answer.delta)))


@dataclass(frozen=True, slots=True)
class Worthwhile:
    """`gain`: how many old labels a new one is worth; `price`: how many times as long it takes."""

    gain: float
    price: float

    @property
    def pays(self) -> bool:
        return self.gain > self.price


def worthwhile(*, accuracy: float, better: float, seconds: float, longer: float) -> Worthwhile:
    """Break-even of a lever that raises accuracy and takes time: (a_new - .5)^2 / (a_old - .5)^2 against t_new / t_old.

    Raises ValueError for accuracies that are not over .5 and times that are not over 0.
    """
    if not (0.5 < accuracy <= 1 and 0.5 < better <= 1 and seconds > 0 and longer > 0):
        raise ValueError("accuracies over .5 and times over 0")
    return Worthwhile(((better - 0.5) / (accuracy - 0.5)) ** 2, longer / seconds)


@dataclass(frozen=True, slots=True)
class Tagged:
    """Pairs of answers by two people to one item: how many agree and differ, among those where the tag was given."""

    agree: int
    differ: int


@dataclass(frozen=True, slots=True)
class TeamCoaching:
    """`value`: mean of everybody's (A - F)^2, by labels; `information_a_minute`: sum of values per minute of work.

    `by_tag`: where people differ; `trend`: alpha of each hundred overlapping answers; `unresolved`: items on which
    answers differ, those that the head is surest about last, for the owner to look at.
    """

    agreement: Agreement
    value: float
    information_a_minute: float | None
    by_tag: Mapping[str, Tagged]
    trend: tuple[float | None, ...]
    unresolved: tuple[str, ...]
    flags: tuple[Flag, ...]
    signal: float


def team(judged: Sequence[Judged], people: People) -> TeamCoaching:
    by_item: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(judged):
        if one.item and not one.gold:
            by_item[one.item].append(number)
    several = {item: _one_each(judged, at) for item, at in by_item.items()}
    several = {item: at for item, at in several.items() if len(at) > 1}
    values_N = np.array([people.of(one.person).value for one in judged])
    minutes = sum(one.seconds or 0.0 for one in judged) / 60
    timed_N = np.array([one.seconds is not None for one in judged], dtype=bool)
    split = [item for item, at in several.items() if len({judged[number].y for number in at}) > 1]
    return TeamCoaching(
        alpha([[judged[number].y for number in at] for at in several.values()]),
        float(values_N.mean()) if len(values_N) else 0.0,
        float(values_N[timed_N].sum()) / minutes if minutes > 0 else None,
        _by_tag(judged, several),
        _trend(judged, several),
        tuple(sorted(split, key=lambda item: (_sureness(people.gaps.mean_N, several[item]), item))),
        tuple(review(judged, people)),
        people.signal,
    )


def _one_each(judged: Sequence[Judged], at: Sequence[int]) -> list[int]:
    """The first answer of each person, so that repeats by one person do not count as agreement between people."""
    first: dict[str, int] = {}
    for number in at:
        first.setdefault(judged[number].person, number)
    return list(first.values())


def _by_tag(judged: Sequence[Judged], several: Mapping[str, Sequence[int]]) -> dict[str, Tagged]:
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for at in several.values():
        tags = sorted({tag for number in at for tag in judged[number].tags})
        answers = [judged[number].y for number in at]
        pairs = [answers[i] != answers[j] for i in range(len(answers)) for j in range(i)]
        for tag in tags:
            found[tag][0] += pairs.count(False)
            found[tag][1] += pairs.count(True)
    return {tag: Tagged(agree, differ) for tag, (agree, differ) in found.items()}


def _trend(judged: Sequence[Judged], several: Mapping[str, Sequence[int]]) -> tuple[float | None, ...]:
    """Alpha over items in the order in which they got their second answer, a hundred answers a point."""
    in_order = sorted(several.values(), key=lambda at: sorted(at)[1])
    points: list[float | None] = []
    here: list[list[float]] = []
    for at in in_order:
        here.append([judged[number].y for number in at])
        if sum(map(len, here)) >= TREND:
            points.append(alpha(here, resamples=1).value)
            here = []
    return tuple(points)


def _sureness(mean_N: Float, at: Sequence[int]) -> float:
    return abs(float(mean_N[list(at)].mean()))
