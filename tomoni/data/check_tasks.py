"""Look at the data of an encoder's task before training on it: classes, lengths, what the vocabulary knows. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tomoni.data.badrows import REASONS, SHOWN, BadRow
from tomoni.data.labels import Labels, classes_of
from tomoni.data.read import Reading
from tomoni.data.tasks import TaskRenderer
from tomoni.errors import DataError
from tomoni.records import Labelled, Question, Record, Tagged, TextPair

MANY_UNKNOWN = 0.05  # share of tokens, above which the model reads another language
CLASSES_SHOWN = 20


@dataclass(slots=True)
class TaskPart:
    """What one set of files holds. Lengths are tokens of whole texts with their frame, before windows are cut."""

    name: str
    files: tuple[str, ...]
    form: str | None = None
    rows: int = 0
    kept: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    bad_rows: list[BadRow] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)
    numbers: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    tokens: int = 0
    unknown: int = 0
    longer: int = 0
    texts: dict[int, int] = field(default_factory=dict)  # hash of a text: hash of what was first said of it
    repeated: int = 0
    contradicted: int = 0
    unanswerable: int = 0

    @property
    def unknown_share(self) -> float:
        return self.unknown / self.tokens if self.tokens else 0.0

    def percentiles(self) -> dict[str, int]:
        names = {"shortest": 0, "median": 50, "p90": 90, "p99": 99, "longest": 100}
        return {name: int(np.percentile(self.lengths, share)) for name, share in names.items()} if self.lengths else {}

    def as_dict(self) -> dict[str, Any]:
        return {
            "files": list(self.files),
            "form": self.form,
            "rows": self.rows,
            "kept": self.kept,
            "bad": dict(self.bad),
            "bad_rows": [row.as_dict() for row in self.bad_rows[:SHOWN]],
            "classes": dict(self.classes.most_common()),
            "numbers": _summary(self.numbers),
            "lengths": self.percentiles(),
            "tokens": self.tokens,
            "unknown_share": self.unknown_share,
            "longer_than_max_length": self.longer,
            "duplicates": self.repeated,
            "contradictions": self.contradicted,
            "unanswerable": self.unanswerable,
        }

    def lines(self) -> list[str]:
        """For people."""
        found = [
            f"form {self.form}; {self.rows} rows, {self.kept} good, {self.bad.total()} bad, {self.repeated} repeated",
            f"{self.tokens} tokens, {self.unknown_share:.2%} unknown to the vocabulary",
        ]
        if self.lengths:
            told = ", ".join(f"{name} {value}" for name, value in self.percentiles().items())
            found.append(f"tokens of a text: {told}")
        most = max(self.classes.values(), default=1)
        for name, count in self.classes.most_common(CLASSES_SHOWN):
            found.append(f"  {count:>8} {'█' * max(1, round(30 * count / most))} {name[:40]}")
        if len(self.classes) > CLASSES_SHOWN:
            found.append(f"  … and {len(self.classes) - CLASSES_SHOWN} more")
        if self.numbers:
            found.append(
                "labels: " + ", ".join(f"{name} {value:.4g}" for name, value in _summary(self.numbers).items())
            )
        if self.unanswerable:
            found.append(f"{self.unanswerable} questions without an answer")
        return [*found, *(f"bad: {row}" for row in self.bad_rows[:SHOWN])]


@dataclass(slots=True)
class TaskFindings:
    train: TaskPart
    validation: TaskPart | None
    max_length: int
    overlap: int = 0
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        parts = [self.train] + ([self.validation] if self.validation else [])
        told = {"errors": self.errors, "warnings": self.warnings, "notes": self.notes}
        return told | {"max_length": self.max_length, "overlap": self.overlap, **{p.name: p.as_dict() for p in parts}}


def check_task(
    train: Reading,
    render: TaskRenderer,
    *,
    validation: Reading | None = None,
    on_bad_rows: str = "stop",
    on_long_rows: str = "stop",
    windows: bool = False,
    numbers: bool = False,
    context: int | None = None,
) -> TaskFindings:
    """Read everything once. The readings should quarantine; `windows`: long texts are cut into several, not too long."""
    first = _part("train", train, render, numbers)
    second = _part("validation", validation, render, numbers) if validation else None
    found = TaskFindings(first, second, render.max_length, notes=list(render.notes))
    for part in (first, second) if second else (first,):
        _judge(found, part, on_bad_rows, on_long_rows, windows)
    if context is not None and context < render.max_length:
        longest = max([*first.lengths, *(second.lengths if second else [])], default=0)
        if min(longest, render.max_length) > context:
            found.errors.append(
                f"the longest row has more tokens than the model's context, {context}: lower max_length"
            )
    if second:
        found.overlap = len(first.texts.keys() & second.texts.keys())
        if found.overlap:
            found.warnings.append(
                f"{found.overlap} of {len(second.texts)} validation texts are also trained on: the measure will flatter"
            )
    if render.labels is not None:
        _judge_classes(found, first, render.labels)
    return found


def _part(name: str, reading: Reading, render: TaskRenderer, numbers: bool) -> TaskPart:
    part = TaskPart(name, tuple(map(str, reading.paths)))
    try:
        for record in reading:
            _look(part, record, render, numbers)
    except DataError:
        if not reading.bad:  # a file that cannot be read at all
            raise
    part.form = reading.form
    part.rows, part.kept = reading.counts["rows"], reading.counts["kept"]
    part.bad_rows = reading.bad
    part.bad = Counter(row.reason for row in reading.bad)
    return part


def _look(part: TaskPart, record: Record, render: TaskRenderer, numbers: bool) -> None:
    texts: Sequence[str]
    said: Hashable
    match record:
        case Labelled():
            texts, said = (record.text,), record.label
            _count_label(part, record.label, numbers)
        case TextPair():
            texts, said = (record.first, record.second), record.label
            _count_label(part, record.label, numbers)
        case Tagged():
            texts, said = (record.text,), record.spans
            part.classes.update(span.type for span in record.spans)
        case Question():
            texts, said = (record.question, record.context), record.answers
            part.unanswerable += not record.answers
        case _:
            return
    pieces = [render.encoder.pieces(text) for text in texts]
    frame = render.encoder.frame
    length = sum(map(len, pieces)) + (frame.one if len(texts) == 1 else frame.two)
    part.lengths.append(length)
    part.longer += length > render.max_length
    part.tokens += sum(map(len, pieces))
    part.unknown += sum(one.ids.count(render.encoder.unknown) for one in pieces)  # type: ignore[arg-type]
    mark = hash(tuple(texts))
    part.repeated += mark in part.texts
    part.contradicted += part.texts.setdefault(mark, hash(said)) != hash(said)


def _count_label(part: TaskPart, label: Any, numbers: bool) -> None:
    if numbers:
        part.numbers.append(float(label))
    else:
        part.classes.update(classes_of(label))


def _judge(found: TaskFindings, part: TaskPart, on_bad_rows: str, on_long_rows: str, windows: bool) -> None:
    if part.bad:
        reasons = ", ".join(f"{count} × {reason} ({REASONS[reason]})" for reason, count in part.bad.most_common())
        told = f"{part.name}: {part.bad.total()} bad rows: {reasons}"
        (found.errors if on_bad_rows == "stop" else found.warnings).append(told)
    if part.longer and windows:
        found.notes.append(
            f"{part.name}: {part.longer} texts are longer than {found.max_length} tokens: read in windows"
        )
    elif part.longer:
        told = f"{part.name}: {part.longer} texts are longer than max_length {found.max_length} (longest {max(part.lengths)})"
        (found.errors if on_long_rows == "stop" else found.warnings).append(told)
    if not part.kept:
        found.errors.append(f"{part.name}: no row is good")
    if part.unknown_share > MANY_UNKNOWN:
        found.warnings.append(
            f"{part.name}: {part.unknown_share:.1%} of the tokens are unknown to the model's vocabulary: "
            "was it made for this language?"
        )
    if part.repeated:
        found.warnings.append(f"{part.name}: {part.repeated} texts repeat an earlier one exactly")
    if part.contradicted:
        found.warnings.append(f"{part.name}: {part.contradicted} of them say something else of it than the first did")


def _judge_classes(found: TaskFindings, train: TaskPart, labels: Labels) -> None:
    found.warnings += [*labels.notes(), *labels.alike()]
    if len(train.classes) == 1:
        found.errors.append(f"train: there is one class only ({next(iter(train.classes))}): nothing to tell apart")


def _summary(numbers: Iterable[float]) -> dict[str, float]:
    values = np.asarray(list(numbers), dtype=np.float64)
    if not len(values):
        return {}
    return {
        "least": float(values.min()),
        "mean": float(values.mean()),
        "most": float(values.max()),
        "spread": float(values.std()),
    }
