"""Where things stand, counted from what people said: by topic, by kind, and what the model cannot do yet. No torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tomoni.evaluate.metrics import Interval, wilson
from tomoni.feedback.entries import Stored
from tomoni.records import Kind, Verdict

if TYPE_CHECKING:
    from tomoni.feedback.store import Store

FEW = 3  # judgements of a topic below which nothing is said about it
FLAGS = ("harmful", "private", "untrue")


@dataclass
class Topic:
    """`good` of `judged` were not bad in a person's eyes; `won` (ties half) of `tried` trials went to the newer version."""

    name: str
    prompts: int = 0
    judged: int = 0
    good: int = 0
    won: float = 0.0
    tried: int = 0

    @property
    def share(self) -> float | None:
        return self.good / self.judged if self.judged else None

    @property
    def interval(self) -> Interval:
        return wilson(self.good, self.judged)

    @property
    def win_rate(self) -> float | None:
        return self.won / self.tried if self.tried else None


@dataclass(frozen=True, slots=True)
class Flagged:
    question: str
    text: str
    flags: tuple[str, ...]
    version: str


@dataclass
class Overview:
    topics: list[Topic] = field(default_factory=list)  # by use
    kinds: Counter[str] = field(default_factory=Counter)
    people: int = 0
    flagged: list[Flagged] = field(default_factory=list)  # newest first
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def judgements(self) -> int:
        return self.kinds.total()

    @property
    def weak(self) -> list[Topic]:
        """Those with the largest share of bad answers, where enough was said to tell."""
        told = [topic for topic in self.topics if topic.judged >= FEW and topic.good < topic.judged]
        return sorted(told, key=lambda topic: (topic.share or 0.0, -topic.judged))[:5]


def look(store: Store) -> Overview:
    topics: dict[str, Topic] = {}
    of_prompt: dict[str, str] = {}
    for prompt in store.prompts():
        of_prompt[prompt.id] = prompt.topic
        topic = topics.setdefault(prompt.topic, Topic(prompt.topic))
        topic.prompts += prompt.status == "active"
    found = Overview()
    people: set[str] = set()
    stored = store.judgements()
    for entry in stored:
        judgement = entry.judgement
        if judgement.extra.get("skipped"):
            continue
        people.add(judgement.person)
        found.kinds[judgement.kind.value] += 1
        found.reasons.update(judgement.tags)
        name = of_prompt.get(str(judgement.extra.get("prompt")), "")
        _count(topics.setdefault(name, Topic(name)), entry)
    found.people = len(people)
    found.flagged = _flagged(stored)
    found.topics = sorted(
        (topic for topic in topics.values() if topic.judged or topic.prompts),
        key=lambda topic: (-topic.judged, -topic.prompts, topic.name),
    )
    return found


def _count(topic: Topic, entry: Stored) -> None:
    judgement = entry.judgement
    match judgement.kind:
        case Kind.COMPARISON:
            verdict = Verdict(judgement.value["verdict"])
            if judgement.extra.get("purpose") == "gate":
                topic.tried += 1
                topic.won += {Verdict.SECOND: 1.0, Verdict.FIRST: 0.0}.get(verdict, 0.5)
            topic.judged += 1
            topic.good += verdict is not Verdict.BOTH_BAD
        case Kind.THUMB:
            topic.judged += 1
            topic.good += bool(judgement.value["up"])
        case Kind.RATING:
            topic.judged += 1
            topic.good += judgement.value["stars"] >= 3
        case Kind.CORRECTION | Kind.FLAG | Kind.COMMENT | Kind.UNDO:
            pass


def _flagged(stored: Sequence[Stored], most: int = 5) -> list[Flagged]:
    found: list[Flagged] = []
    for entry in reversed(stored):
        judgement = entry.judgement
        if judgement.kind is Kind.FLAG and len(found) < most:
            place = judgement.value["answer"]
            flags = tuple(name for name in FLAGS if judgement.value.get(name))
            versions = judgement.model_versions
            version = versions[place] if place < len(versions) else ""
            if flags:
                question = judgement.prompt[-1].content if judgement.prompt else ""
                found.append(Flagged(question, judgement.answers[place], flags, version))
    return found


def by_person(stored: Sequence[Stored]) -> dict[str, int]:
    counts: defaultdict[str, int] = defaultdict(int)
    for entry in stored:
        counts[entry.judgement.person] += 1
    return dict(counts)
