"""One person's data, gone: from the database and its log, from snapshots; and which model versions saw it. No torch.

A line remains that something was erased, without who or what. What other people said stays, also where it is about a
prompt that the person typed: the prompt then has no author any more. Copies made by `backup` are yours to remove.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, select, text, update

from tomoni.errors import UserError
from tomoni.feedback import accounts, snapshot
from tomoni.feedback.entries import Erased, message_from, prompt_id
from tomoni.feedback.events import note
from tomoni.feedback.inbox import FOLDER as INBOX
from tomoni.feedback.schema import (
    answers,
    aside,
    events,
    judgements,
    pairs,
    persons,
    prompts,
    rules,
    segments,
    sessions,
)
from tomoni.feedback.workspace import Workspace
from tomoni.feedback.writer import Writer

VERSIONS = "versions"
PATIENCE_MS = 5_000  # with readers that hold the log
TOUCHED = (events, sessions, persons, prompts, answers, pairs, judgements, rules, aside)


@dataclass(frozen=True, slots=True)
class _Gone:
    judgements: int
    known: bool


def erase(workspace: Workspace, writer: Writer, person: str) -> Erased:
    """UserError where there is no such person, or where the last of what they said could not be overwritten yet."""
    gone = writer.do(lambda connection: _from_database(connection, person))
    held = _snapshots_with(workspace.root, person)
    names = {folder.name for folder in held}
    versions = _versions_with(workspace.root, person, names)
    if not gone.known and not held and not versions:
        _traces(workspace, writer, person)  # of somebody who was erased before, and something came in between
        raise UserError(f"there is no person {person!r}", next_step="`tomoni feedback people` lists them")
    for folder in held:
        snapshot.remove(folder)
    _traces(workspace, writer, person)
    return Erased(gone.judgements, tuple(sorted(names)), versions)


def _traces(workspace: Workspace, writer: Writer, person: str) -> None:
    for copy in workspace.root.glob(f"*{workspace.database.name}.before-*"):
        copy.unlink()  # made before a migration; it holds what is to be gone
    _blank(workspace.root, writer, person)
    _overwrite(workspace, writer)


def _from_database(connection: Connection, person: str) -> _Gone:
    found = connection.execute(select(persons.c.id).where(persons.c.id == person)).first()
    mine = select(judgements.c.sequence).where(judgements.c.person == person)
    count = connection.execute(select(func.count()).select_from(mine.subquery())).scalar_one()
    connection.execute(update(events).where(events.c.sequence.in_(mine)).values(ref=""))  # ids, made by whoever judged
    stands_for = f"erased-{hashlib.sha256(person.encode()).hexdigest()[:16]}"
    connection.execute(delete(judgements).where(judgements.c.person == person))
    _typed(connection, person)
    connection.execute(delete(sessions).where(sessions.c.person == person))
    connection.execute(update(pairs).where(pairs.c.person == person).values(person=None))
    connection.execute(update(rules).where(rules.c.by == person).values(by=None))
    _aside(connection, person)
    connection.execute(delete(persons).where(persons.c.id == person))
    connection.execute(update(events).where(events.c.ref == person).values(ref=stands_for))
    known = found is not None or count > 0
    if known:
        note(connection, "erased", f"{count} judgements of {stands_for}")
    return _Gone(count, known)


def _typed(connection: Connection, person: str) -> None:
    """Prompts that the person wrote go, with the model's answers to them, unless other people judged those."""
    typed = [row.id for row in connection.execute(select(prompts.c.id).where(prompts.c.by == person))]
    if not typed:
        return
    judged: set[Any] = set()
    for row in connection.execute(select(judgements.c.body)):
        messages = [message_from(message) for message in row.body["prompt"]]
        judged |= {row.body["extra"].get("prompt"), prompt_id(messages)}
    for id in set(typed) - judged:
        connection.execute(delete(pairs).where(pairs.c.prompt == id))
        connection.execute(delete(answers).where(answers.c.prompt == id))
        connection.execute(delete(prompts).where(prompts.c.id == id))
        connection.execute(update(events).where(events.c.ref == id).values(ref=""))
    connection.execute(update(prompts).where(prompts.c.by == person).values(by=None))


def _aside(connection: Connection, person: str) -> None:
    """Lines of the inbox that wait, or are damaged: every one that names the person."""
    for row in connection.execute(select(aside)).all():
        if _names(row.line, person):
            connection.execute(delete(aside).where((aside.c.segment == row.segment) & (aside.c.offset == row.offset)))


def _names(line: bytes, person: str) -> bool:
    """Whether a line of the inbox is the person's. Of one that is damaged only the name itself can be looked for."""
    name = person.removeprefix(accounts.API)
    try:
        body = json.loads(line)
        return isinstance(body, dict) and name in (body.get("person"), body.get("by"))
    except (ValueError, RecursionError):
        return f'"{name}"'.encode() in line or json.dumps(name).encode() in line


def _blank(root: Path, writer: Writer, person: str) -> None:
    """Lines that are in the database already but still stand in a segment that `serve` writes to become spaces: whoever
    writes only ever adds at the end, and whoever reads passes blank lines over."""
    for row in writer.do(lambda connection: connection.execute(select(segments)).all()):
        path = root / INBOX / row.name
        if not path.exists():
            continue
        with path.open("r+b") as file:
            while file.tell() < row.offset and (line := file.readline()):
                if _names(line, person):
                    file.seek(-len(line), os.SEEK_CUR)
                    file.write(b" " * (len(line) - 1) + b"\n")
            file.flush()
            os.fsync(file.fileno())


# -- what was made from it -------------------------------------------------------------------------------------------


def _snapshots_with(root: Path, person: str) -> list[Path]:
    held = []
    for folder in snapshot.folders(root):
        try:
            people = snapshot.describe(folder).get("people", [])
        except UserError:
            people = [person]  # it cannot be said that it does not hold the person's words
        if person in people:
            held.append(folder)
    return held


def _versions_with(root: Path, person: str, snapshots: set[str]) -> tuple[str, ...]:
    """Ids of model versions that name the person or one of the snapshots, or that grew from such a version."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((root / VERSIONS).glob("*/version.json")):
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(body, dict):
            found[str(body.get("id", path.parent.name))] = body
    saw = {
        id for id, body in found.items() if person in (body.get("people") or []) or body.get("snapshot") in snapshots
    }
    while more := {id for id, body in found.items() if body.get("base") in saw} - saw:
        saw |= more
    return tuple(sorted(saw, key=lambda id: (len(id), id)))


# -- overwriting -----------------------------------------------------------------------------------------------------


def _overwrite(workspace: Workspace, writer: Writer) -> None:
    """Nothing of what was deleted is left in the files: they are written anew, and SQLite's log is emptied. Overwriting
    what is deleted (secure_delete) is not enough: pages that are rearranged keep what stood between their cells."""
    if workspace.url:
        writer.alone(lambda connection: _vacuum(connection.engine))
    elif not writer.alone(lambda _: writer.write_anew(PATIENCE_MS)):
        raise UserError(
            f"what was erased still stands in {workspace.database.name}-wal, which another process is reading",
            next_step="stop the processes that read this workspace, and erase once more",
        )


def _vacuum(engine: Engine) -> None:
    with engine.connect() as connection:
        outside = connection.execution_options(isolation_level="AUTOCOMMIT")
        for table in TOUCHED:
            outside.execute(text(f"VACUUM FULL {table.name}"))
