"""Look at data before training on it: what is there, what would be learnt, what is wrong. No torch.

Nothing is stopped at the first fault here: bad rows, rows over max_length and records that the template refuses are
all counted and named, and `errors` says which of them would stop a run.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tomoni.data.badrows import REASONS, SHOWN, BadRow
from tomoni.data.prompts import prompt_item
from tomoni.data.read import Reading
from tomoni.data.render import Renderer
from tomoni.errors import DataError
from tomoni.records import Chat, Comparison, Rated, Record, Text, kind_of
from tomoni.rows import Row

RowsOf = Callable[[Record, Renderer], Iterator[Row]]
NO_LIMIT = 1 << 40  # tokens: rows are measured whole
FEW_LEARNT = 0.005  # share of tokens that are learnt, below which something is probably wrong


@dataclass(frozen=True, slots=True)
class Example:
    """A row as text: stretches of tokens that are learnt or not."""

    id: str
    source: str
    parts: tuple[tuple[str, bool], ...]


@dataclass(slots=True)
class Part:
    """What one set of files (train or validation) holds. Lengths are tokens of whole rows, before any cutting."""

    name: str
    files: tuple[str, ...]
    form: str | None = None
    rows: int = 0  # read
    kept: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    bad_rows: list[BadRow] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # by the template
    refused_count: int = 0
    lengths: list[int] = field(default_factory=list)
    longest: list[tuple[int, str]] = field(default_factory=list)  # over max_length: tokens, name
    texts: int = 0  # documents: cut into windows instead of being too long
    tokens: int = 0
    learnt: int = 0
    nothing_learnt: int = 0
    ended: int = 0  # rows whose last learnt token ends an answer
    duplicates: int = 0
    examples: list[Example] = field(default_factory=list)
    sampled: bool = False  # the answers are sampled: prompts only
    marks: set[int] = field(default_factory=set)  # hashes of whole rows

    @property
    def learnt_share(self) -> float:
        return self.learnt / self.tokens if self.tokens else 0.0

    def percentiles(self) -> dict[str, int]:
        if not self.lengths:
            return {}
        names = {"shortest": 0, "median": 50, "p90": 90, "p99": 99, "longest": 100}
        return {name: int(np.percentile(self.lengths, share)) for name, share in names.items()}

    def histogram(self) -> list[tuple[int, int, int]]:
        """(from, below, rows) in powers of two."""
        counts: Counter[int] = Counter(length.bit_length() for length in self.lengths)
        if not counts:
            return []
        return [(1 << (bits - 1), 1 << bits, counts[bits]) for bits in range(min(counts), max(counts) + 1)]


@dataclass(slots=True)
class Findings:
    """What `check` found. `errors` would stop a run, `warnings` would not."""

    train: Part
    validation: Part | None
    max_length: int
    overlap: int = 0  # validation rows that are also trained on
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        parts = [self.train] + ([self.validation] if self.validation else [])
        return {
            "errors": self.errors,
            "warnings": self.warnings,
            "notes": self.notes,
            "max_length": self.max_length,
            "overlap": self.overlap,
            **{part.name: _part_dict(part) for part in parts},
        }


def _part_dict(part: Part) -> dict[str, Any]:
    return {
        "files": list(part.files),
        "form": part.form,
        "rows": part.rows,
        "kept": part.kept,
        "bad": dict(part.bad),
        "bad_rows": [row.as_dict() for row in part.bad_rows[:SHOWN]],
        "refused_by_template": part.refused_count,
        "duplicates": part.duplicates,
        "tokens": part.tokens,
        "learnt_tokens": part.learnt,
        "learnt_share": part.learnt_share,
        "rows_without_learnt_tokens": part.nothing_learnt,
        "rows_that_end": part.ended,
        "lengths": part.percentiles(),
        "histogram": [list(bucket) for bucket in part.histogram()],
        "longer_than_max_length": len(part.longest),
    }


def check(
    train: Reading,
    renderer: Renderer,
    *,
    validation: Reading | None = None,
    max_length: int = 1024,
    on_bad_rows: Literal["stop", "quarantine"] = "stop",
    on_long_rows: Literal["stop", "truncate", "drop"] = "stop",
    examples: int = 3,
    context: int | None = None,
    forms: Sequence[str] = (),
    sampled: bool = False,
) -> Findings:
    """Read and render everything once. The readings should quarantine and the renderer have no limit (`NO_LIMIT`).

    `context` is how many tokens the model can look at, `forms` are those that the method learns from, where
    known; `sampled` says that it takes the prompts only and samples the answers itself.
    """
    rows = _prompts if sampled else _rows
    first = _part("train", train, renderer, max_length, examples, rows)
    second = _part("validation", validation, renderer, max_length, 0, rows) if validation else None
    found = Findings(first, second, max_length, notes=list(renderer.notes))
    if second:
        found.overlap = len(first.marks & second.marks)
    for part in (first, second) if second else (first,):
        _judge(found, part, on_bad_rows, on_long_rows)
        _judge_fit(found, part, on_long_rows, context, forms)
    if found.overlap and second:
        found.warnings.append(
            f"{found.overlap} of {len(second.marks)} validation rows are also trained on: the measure will flatter"
        )
    return found


def _part(name: str, reading: Reading, renderer: Renderer, max_length: int, examples: int, rows: RowsOf) -> Part:
    part = Part(name, tuple(map(str, reading.paths)), sampled=rows is _prompts)
    try:
        for record in reading:
            _look(part, record, renderer, max_length, examples, rows)
    except DataError:
        if not reading.bad:  # a file that cannot be read at all; bad rows alone are told below
            raise
    part.form = reading.form
    part.rows, part.kept = reading.counts["rows"], reading.counts["kept"]
    part.bad_rows = reading.bad
    part.bad = Counter(row.reason for row in reading.bad)
    return part


def _look(part: Part, record: Record, renderer: Renderer, max_length: int, examples: int, rows_of: RowsOf) -> None:
    try:
        rows = list(rows_of(record, renderer))
    except DataError as error:
        part.refused_count += 1
        if len(part.refused) < SHOWN:
            part.refused.append(error.what)
        return
    if not rows:
        part.nothing_learnt += 1
    for row in rows:
        learnt = np.flatnonzero(row.weights)
        part.lengths.append(len(row))
        part.tokens += len(row)
        part.learnt += len(learnt)
        part.ended += int(row.tokens[learnt[-1]]) in renderer.stop_tokens if len(learnt) else 0
        mark = int.from_bytes(hashlib.blake2b(row.tokens.tobytes(), digest_size=8).digest(), "little")
        part.duplicates += mark in part.marks
        part.marks.add(mark)
        if isinstance(record, Text):
            part.texts += 1
        elif len(row) > max_length:
            part.longest.append((len(row), f"{record.source} (record {record.id})"))
        if len(part.examples) < examples:
            part.examples.append(Example(record.id, str(record.source), tuple(decoded(row, renderer))))


def _prompts(record: Record, renderer: Renderer) -> Iterator[Row]:
    for item in prompt_item(record, renderer):
        yield from item.rows


def _rows(record: Record, renderer: Renderer) -> Iterator[Row]:
    match record:
        case Text():
            yield from renderer.text(record)
        case Chat():
            row = renderer.chat(record)
            if row is not None:
                yield row
        case Comparison():
            yield from renderer.comparison(record) or ()
        case Rated():
            row = renderer.completion(record.prompt, record.completion, name=f"{record.source} (record {record.id})")
            if row is not None:
                yield row
        case _:
            raise DataError(
                f"{record.source}: `check` does not know {kind_of(record)}",
                next_step="give each prompt its answer: form prompt_completion",
            )


def decoded(row: Row, renderer: Renderer) -> Iterator[tuple[str, bool]]:
    """The row's text in stretches of learnt and unlearnt tokens, control tokens spelt out."""
    learnt = row.weights > 0
    edges = [0, *(np.flatnonzero(np.diff(learnt)) + 1), len(row)]
    for start, end in itertools.pairwise(edges):
        text = renderer.tokenizer.decode(row.tokens[start:end].tolist(), skip_special_tokens=False)
        yield str(text), bool(learnt[start])


