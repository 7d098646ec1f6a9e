"""Data files of the workspace: looked through by tomoni's own reader, with personal data hidden, under names of our own.

    W/data/ID.jsonl    the good rows, one object a line
    W/data/ID.json     what it was called, its form, rows, what was hidden and left out

No torch.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import secrets
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from tomoni.data.files import rows_of
from tomoni.data.read import Reading
from tomoni.durable import atomic_write, write_object
from tomoni.errors import DataError
from tomoni.feedback.masking import Masker
from tomoni.records import Chat, Comparison, Prompt, Rated, Record, Text
from tomoni.studio.faults import Fault

ENDINGS = (
    ".jsonl",
    ".ndjson",
    ".json",
    ".csv",
    ".tsv",
    ".txt",
)  # no Parquet here: its reader is not for strangers' files
ID = re.compile(r"[0-9a-f]{12}")
MOST_TOLD = 1_000  # characters of what is wrong with a file
SHOWN_BAD, SHOWN_GOOD, SHOWN_TEXT = 12, 3, 600
TOWN = "town"  # the questions of the invented world


@dataclass(frozen=True, slots=True)
class Look:
    """What is in a file, before anything is kept. `bad` rows by line and reason; `examples` as (role, text)."""

    form: str
    rows: int
    good: int
    repeated: int
    bad: tuple[tuple[int, str, str, str], ...]  # line, reason, detail, excerpt
    bad_count: int
    masked: Mapping[str, int]
    examples: tuple[tuple[tuple[str, str], ...], ...]


@dataclass(frozen=True, slots=True)
class Held:
    id: str
    name: str
    form: str
    rows: int
    left_out: int = 0
    masked: Mapping[str, int] = field(default_factory=dict)
    created: str = ""


class Holding:
    def __init__(self, workspace: Path) -> None:
        self.folder = workspace / "data"

    def path(self, id: str) -> Path:
        """Fault 404 where there is none; an id never becomes a path unless it has the form of one."""
        path = self.folder / f"{id}.jsonl"
        if not (ID.fullmatch(id) or id == TOWN) or not path.is_file():
            raise Fault("no_data", 404)
        return path

    def all(self) -> list[Held]:
        """Newest first."""
        found = [self._read(path) for path in self.folder.glob("*.json")] if self.folder.is_dir() else []
        return sorted((held for held in found if held is not None), key=lambda held: held.created, reverse=True)

    def get(self, id: str) -> Held:
        self.path(id)
        found = self._read(self.folder / f"{id}.json")
        if found is None:
            raise Fault("no_data", 404)
        return found

    def _read(self, path: Path) -> Held | None:
        try:
            return Held(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def look(self, name: str, content: str) -> Look:
        with upload(name, content) as path:
            return self._look(path)[0]

    def keep(self, name: str, content: str, *, without_bad: bool) -> Held:
        """Fault 409 where rows are bad and nobody has said that the others will do."""
        with upload(name, content) as path:
            look, bad_lines = self._look(path)
            if not look.good:
                raise Fault("no_good_rows", 400)
            if look.bad_count and not without_bad:
                raise Fault("bad_rows", 409, n=look.bad_count)
            masker = Masker()
            good = [masked(raw.values, masker) for raw in rows_of(path) if raw.line not in bad_lines and not raw.fault]
        held = Held(
            secrets.token_hex(6), name[-120:], look.form, len(good), look.bad_count, dict(masker.counts), _now()
        )
        self._write(held, good)
        return held

    def keep_town(self) -> Held:
        """Questions about the invented town with their answers, none of which is ever used to measure."""
        from tomoni.world import bundled_world, tuning_questions

        rows = [{"messages": record["messages"]} for record in tuning_questions(bundled_world(), 600, 0)]
        held = Held(TOWN, TOWN, "messages", len(rows), created=_now())
        self._write(held, rows)
        return held

    def _write(self, held: Held, rows: list[dict[str, Any]]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        atomic_write(self.folder / f"{held.id}.jsonl", text)
        write_object(self.folder / f"{held.id}.json", asdict(held), indent=None)

    def examples(self, id: str, n: int = SHOWN_GOOD) -> list[tuple[tuple[str, str], ...]]:
        reading = Reading([self.path(id)], on_bad_rows="quarantine", prompts=True)
        return [told(record) for record in islice(reading, n)]

    def remove(self, id: str) -> None:
        self.path(id).unlink()
        (self.folder / f"{id}.json").unlink(missing_ok=True)

    def _look(self, path: Path) -> tuple[Look, set[int]]:
        reading = Reading([path], on_bad_rows="quarantine", prompts=True)
        masker = Masker()
        examples: list[tuple[tuple[str, str], ...]] = []
        try:
            for record in reading:
                turns = tuple((role, masker(text)) for role, text in told(record))
                if len(examples) < SHOWN_GOOD:
                    examples.append(turns)
        except DataError:
            if not reading.bad:
                raise  # no row could be read at all: the reader says why
        bad = tuple((row.line, row.reason, row.detail, row.excerpt) for row in reading.bad[:SHOWN_BAD])
        counts = reading.counts
        look = Look(
            form=reading.form or "",
            rows=counts["rows"],
            good=counts["kept"],
            repeated=counts["repeated"],
            bad=bad,
            bad_count=len(reading.bad),
            masked=dict(masker.counts),
            examples=tuple(examples),
        )
        return look, {row.line for row in reading.bad}


@contextmanager
def upload(name: str, content: str) -> Iterator[Path]:
    """The content (base64) as a file with a name of our own; of the given one only the ending counts."""
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), None)
    if ending is None:
        raise Fault("file_kind", 400, kinds=", ".join(ENDINGS))
    try:
        raw = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise Fault("invalid", 422) from None
    if not raw.strip():
        raise Fault("file_empty", 400)
    handle, path = tempfile.mkstemp(prefix="tomoni-upload-", suffix=ending)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
        yield Path(path)
    except DataError as error:  # tells the file by the name that people know
        shown, own = name[-120:], Path(path).name
        told, next_step = (text.replace(path, shown).replace(own, shown) for text in (error.what, error.next_step))
        raise DataError(told[:MOST_TOLD], choices=error.choices, next_step=next_step) from None
    finally:
        Path(path).unlink(missing_ok=True)


def masked(value: Any, masker: Masker) -> Any:
    """Every text in it with personal data hidden."""
    if isinstance(value, str):
        return masker(value)
    if isinstance(value, dict):
        return {key: masked(part, masker) for key, part in value.items()}
    return [masked(part, masker) for part in value] if isinstance(value, list | tuple) else value


def told(record: Record) -> tuple[tuple[str, str], ...]:
    """A record as a person reads it."""
    turns: list[tuple[str, str]]
    match record:
        case Chat() | Prompt():
            turns = [(message.role, message.content) for message in record.messages]
        case Comparison():
            turns = [(message.role, message.content) for message in record.prompt]
            turns += [("chosen", message.content) for message in record.first]
            turns += [("rejected", message.content) for message in record.second]
        case Rated():
            turns = [(message.role, message.content) for message in record.prompt]
            turns += [("good" if record.good else "bad", message.content) for message in record.completion]
        case Text():
            turns = [("text", record.text)]
        case _:
            turns = [("text", str(getattr(record, "text", "")))]
    return tuple((role, text[:SHOWN_TEXT]) for role, text in turns)


def sums(masks: Mapping[str, int]) -> int:
    return Counter(masks).total()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
