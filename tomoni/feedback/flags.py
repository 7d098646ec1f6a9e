"""What in a person's way of answering deserves a look. Flags go to review; nothing is deleted for one. Numpy only.

Each is a key, a measured value and the limit that it passed; the words are the studio's. Limits are at three standard
deviations or more, since every person is looked at on ten counts, again and again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy.special import expit

from tomoni.feedback.agreement import Agreement, self_consistency
from tomoni.feedback.arrays import Float
from tomoni.feedback.people import Judged, People, reliability_of, surely_worse

Key = Literal["position", "runs", "fast", "inconsistent", "inattentive", "reversed", "length", "topic", "gold", "blind"]

FAR = 3.0  # standard deviations
FEWEST = 10  # answers before anything is said
FEWEST_REPEATS = 6
FEWEST_ON_TOPIC = 8
WORDS_A_SECOND = 15.0  # faster than that nobody has read both answers
FAST_SHARE = 0.2
SURE = 0.9
SURE_OF_TOPIC = 0.98  # several topics are looked at; flags 2 in 100 who have none (docs/science.md)
USELESS = 0.224  # A - F under which a label is worth less than .05
LENGTH_PRIOR = 1.0  # standard deviation of a length lean, log odds per factor e of length


@dataclass(frozen=True, slots=True)
class Flag:
    """`about`: the topic, where the key is "topic"; otherwise empty. `n`: answers it rests on."""

    person: str
    key: Key
    value: float
    limit: float
    n: int
    about: str = ""


@dataclass(frozen=True, slots=True)
class Lean:
    """How a person answers, whatever is asked.

    `left`: share of answers for the side on the left, `left_z` from a half; `runs_z`: below 0, long runs of one side;
    `length`: log odds for the longer answer per factor e of length, given the taste, `length_z`; `seconds`: median;
    `fast`: share of answers given faster than they can be read, or three deviations faster than the team's.
    """

    left: float
    left_z: float
    runs_z: float
    length: float
    length_z: float
    seconds: float | None
    fast: float
    n: int


def lean(judged: Sequence[Judged], people: People, person: str) -> Lean:
    at = [number for number, one in enumerate(judged) if one.person == person]
    of_person = [judged[number] for number in at]
    sides = [one.side if one.y == 1 else -one.side for one in of_person if one.y in (0, 1)]
    n, left = len(sides), sum(side > 0 for side in sides)
    length, error = _length(of_person, people.gaps.mean_N[at])
    times = [one.seconds for one in of_person if one.seconds is not None]
    return Lean(
        left=left / n if n else 0.5,
        left_z=(left - n / 2) / (0.5 * n**0.5) if n else 0.0,
        runs_z=runs_z(sides),
        length=length,
        length_z=length / error,
        seconds=float(np.median(times)) if times else None,
        fast=_fast(of_person, judged),
        n=len(of_person),
    )


def runs_z(sides: Sequence[int]) -> float:
    """Wald and Wolfowitz: how far the number of runs lies from what the shares of both sides make likely."""
    n1, n2 = sum(side > 0 for side in sides), sum(side < 0 for side in sides)
    n = n1 + n2
    if n1 == 0 or n2 == 0 or n < 3:
        return 0.0
    runs = 1 + sum(a != b for a, b in pairwise(sides))
    expected = 1 + 2 * n1 * n2 / n
    variance = 2 * n1 * n2 * (2 * n1 * n2 - n) / (n**2 * (n - 1))
    return float((runs - expected) / variance**0.5) if variance > 0 else 0.0


def _length(of_person: Sequence[Judged], mean_N: Float) -> tuple[float, float]:
    """Slope of the answers' log odds in the log length ratio, beside the taste's own gap; and its standard error."""
    x_N = np.array([one.length for one in of_person])
    y_N = np.array([one.y for one in of_person])
    slope = 0.0
    for _ in range(25):
        p_N = expit(mean_N + slope * x_N)
        bend = float((p_N * (1 - p_N) * x_N**2).sum()) + 1 / LENGTH_PRIOR**2
        step = (float(((y_N - p_N) * x_N).sum()) - slope / LENGTH_PRIOR**2) / bend
        slope += float(np.clip(step, -1, 1))
        if abs(step) < 1e-8:
            break
    return slope, bend**-0.5


def _fast(of_person: Sequence[Judged], everybody: Sequence[Judged]) -> float:
    timed = [one for one in of_person if one.seconds is not None and one.seconds > 0]
    if not timed:
        return 0.0
    logs = np.log([one.seconds for one in everybody if one.seconds is not None and one.seconds > 0])
    middle = float(np.median(logs))
    deviation = max(1.4826 * float(np.median(np.abs(logs - middle))), 0.1)  # robust: a few bots must not set the pace
    quick = [
        one.seconds < one.words / WORDS_A_SECOND or (np.log(one.seconds) - middle) / deviation < -FAR
        for one in timed
        if one.seconds is not None
    ]
    return sum(quick) / len(quick)


def repeats(judged: Sequence[Judged], person: str) -> list[tuple[float, float]]:
    """Each pair that the person has answered twice: the first and the next answer, both in stored order."""
    by_item: dict[str, list[float]] = defaultdict(list)
    for one in judged:
        if one.person == person and one.item:
            by_item[one.item].append(one.y)
    return [(answers[0], answers[1]) for answers in by_item.values() if len(answers) > 1]


def review(judged: Sequence[Judged], people: People) -> list[Flag]:
    """Flags of everybody, by person and key."""
    found: list[Flag] = []
    for person in sorted(people.by_person):
        found += [flag for flag in _of_person(judged, people, person) if flag.n >= FEWEST]
    return found


def _of_person(judged: Sequence[Judged], people: People, person: str) -> list[Flag]:
    one, way = people.of(person), lean(judged, people, person)
    again = repeats(judged, person)
    same = self_consistency(again) if len(again) >= FEWEST_REPEATS else None
    checks: list[tuple[Key, float, float, bool]] = [
        ("position", way.left_z, FAR, abs(way.left_z) > FAR),
        ("runs", way.runs_z, FAR, abs(way.runs_z) > FAR),
        ("fast", way.fast, FAST_SHARE, way.fast > FAST_SHARE),
        ("inconsistent", _value(same), 0.2, same is not None and _value(same) < 0.2),
        ("inattentive", one.surely_inattentive, SURE, one.surely_inattentive > SURE),
        ("reversed", one.reversing, SURE, one.reversing > SURE and one.f > one.s),
        ("length", way.length_z, FAR, abs(way.length_z) > FAR),
        ("blind", max(one.recent, 0.0) ** 2, 0.05, one.blind),
    ]
    flags = [Flag(person, key, value, limit, way.n) for key, value, limit, hit in checks if hit]
    return flags + _gold(judged, person) + _topics(judged, people, person)


def _value(agreement: Agreement | None) -> float:
    """Kappa; where every answer was the same and it is not defined, the share that agrees."""
    if agreement is None:
        return 1.0
    return agreement.value if agreement.value is not None else agreement.share or 0.0


def _gold(judged: Sequence[Judged], person: str) -> list[Flag]:
    """Gold answers in a row that a good judge (.85) would hardly give and a coin would: Wald's sequential test."""
    right = [one.y == one.expected for one in judged if one.person == person and one.gold and one.y in (0, 1)]
    ratio = sum(float(np.log(0.5 / 0.85) if hit else np.log(0.5 / 0.15)) for hit in right)
    limit = float(np.log(0.95 / 0.05))
    return [Flag(person, "gold", sum(right) / len(right), 0.85, max(len(right), FEWEST))] if ratio > limit else []


def _topics(judged: Sequence[Judged], people: People, person: str) -> list[Flag]:
    """Topics on which a person is surely worse than elsewhere, and of no use: `value` is A - F there, `limit` elsewhere."""
    by_topic: Mapping[str, list[int]] = defaultdict(list)
    for number, one in enumerate(judged):
        if one.person == person:
            by_topic[one.topic].append(number)
    found = []
    for topic, at in by_topic.items():
        rest = [number for other, numbers in by_topic.items() if other != topic for number in numbers]
        if not topic or len(at) < FEWEST_ON_TOPIC or len(rest) < FEWEST_ON_TOPIC:
            continue
        worse = surely_worse(judged, people.gaps, at, rest)
        here, elsewhere = (reliability_of(judged, people.gaps, which).kappa for which in (at, rest))
        if worse > SURE_OF_TOPIC and here < USELESS:
            found.append(Flag(person, "topic", here, elsewhere, max(len(at), FEWEST), topic))
    return found
