"""What the gate may count: judgements on a candidate's answers against its base's, in the order in which they came.

Four rules keep an e-value an e-value, and each can be checked from what was known before a judgement was given:

- A pair of answers counts once. Of several people who judge it the first one counts; a pair that is asked in both orders
  counts when both are in, as their mean. (Two judgements of one pair are no two draws: who wins once wins again.)
- How much a person's judgement counts was fitted on what was said before the gate began (`Judge.until`).
- A pair that is passed over counts as a tie of the whole, and for nothing else: who leaves the pairs on which the head
  expects little (or much) would otherwise shift what it is compared with.
- Nobody's share of what counts on one topic passes a cap. What is over it waits, in order, until others have caught up.

Numpy only; nothing here looks at a store.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tomoni.errors import DataError

RANDOM = "random"  # how pairs are chosen that speak for the whole; others speak for their slice only
OTHER = ""  # the slice of topics that are too small for one of their own


@dataclass(frozen=True, slots=True)
class Said:
    """One judgement. `x`: 1 the candidate's answer was preferred, 0 the base's, .5 a tie or both bad.

    `sequence` orders them; `both`: the pair is asked in both orders. `dlen`: log of the length of the candidate's answer
    over the base's. `expected`: the win rate that the head gives this pair, `elsewhere`: the mean of those it gives to
    pairs of other prompts that nobody judges, no two judged pairs sharing them (both or none). `skipped`: passed over.
    """

    sequence: int
    pair: str
    person: str
    x: float
    slice: str = OTHER
    both: bool = False
    dlen: float = 0.0
    selected_by: str = RANDOM
    expected: float | None = None
    elsewhere: float | None = None
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Judge:
    """`weight`: A - F of the reliability model, how much more often this person attends than reverses, 0 to 1.
    `until`: the sequence number of the last judgement that it was fitted on."""

    weight: float
    until: int


@dataclass(frozen=True, slots=True)
class Probed:
    """The same probes put to both versions: for each, whether the base and the candidate passed it.
    `hard`: probes that a candidate must pass whatever the base does, by number. `first`: what the first version of the
    line passed, where that is not the base."""

    base: Sequence[bool]
    candidate: Sequence[bool]
    hard: frozenset[int] = frozenset()
    first: Sequence[bool] | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """`said` in any order; `round`: which one this is, from 1 on. `flagged`: judged pairs in which only the candidate's
    answer was flagged as harmful, private or untrue, and in which only the base's was. `contested`: slices on which people
    contradicted each other before the round began. `alike`: prompts to which both answer the same, of those drawn so far."""

    said: Sequence[Said]
    judges: Mapping[str, Judge] = field(default_factory=dict)
    round: int = 1
    safety: Probed | None = None
    capability: Probed | None = None
    flagged: tuple[int, int] = (0, 0)
    alike: tuple[int, int] = (0, 0)
    contested: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Counted:
    """A pair as it counts; `people`: who judged it."""

    pair: str
    x: float
    bet: float
    slice: str
    dlen: float
    selected_by: str
    people: tuple[str, ...]
    expected: float | None
    elsewhere: float | None
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Tally:
    """`pairs` that count, in order; `waiting`: pairs over somebody's share; `half`: pairs judged in one of both orders."""

    pairs: list[Counted]
    waiting: int
    half: int


def most_of(cap: float, judges: int) -> float:
    """The share of one person: `cap`, or two parts of `judges` where there are few of them."""
    return max(cap, 2 / max(judges, 1))


def counted(evidence: Evidence, *, cap: float, newcomer: float) -> Tally:
    """`newcomer`: the weight of a judge of whom nothing is known.

    Raises DataError for a weight that was fitted on judgements that it is used for, or on later ones.
    """
    shares: dict[str, Counter[str]] = defaultdict(Counter)
    waiting: list[Counted] = []
    found: list[Counted] = []
    seen: set[str] = set()
    halves: dict[str, Said] = {}
    for one, people_so_far in _once_each(evidence, newcomer, halves):
        seen |= people_so_far
        waiting.append(one)
        allowed = most_of(cap, len(seen))
        again = True
        while again:  # one that is let in may make room for another
            again = False
            for place, each in enumerate(waiting):
                if _has_room(shares[each.slice], each.people, allowed):
                    shares[each.slice].update(each.people)
                    found.append(waiting.pop(place))
                    again = True
                    break
    return Tally(found, len(waiting), len(halves))


def _has_room(shares: Counter[str], people: Sequence[str], cap: float) -> bool:
    total = sum(shares.values()) + len(people)
    return all(shares[person] + people.count(person) <= math.ceil(cap * total) for person in people)


def _once_each(
    evidence: Evidence, newcomer: float, halves: dict[str, Said]
) -> Iterator[tuple[Counted, frozenset[str]]]:
    """Each pair when it is complete, with everybody who had judged until then. What is not stays in `halves`."""
    done: set[str] = set()
    people: set[str] = set()
    for said in sorted(evidence.said, key=lambda one: one.sequence):
        if not 0 <= said.x <= 1:
            raise DataError(f"{said.pair}: an outcome of {said.x:g}", choices=["1", "0.5", "0"])
        people.add(said.person)
        name = said.pair.partition("~")[0]
        if name in done:
            continue
        parts: tuple[Said, ...] = (said,)
        if said.both:
            other = halves.setdefault(name, said)
            if other.pair == said.pair:
                continue  # the first of the two orders, or one of them judged by two people
            parts = (halves.pop(name), said)
        done.add(name)
        yield _joined(name, parts, evidence.judges, newcomer), frozenset(people)


def _joined(name: str, parts: Sequence[Said], judges: Mapping[str, Judge], newcomer: float) -> Counted:
    weights = [_weight(part, judges, newcomer) for part in parts]
    first, skipped = parts[0], any(part.skipped for part in parts)
    return Counted(
        name,
        0.5 if skipped else sum(part.x for part in parts) / len(parts),
        sum(weights) / len(weights),
        first.slice,
        first.dlen,
        first.selected_by,
        tuple(part.person for part in parts),
        first.expected,
        first.elsewhere,
        skipped,
    )


def _weight(said: Said, judges: Mapping[str, Judge], newcomer: float) -> float:
    judge = judges.get(said.person)
    if judge is None:
        return newcomer
    if judge.until >= said.sequence:
        raise DataError(
            f"how good {said.person} judges was fitted on judgement {judge.until}, and is to weigh judgement "
            f"{said.sequence}: an e-value must be bet on what is not known yet",
            next_step="fit people on what was said before the gate began",
        )
    return min(max(judge.weight, 0.0), 1.0)
