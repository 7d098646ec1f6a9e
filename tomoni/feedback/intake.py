"""Taking the inbox in: events into the database, once each, whatever is killed when. No torch.

How far a segment has been read stands in the database, in the same transaction as what was read. A segment is removed
when all of it is in and nobody writes to it any more. A line that cannot be taken in is kept aside with the reason;
feedback on a completion that has not come in yet waits there for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, delete, insert, select

from tomoni import locking
from tomoni.durable import sync
from tomoni.errors import UserError
from tomoni.feedback import accounts, judging, pool
from tomoni.feedback.entries import Answer, NewPrompt, Pair
from tomoni.feedback.inbox import FOLDER, SUFFIX, AnswerEvent, Event, FeedbackEvent, PairEvent, PromptEvent, event_of
from tomoni.feedback.schema import answers, aside, persons, segments
from tomoni.records import Judgement, Kind

T = TypeVar("T")
AT_ONCE = 500  # lines that share a transaction
LONGEST_LINE = 16 << 20  # bytes; a longer one is kept aside in part
Do = Callable[[Callable[[Connection], int]], int]


@dataclass(frozen=True, slots=True)
class Aside:
    """A line of the inbox that could not be taken in."""

    segment: str
    offset: int  # bytes
    reason: str
    line: bytes
    waits: bool  # for a completion that has not come in yet


@dataclass(frozen=True, slots=True)
class _Line:
    offset: int
    raw: bytes


class _Waits(Exception):
    def __init__(self, completion: str) -> None:
        self.completion = completion
        super().__init__(f"the completion {completion!r} has not come in")


def take_in(root: Path, do: Do) -> int:
    """Events taken in from all segments; `do` runs a job in a transaction and returns after it is on the disk."""
    folder = root / FOLDER
    if not folder.is_dir():
        return 0
    taken = 0
    for path in sorted(folder.glob(f"[!.]*{SUFFIX}")):
        taken += _segment(path, do)
    return taken + do(_again)


def _segment(path: Path, do: Do) -> int:
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    taken = 0
    with os.fdopen(handle, "rb") as file:
        ended = locking.is_left(handle)  # its writer has closed it or is gone
        start = do(lambda connection: _offset(connection, path.name))
        file.seek(start)
        for portion, end in _portions(file, start, ended):
            taken += do(lambda connection, portion=portion, end=end: _take(connection, path.name, portion, end))  # type: ignore[misc]
        if ended:  # nobody has it open for writing, and all of it is in the database
            path.unlink(missing_ok=True)
            sync(path.parent)
            do(lambda connection: _forget(connection, path.name))
    return taken


def _portions(file: Any, offset: int, ended: bool) -> Iterator[tuple[list[_Line], int]]:
    """Some lines at a time, and where they end. A last line without its end is torn, or being written."""
    lines: list[_Line] = []
    while raw := file.readline(LONGEST_LINE):
        if not raw.endswith(b"\n") and not ended and len(raw) < LONGEST_LINE:
            break
        lines.append(_Line(offset, raw))
        offset += len(raw)
        if len(lines) == AT_ONCE:
            yield lines, offset
            lines = []
    if lines:
        yield lines, offset


def _offset(connection: Connection, name: str) -> int:
    return connection.execute(select(segments.c.offset).where(segments.c.name == name)).scalar() or 0


def _forget(connection: Connection, name: str) -> int:
    connection.execute(delete(segments).where(segments.c.name == name))
    return 0


def _take(connection: Connection, name: str, lines: list[_Line], end: int) -> int:
    taken = 0
    for line in lines:
        if not line.raw.strip():
            continue
        try:
            _store(connection, event_of(line.raw))
            taken += 1
        except (_Waits, UserError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            _keep(connection, name, line, error)
    _forget(connection, name)
    connection.execute(insert(segments).values(name=name, offset=end))
    return taken


def _keep(connection: Connection, name: str, line: _Line, error: Exception) -> None:
    where = (aside.c.segment == name) & (aside.c.offset == line.offset)
    connection.execute(delete(aside).where(where))
    waits = error.completion if isinstance(error, _Waits) else None
    reason = error.what if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    connection.execute(
        insert(aside).values(segment=name, offset=line.offset, reason=reason[:500], waits_for=waits, line=line.raw)
    )


def _again(connection: Connection) -> int:
    """Feedback whose completion has come in meanwhile."""
    taken = 0
    ready = select(aside).where(aside.c.waits_for.in_(select(answers.c.id)))
    for row in connection.execute(ready).all():
        connection.execute(delete(aside).where((aside.c.segment == row.segment) & (aside.c.offset == row.offset)))
        line = _Line(row.offset, row.line)
        try:
            _store(connection, event_of(line.raw))
            taken += 1
        except (_Waits, UserError, ValueError, KeyError, TypeError, AttributeError) as error:
            _keep(connection, row.segment, line, error)
    return taken


def list_aside(connection: Connection) -> list[Aside]:
    rows = connection.execute(select(aside).order_by(aside.c.segment, aside.c.offset))
    return [Aside(row.segment, row.offset, row.reason, row.line, row.waits_for is not None) for row in rows]


# -- one event -------------------------------------------------------------------------------------------------------


def _store(connection: Connection, event: Event) -> None:
    part = connection.begin_nested()
    try:
        match event:
            case AnswerEvent():
                _answer(connection, event)
            case PromptEvent():
                pool.add_prompts(connection, [_prompt(event)])
            case PairEvent():
                _pair(connection, event)
            case FeedbackEvent():
                _feedback(connection, event)
        part.commit()
    except Exception:
        part.rollback()
        raise


def _prompt(event: AnswerEvent | PromptEvent) -> NewPrompt:
    by = None if event.by is None else accounts.API + event.by
    return NewPrompt(event.messages, "traffic", by=by)


def _answer(connection: Connection, event: AnswerEvent) -> None:
    (prompt,) = pool.add_prompts(connection, [_prompt(event)])
    answer = Answer(
        event.id, prompt.id, event.version, event.version_hash, event.text, event.features, event.logprob,
        event.tokens, event.how, event.at,
    )  # fmt: skip
    pool.add_answers(connection, [answer])


def _pair(connection: Connection, event: PairEvent) -> None:
    (prompt,) = pool.add_prompts(connection, [NewPrompt(event.messages, "import", topic=event.topic, held_out=True)])
    if not prompt.held_out:  # what a gate asks about is not trained on from then on
        pool.change_prompt(connection, prompt.id, {"held_out": True})
    first, second = event.answers
    pool.add_answers(
        connection,
        [
            Answer(one.id, prompt.id, one.version, one.version_hash, one.text, tokens=one.tokens, created=event.at)
            for one in event.answers
        ],
    )
    pool.add_pairs(connection, [Pair(event.id, prompt.id, first.id, second.id, event.purpose, event.selected_by)])


def _feedback(connection: Connection, event: FeedbackEvent) -> None:
    if connection.execute(select(answers.c.id).where(answers.c.id == event.completion)).first() is None:
        raise _Waits(event.completion)
    answer = pool.get_answer(connection, event.completion)
    prompt = pool.get_prompt(connection, answer.prompt)
    person = _person(connection, event.person)
    said = list(_said(event))
    if not said:
        raise UserError("feedback that says nothing", choices=["up", "stars", "correction", "comment", "flags"])
    for kind, value in said:
        judgement = Judgement(
            id=f"{event.event}-{kind.value}",
            person=person,
            prompt=prompt.messages,
            answers=(answer.text,),
            order=(0,),
            kind=kind,
            value=value,
            model_versions=(answer.version,),
            tags=event.tags,
            comment=event.comment if kind is Kind.COMMENT else "",
            extra={"prompt": prompt.id, "answers": [answer.id], "purpose": "train", "selected_by": "traffic"},
        )
        judging.judge(connection, judgement, f"inbox:{judgement.id}", received=event.at)


def _said(event: FeedbackEvent) -> Iterator[tuple[Kind, dict[str, Any]]]:
    if event.up is not None:
        yield Kind.THUMB, {"answer": 0, "up": event.up}
    if event.stars is not None:
        yield Kind.RATING, {"answer": 0, "stars": event.stars}
    if event.correction is not None:
        yield Kind.CORRECTION, {"answer": 0, "text": event.correction}
    if event.flags:
        flags = ("harmful", "private", "untrue")
        if unknown := set(event.flags) - set(flags):
            raise UserError(f"the flag {min(unknown)!r} is not known", choices=flags)
        yield Kind.FLAG, {"answer": 0, **{flag: flag in event.flags for flag in flags}}
    if event.comment:
        yield Kind.COMMENT, {}


def _person(connection: Connection, who: str) -> str:
    id = (accounts.API + who)[:200]
    if connection.execute(select(persons.c.id).where(persons.c.id == id)).first() is None:
        accounts.add(connection, id[: accounts.LONGEST_NAME], role="annotator", lang="", password_hash=None, id=id)
    return id