def _judge(found: Findings, part: Part, on_bad_rows: str, on_long_rows: str) -> None:
    if part.bad:
        reasons = ", ".join(f"{count} × {reason} ({REASONS[reason]})" for reason, count in part.bad.most_common())
        told = f"{part.name}: {part.bad.total()} bad rows: {reasons}"
        (found.errors if on_bad_rows == "stop" else found.warnings).append(told)
    if part.refused_count:
        found.errors.append(f"{part.name}: the chat template refuses {part.refused_count} records: {part.refused[0]}")
    if part.longest:
        needed = max(part.longest)[0]
        told = f"{part.name}: {len(part.longest)} rows are longer than max_length {found.max_length} (longest {needed})"
        if on_long_rows == "stop":
            found.errors.append(told)
        else:
            found.warnings.append(f"{told}; on_long_rows: {on_long_rows}")
    if part.sampled:
        if part.duplicates:
            found.notes.append(f"{part.name}: {part.duplicates} prompts repeat an earlier one")
        if not part.lengths:
            found.errors.append(f"{part.name}: there is no prompt")
        return
    if not part.learnt:
        found.errors.append(f"{part.name}: nothing is learnt: no row has a learnt token")
        return
    _warn(found, part)


def _judge_fit(found: Findings, part: Part, on_long_rows: str, context: int | None, forms: Sequence[str]) -> None:
    """Whether the model and the method can take the rows at all."""
    unfit = [form for form in (part.form or "").split(", ") if form and forms and form not in forms]
    if unfit:
        found.errors.append(
            f"{part.name}: this method does not learn from the form {', '.join(unfit)}; possible: {', '.join(forms)}"
        )
    if context is None or not part.lengths:
        return
    longest = max(part.lengths)
    if part.texts or on_long_rows != "stop":
        longest = min(longest, found.max_length)
    if context < longest <= found.max_length:
        found.errors.append(
            f"{part.name}: the longest row has {longest} tokens, and the model's context is {context}: "
            f"set max_length to {context} or less, and on_long_rows to truncate or drop where needed"
        )


def _warn(found: Findings, part: Part) -> None:
    if part.nothing_learnt:
        found.warnings.append(f"{part.name}: {part.nothing_learnt} records have nothing to learn and are left out")
    if part.duplicates:
        found.warnings.append(f"{part.name}: {part.duplicates} rows repeat an earlier one exactly")
    if part.ended < len(part.lengths):
        found.warnings.append(
            f"{part.name}: {len(part.lengths) - part.ended} rows do not end with a learnt end token "
            "(the model would not learn to stop there)"
        )
    if part.learnt_share < FEW_LEARNT:
        found.warnings.append(f"{part.name}: only {part.learnt_share:.2%} of the tokens are learnt")


def names_of_longest(part: Part, count: int = SHOWN) -> Sequence[str]:
    return [f"{name}: {length} tokens" for length, name in sorted(part.longest, reverse=True)[:count]]
