"""Which classes a data set has: read off its labels before anything is tokenised. No torch."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from tomoni.data.badrows import BadValue
from tomoni.data.taskforms import class_name
from tomoni.records import Labelled, Question, Record, Tagged, TextPair

Kind = Literal["text", "number", "list"]
MANY = 1000  # classes: more than that is rarely what somebody wants to tell apart
NAMED = {"text": "a text", "number": "a number", "list": "a list"}


@dataclass(frozen=True)
class Labels:
    """`names` of the classes in the order of their numbers, `counts` of records each, `kind` what most labels are,
    `single` the classes with one example, which are left out."""

    names: tuple[str, ...]
    counts: tuple[int, ...]
    kind: Kind
    single: frozenset[str] = frozenset()

    @property
    def several(self) -> bool:
        """Whether a record may have several classes, or none."""
        return self.kind == "list"

    @cached_property
    def numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def check(self, label: str | float | tuple[str, ...]) -> None:
        """BadValue for a label that cannot be learnt."""
        if (kind := kind_of(label)) != self.kind:
            raise BadValue("mixed_labels", f"label is {NAMED[kind]}, most are {NAMED[self.kind]}")
        for name in classes_of(label):
            if name in self.single:
                raise BadValue("single_example", f"{name[:40]!r}")
            if name not in self.numbers:
                raise BadValue("unknown_class", f"{name[:40]!r}")

    def notes(self) -> list[str]:
        notes = []
        if len(self.names) > MANY:
            notes.append(
                f"there are {len(self.names):,} classes, {sum(self.counts) / len(self.counts):.1f} examples each on "
                "average: is the label a class, and not a text of its own?"
            )
        elif self.counts and max(self.counts) >= 10 * min(self.counts):
            notes.append(
                f"the commonest class has {max(self.counts):,} examples, the rarest {min(self.counts):,}; "
                "class_weights: balanced makes each count alike"
            )
        return notes

    def alike(self) -> list[str]:
        """What is said of names that people would take for one: in case, width or white space alone they differ."""
        groups: dict[str, list[str]] = {}
        for name in self.names:
            groups.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
        found = [group for group in groups.values() if len(group) > 1]
        if not found:
            return []
        shown = "; ".join(", ".join(map(repr, group)) for group in found[:3]) + (" …" if len(found) > 3 else "")
        return [f"classes that differ in case, width or white space alone are learnt as different ones: {shown}"]


def kind_of(label: str | float | tuple[str, ...]) -> Kind:
    return "list" if isinstance(label, tuple) else "text" if isinstance(label, str) else "number"


def classes_of(label: str | float | tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(label, tuple):
        return label
    return (label if isinstance(label, str) else class_name(label),)


class Survey:
    """Counts labels record by record; `labels` is what they are."""

    def __init__(self) -> None:
        self._kinds: Counter[Kind] = Counter()
        self._counts: dict[Kind, Counter[str]] = {"text": Counter(), "number": Counter(), "list": Counter()}
        self.types: Counter[str] = Counter()  # of spans
        self.questions = self.unanswerable = 0
        self.numbers: list[float] = []

    def add(self, record: Record) -> None:
        match record:
            case Labelled() | TextPair():
                kind = kind_of(record.label)
                with suppress(BadValue):
                    self.numbers.append(number_of(record.label))
                try:
                    names = classes_of(record.label)
                except BadValue:  # a number that is no class; the row is named when it is read for training
                    return
                self._kinds[kind] += 1
                self._counts[kind].update(names)
            case Tagged():
                self.types.update(span.type for span in record.spans)
            case Question():
                self.questions += 1
                self.unanswerable += not record.answers
            case _:
                pass

    def of(self, records: Iterable[Record]) -> Survey:
        for record in records:
            self.add(record)
        return self

    @property
    def labels(self) -> Labels:
        order: Sequence[Kind] = ("text", "number", "list")
        kind = max(order, key=lambda kind: self._kinds[kind])
        counted = self._counts[kind]
        single = frozenset(name for name, count in counted.items() if count == 1)
        names = in_order(name for name in counted if name not in single)
        return Labels(names, tuple(counted[name] for name in names), kind, single)


def number_of(label: str | float | tuple[str, ...]) -> float:
    """BadValue for a label that is no number."""
    if isinstance(label, float):
        return label
    try:
        if isinstance(label, str) and math.isfinite(number := float(label)):
            return number
    except ValueError:
        pass
    raise BadValue("wrong_value", f"label is {str(label)[:40]!r}; a number is needed")


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Whole numbers by their value, then texts."""
    return tuple(sorted(names, key=lambda name: (not _is_number(name), int(name) if _is_number(name) else 0, name)))


def _is_number(name: str) -> bool:
    return name.lstrip("-").isascii() and name.lstrip("-").isdigit()
