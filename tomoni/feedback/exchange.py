"""Export and import: our own lossless form, and those of TRL, Argilla and Label Studio. No torch.

An import is one transaction: a file with a bad row changes nothing, and every bad row is named by file, line and
reason; with `on_bad_rows="quarantine"` the good rows are taken and the bad ones named. The same file twice counts once.
A table for spreadsheets (csv) is written and not read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, select

from tomoni.data.badrows import BadRow, BadValue, bad_rows_error
from tomoni.data.files import RawRow, rows_of
from tomoni.durable import sync, write_synced
from tomoni.errors import DataError, UserError, did_you_mean
from tomoni.feedback import accounts, judging, pool
from tomoni.feedback.entries import NewPrompt
from tomoni.feedback.forms import argilla, labelstudio, ours, table, trl
from tomoni.feedback.forms.said import Said
from tomoni.feedback.masking import Masker
from tomoni.feedback.resolve import resolve
from tomoni.feedback.schema import dumps, persons
from tomoni.feedback.store import Store
from tomoni.feedback.workspace import naming
from tomoni.records import Judgement

FORMS = ("jsonl", "trl", "argilla", "labelstudio")  # that go out and come in
WRITTEN = (*FORMS, "csv")
ENDINGS = (".jsonl", ".ndjson", ".json", ".parquet")
IMPORTED = "import:"  # begins the id of a person whom another tool's file names
OnBadRows = Literal["stop", "quarantine"]


@dataclass(slots=True)
class Imported:
    new: Counter[str] = field(default_factory=Counter)  # rows by what they are: person, prompt, answer, judgement …
    known: int = 0  # rows that were here before
    masked: Counter[str] = field(default_factory=Counter)  # what was hidden, by kind
    bad: list[BadRow] = field(default_factory=list)


# -- export ----------------------------------------------------------------------------------------------------------


def export(store: Store, path: str | Path, *, form: str = "jsonl") -> dict[str, int]:
    """Rows written, by file. `path` is a file; for trl a folder. DiskError, or UserError where it exists already."""
    _check_form(form, WRITTEN)
    target = Path(path).expanduser()
    if target.exists() and not (form == "trl" and target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target} exists already", next_step="choose a name that is free")
    texts = dict(_texts(store, target, form))
    with naming(target):
        for file, (text, _) in texts.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            aside = file.with_name(f".{file.name}.part")
            write_synced(aside, text.encode())
            aside.replace(file)
            sync(file.parent)
    return {str(file): count for file, (_, count) in texts.items()}


def _texts(store: Store, target: Path, form: str) -> Iterator[tuple[Path, tuple[str, int]]]:
    if form == "trl":
        held_out = {prompt.id for prompt in store.prompts(held_out=True)}
        for name, rows in trl.files_of(resolve(store.judgements(live=False), held_out=held_out)).items():
            yield target / name, _lines(rows)
        return
    if form == "jsonl":
        yield target, _lines(store.look(lambda connection: list(ours.rows_of(connection))))
        return
    if form == "csv":
        names = {person.id: person.name for person in store.people()}
        yield target, table.text_of(store.judgements(), names)
        return
    if form == "argilla":
        rows = list(argilla.rows_of(store.judgements()))
    else:
        rows = list(labelstudio.rows_of(store.judgements()))
        yield target.with_suffix(".xml"), (labelstudio.CONFIG, 1)
    yield target, (json.dumps(rows, ensure_ascii=False, indent=1) + "\n", len(rows))


def _lines(rows: Iterable[Mapping[str, Any]]) -> tuple[str, int]:
    lines = [dumps(row) + "\n" for row in rows]
    return "".join(lines), len(lines)


# -- import ----------------------------------------------------------------------------------------------------------


def import_(
    store: Store,
    paths: Sequence[str | Path],
    *,
    form: str = "jsonl",
    person: str | None = None,
    columns: Mapping[str, str] | None = None,
    mask: bool | None = None,
    on_bad_rows: OnBadRows = "stop",
) -> Imported:
    """Take files in. `person`: id of whom everything is to count as said by (default: whom the file names); `mask`
    hides personal data (default: yes; our own form is read as it is)."""
    _check_form(form, FORMS)
    files = [_checked(Path(path).expanduser()) for path in paths]
    if not files:
        raise UserError("no file is named", next_step="name the files to import")
    if mask and form == "jsonl":
        raise UserError(
            "our own form is read as it is: ids of prompts are made from their text",
            next_step="leave masking out; or export as argilla or labelstudio, and import that",
        )
    masker = Masker() if form != "jsonl" and mask is not False else None
    wanted = _Wanted(form, person, dict(columns or {}), masker)
    return store.together(lambda connection: _take(connection, files, wanted, on_bad_rows))


@dataclass(frozen=True, slots=True)
class _Wanted:
    form: str
    person: str | None
    columns: Mapping[str, str]
    masker: Masker | None


def _check_form(form: str, forms: Sequence[str]) -> None:
    if form in WRITTEN and form not in forms:
        raise UserError(f"{form} is written and not read: it does not hold everything", choices=forms)
    if form not in forms:
        raise UserError(f"the form {form!r} is not known{did_you_mean(form, forms)}", choices=forms)


def _checked(path: Path) -> Path:
    if not path.name.lower().removesuffix(".gz").endswith(ENDINGS):
        raise DataError(
            f"{path} has no ending that is read here", choices=[*ENDINGS, "each but .parquet also with .gz"]
        )
    return path


def _take(connection: Connection, files: list[Path], wanted: _Wanted, on_bad_rows: OnBadRows) -> Imported:
    done = Imported()
    if wanted.person is not None:
        accounts.get(connection, wanted.person)
    good = 0
    for path in files:
        for place, raw in enumerate(rows_of(path)):
            part = connection.begin_nested()
            try:
                if raw.fault:
                    raise raw.fault
                _row(connection, raw, place, wanted, done)
                part.commit()
                good += 1
            except BadValue as fault:
                part.rollback()
                done.bad.append(BadRow(raw.file, raw.line, raw.offset, fault.reason, fault.detail, raw.excerpt))
    if wanted.masker is not None:
        done.masked.update(wanted.masker.counts)
    if done.bad and (on_bad_rows == "stop" or not good):
        raise bad_rows_error(done.bad, good=good)
    return done


def _row(connection: Connection, raw: RawRow, place: int, wanted: _Wanted, done: Imported) -> None:
    if wanted.form == "jsonl":
        if place == 0:
            ours.check_header(raw.values)
            return
        new = ours.store(connection, raw.values)
        done.new[raw.values["type"]] += new
        done.known += not new
        return
    read: Callable[..., Iterator[Said]] = {
        "trl": lambda _, columns: trl.read(raw, columns),
        "argilla": argilla.read,
    }.get(wanted.form, labelstudio.read)
    for said in list(read(raw.values, wanted.columns)):
        new = _judge(connection, said, wanted)
        done.new["judgement"] += new
        done.known += not new


def _judge(connection: Connection, said: Said, wanted: _Wanted) -> bool:
    key = f"import:{said.key}"  # of the row as it stands in the file, so that masking does not make it another
    if wanted.masker is not None:
        said = _masked(said, wanted.masker)
    try:
        (prompt,) = pool.add_prompts(connection, [NewPrompt(said.prompt, "import")])
        judgement = Judgement(
            id=f"i-{said.key}",
            person=wanted.person or _person(connection, said.who, wanted.form),
            prompt=said.prompt,
            answers=said.answers,
            order=(),
            kind=said.kind,
            value=dict(said.value),
            tags=said.tags,
            comment=said.comment,
            seconds=said.seconds,
            extra={"prompt": prompt.id, "selected_by": "import", "form": wanted.form, **said.extra},
        )
        return not judging.judge(connection, judgement, key).duplicate
    except UserError as error:
        raise BadValue("wrong_value", error.text().replace("\n", ";")) from None


def _person(connection: Connection, who: str, form: str) -> str:
    """Somebody who is here by this id, for a file that was written here; else a person of the file's own."""
    if who and connection.execute(select(persons.c.id).where(persons.c.id == who)).first() is not None:
        return who
    id = f"{IMPORTED}{who or form}"[:200]
    if connection.execute(select(persons.c.id).where(persons.c.id == id)).first() is None:
        name = "".join(letter if letter.isprintable() else "?" for letter in id)[: accounts.LONGEST_NAME].strip()
        accounts.add(connection, name, role="annotator", lang="", password_hash=None, id=id)
    return id


# -- masking ---------------------------------------------------------------------------------------------------------


def _masked(said: Said, masker: Masker) -> Said:
    value = {key: masker(part) if isinstance(part, str) and key == "text" else part for key, part in said.value.items()}
    return replace(
        said,
        prompt=tuple(replace(message, content=masker(message.content)) for message in said.prompt),
        answers=tuple(masker(answer) for answer in said.answers),
        value=value,
        comment=masker(said.comment),
    )
