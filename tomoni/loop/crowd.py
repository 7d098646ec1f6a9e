"""How good the people's judgements are, before a round trains on them: weights, the blind-feedback alarm, agreement.

The base reads the answers that were compared (`engine.reading`), and `feedback.people` does the rest. What was said on a
gate's pairs is of two models and no part of it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tomoni.feedback import agreement, people
from tomoni.feedback.checks import purpose_of
from tomoni.feedback.entries import Stored, prompt_id
from tomoni.feedback.people import Judged
from tomoni.feedback.space import Space
from tomoni.feedback.standing import standing
from tomoni.feedback.weights import Weight
from tomoni.loop.contested import contested
from tomoni.loop.evidence import Judge
from tomoni.loop.understanding import Understood, understood
from tomoni.records import Judgement, Kind, Message, Verdict

if TYPE_CHECKING:
    from tomoni.evaluate.subject import Subject

FEWEST = 10  # comparisons under which nothing is said of anybody
LATEST = 2000  # comparisons that are looked at
NOT_TASTE = ("gate", "learn")
VALUE = {Verdict.FIRST: 1.0, Verdict.SECOND: 0.0, Verdict.TIE: 0.5, Verdict.BOTH_BAD: 0.5}


@dataclass(frozen=True, slots=True)
class Person:
    """`weight`: A - F; `value` of a label with its 95 % interval; `n` labels; `gold`: share of known answers that were
    right, of `gold_n`; `recent`: the weight that the last 40 labels alone would give, where there are more than that."""

    weight: float
    value: float
    low: float
    high: float
    n: int
    blind: bool
    gold: float | None
    gold_n: int
    recent: float | None = None


@dataclass(frozen=True, slots=True)
class Crowd:
    """`until`: the last judgement that was looked at. `alpha`: Krippendorff's, with its interval, None where nobody judged
    what another did. `signal`: nats a label by which a common taste explains the answers better than coins. `contested`:
    topics on which they contradict each other, with the probability of as much by chance. `understood`: what their common
    taste foretells."""

    people: Mapping[str, Person]
    until: int
    alpha: tuple[float, float | None, float | None] | None
    signal: float
    contested: Mapping[str, float] = field(default_factory=dict)
    understood: Understood | None = None

    @property
    def blind(self) -> tuple[str, ...]:
        return tuple(sorted(name for name, person in self.people.items() if person.blind))

    def weights(self) -> dict[str, Weight]:
        """For training. A person alone is weighed against nobody: only the alarm counts then."""
        found = {name: Weight.of(person.weight) for name, person in self.people.items() if len(self.people) > 1}
        return found | {name: Weight(0.0, Weight.of(0.0).noise) for name in self.blind}

    def judges(self) -> dict[str, Judge]:
        """For the gate: fitted before it begins."""
        return {
            name: Judge(0.0 if person.blind else max(person.weight, 0.0), self.until)
            for name, person in self.people.items()
            if person.n >= FEWEST or person.blind
        }

    @property
    def value(self) -> float | None:
        """Mean value of a label, over labels."""
        total = sum(person.n for person in self.people.values())
        return sum(person.value * person.n for person in self.people.values()) / total if total else None


def appraise(
    stored: Sequence[Stored], subject: Subject, expected: Mapping[str, Verdict], topics: Mapping[str, str] | None = None
) -> Crowd:
    """`stored` with what was replaced and undone; `expected`: the known verdicts of gold pairs, by pair; `topics`: by prompt."""
    until = max((one.sequence for one in stored), default=0)
    live = [one.judgement for one in standing(stored).live]
    told = [one for one in live if one.kind is Kind.COMPARISON and purpose_of(one) not in NOT_TASTE][-LATEST:]
    told = [one for one in told if len(one.answers) == 2 and all(answer.strip() for answer in one.answers)]
    if len(told) < FEWEST:
        return Crowd({}, until, _alpha(told), 0.0)
    judged = _judged(told, subject, expected, topics or {})
    return weighed(judged, people.fit(judged), until, _alpha(told))


def weighed(
    judged: Sequence[Judged],
    found: people.People,
    until: int,
    alpha: tuple[float, float | None, float | None] | None = None,
) -> Crowd:
    """What a fit says of everybody."""
    named = {name: _person(found.of(name), [one for one in judged if one.person == name]) for name in found.by_person}
    return Crowd(named, until, alpha, found.signal, contested(judged, found), understood(judged, found))


def _person(one: people.Reliability, judged: Sequence[Judged]) -> Person:
    gold = [each.y == each.expected for each in judged if each.gold]
    share = sum(gold) / len(gold) if gold else None
    recent = one.recent if one.n > people.WINDOW else None
    return Person(one.kappa, one.value, one.low, one.high, one.n, one.blind, share, len(gold), recent)


def _judged(
    told: Sequence[Judgement], subject: Subject, expected: Mapping[str, Verdict], topics: Mapping[str, str]
) -> list[Judged]:
    from tomoni.engine.reading import read_answers

    places: dict[tuple[str, str], int] = {}
    rows: list[Any] = []
    prompts: list[str] = []
    for one in told:
        name = prompt_id(one.prompt)
        for text in one.answers:
            if (name, text) not in places:
                places[name, text] = len(rows)
                rows.append(subject.renderer.completion(one.prompt, (Message("assistant", text),)))
                prompts.append(name)
    read = read_answers(subject.model, rows)
    features_NF, tokens_N = read.features_ND.astype(np.float64), read.tokens_N.astype(np.float64)
    phi_ND = Space.fit(features_NF, tokens_N, prompts=prompts)(features_NF, tokens_N)
    return [
        _of(one, [phi_ND[places[prompt_id(one.prompt), text]] for text in one.answers], expected, topics)
        for one in told
    ]


def _of(one: Judgement, phi: Sequence[Any], expected: Mapping[str, Verdict], topics: Mapping[str, str]) -> Judged:
    pair = str(one.extra.get("pair") or "")
    known = expected.get(pair) if purpose_of(one) == "gold" else None
    return Judged(
        one.person,
        phi[0] - phi[1],
        VALUE[Verdict(one.value["verdict"])],
        side=1 if one.order[:1] == (0,) else -1,
        expected=None if known is None else VALUE[known],
        item=pair.partition("~")[0],
        seconds=one.seconds,
        length=math.log(max(len(one.answers[0]), 1) / max(len(one.answers[1]), 1)),
        topic=topics.get(prompt_id(one.prompt), ""),
    )


def _alpha(told: Sequence[Judgement]) -> tuple[float, float | None, float | None] | None:
    units: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for one in told:
        answers = tuple(sorted(one.answers))
        verdict = Verdict(one.value["verdict"])
        said = {Verdict.FIRST: one.answers[0], Verdict.SECOND: one.answers[-1]}.get(verdict, "")
        units[(prompt_id(one.prompt), *answers)][one.person] = {answers[0]: "a", answers[-1]: "b"}.get(said, "=")
    found = agreement.alpha([list(unit.values()) for unit in units.values()])
    return None if found.value is None else (found.value, found.low, found.high)
