"""The store of what people say. One process writes (`Store.open`), any number read (`Store.read`). No torch.

    with Store.open("workspace") as store:
        ack = store.judge(judgement, key="a key made by the page")     # on the disk when it returns
        store.judgements()                                             # those that count now, in the order they were said

Every method may be called from any thread. What a method raises for a person to mend is a UserError; DiskError where
something could not be stored, and then it is not. `sequence` grows with every event.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection, Engine

from tomoni.durable import sync
from tomoni.errors import UserError
from tomoni.feedback import accounts, database, erase, events, guideline, intake, judging, pool
from tomoni.feedback.entries import (
    Ack,
    Answer,
    Erased,
    NewPrompt,
    Pair,
    Person,
    PersonRole,
    PromptRow,
    PromptStatus,
    Purpose,
    Rule,
    RuleStatus,
    Stored,
)
from tomoni.feedback.intake import Aside
from tomoni.feedback.workspace import Hold, Workspace, find, make
from tomoni.feedback.writer import Writer
from tomoni.records import Judgement, Kind

P = ParamSpec("P")
T = TypeVar("T")
LOOK_EVERY = 0.1  # seconds between two looks of a reader that waits for another process to write


class Store:
    """Made by `open` or `read`."""

    def __init__(self, workspace: Workspace, readers: Engine, writer: Writer | None, hold: Hold | None) -> None:
        self.workspace = workspace
        self._readers = readers
        self._writer = writer
        self._hold = hold
        self._sessions: dict[str, float] = {}  # hash of a token -> when it ends, by the clock that nobody can set
        self._sessions_lock = threading.Lock()
        self._taking = threading.Lock()  # one look through the inbox at a time
        self._closed = False

    @classmethod
    def open(cls, workspace: str | Path, *, url: str | None = None) -> Self:
        """For writing; the folder becomes a workspace where it is none, and the schema is brought up to date.

        `url` names a PostgreSQL database instead of tomoni.db. UserError where another process writes here.
        """
        there = make(workspace, url=url)
        hold = Hold(there)
        engine = None
        try:
            engine = database.writing(there)
            with database.worded(there):
                database.migrate(there, engine)
                sync(there.root)  # the name of a new tomoni.db; SQLite syncs only the log's
                return cls(there, database.reading(there), Writer(there, engine), hold)
        except BaseException:
            if engine is not None:
                engine.dispose()
            hold.close()
            raise

    @classmethod
    def read(cls, workspace: str | Path) -> Self:
        """For looking only, while another process may write."""
        there = find(workspace)
        if there.url is None and not there.database.exists():
            raise UserError(f"{there.root} has no judgements yet", next_step="start the studio, and judge")
        readers = database.reading(there)
        try:
            with database.worded(there), readers.connect() as connection:
                known = database.revision(connection)
        except BaseException:
            readers.dispose()
            raise
        if known != (wanted := database.head()):
            readers.dispose()
            raise UserError(
                f"the database of {there.root} is of schema {known}, and this tomoni reads {wanted}",
                next_step="open the workspace once for writing (start the studio), which brings it up to date",
            )
        return cls(there, readers, None, None)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._readers.dispose()
        if self._writer is not None:
            self._writer.close()
        if self._hold is not None:
            self._hold.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- how the methods below reach the database --------------------------------------------------------------------

    def _look(self, what: Callable[Concatenate[Connection, P], T], *args: P.args, **named: P.kwargs) -> T:
        if self._closed:
            raise UserError("the store is closed", next_step="open it again")
        with database.worded(self.workspace), self._readers.connect() as connection, connection.begin():
            return what(connection, *args, **named)

    def _do(self, what: Callable[Concatenate[Connection, P], T], *args: P.args, **named: P.kwargs) -> T:
        return self._writing().do(lambda connection: what(connection, *args, **named))

    def _writing(self) -> Writer:
        if self._writer is None:
            raise UserError("the store was opened for reading", next_step="Store.open opens it for writing")
        return self._writer

    # -- live updates ------------------------------------------------------------------------------------------------

    @property
    def sequence(self) -> int:
        """The number of the last event that is on the disk."""
        return self._look(events.last) if self._writer is None else self._writer.sequence

    def wait(self, after: int, timeout: float | None = None) -> int:
        """`sequence` as soon as it is greater than `after`, or when `timeout` seconds are over."""
        if self._writer is not None:
            return self._writer.wait(after, timeout)
        end = None if timeout is None else time.monotonic() + timeout
        while (now := self.sequence) <= after and (end is None or time.monotonic() < end):
            time.sleep(LOOK_EVERY)
        return now

    # -- people and their sessions -----------------------------------------------------------------------------------

    def add_person(self, name: str, *, role: PersonRole, lang: str = "ja", password_hash: str | None = None) -> Person:
        return self._do(accounts.add, name, role=role, lang=lang, password_hash=password_hash)

    def people(self) -> list[Person]:
        return self._look(accounts.everyone)

    def person(self, id: str) -> Person:
        return self._look(accounts.get, id)

    def person_named(self, name: str) -> Person | None:
        return self._look(accounts.named, name)

    def change_person(self, id: str, **changes: Any) -> Person:
        """name, role, lang, password_hash, active; whoever is no longer active has no session left."""
        changed = self._do(accounts.change, id, changes)
        return changed

    def begin_session(self, person_id: str, token_hash: str, seconds: float) -> None:
        with self._sessions_lock:
            ended = [token for token, end in self._sessions.items() if end <= time.monotonic()]
        self._do(accounts.begin, person_id, token_hash, seconds, ended)
        with self._sessions_lock:
            self._sessions[token_hash] = time.monotonic() + seconds
            for token in ended:
                self._sessions.pop(token, None)

    def session(self, token_hash: str) -> Person | None:
        """Whose it is, while it lasts. A clock that is set makes no session longer."""
        found = self._look(accounts.of_session, token_hash)
        if found is None:
            return None
        person, left = found
        with self._sessions_lock:
            end = self._sessions.setdefault(token_hash, time.monotonic() + left)
        return person if time.monotonic() < end else None

    def end_session(self, token_hash: str) -> None:
        self._do(accounts.end, token_hash)
        with self._sessions_lock:
            self._sessions.pop(token_hash, None)

    def end_sessions(self, person_id: str) -> None:
        self._do(accounts.end_all, person_id)

    # -- prompts, answers, pairs -------------------------------------------------------------------------------------

    def add_prompts(self, new: Sequence[NewPrompt]) -> list[PromptRow]:
        """The rows of these prompts, in order; what was there before is left as it is."""
        return self._do(pool.add_prompts, new)

    def prompts(
        self,
        *,
        status: PromptStatus | None = None,
        topic: str | None = None,
        held_out: bool | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> list[PromptRow]:
        """In the order they came; `after` is the id of the last one of the page before."""
        return self._look(pool.list_prompts, status=status, topic=topic, held_out=held_out, limit=limit, after=after)

    def prompt(self, id: str) -> PromptRow:
        return self._look(pool.get_prompt, id)

    def change_prompt(self, id: str, **changes: Any) -> PromptRow:
        """status, topic, held_out."""
        return self._do(pool.change_prompt, id, changes)

    def add_answers(self, new: Sequence[Answer]) -> int:
        """How many of them were not there before."""
        return self._do(pool.add_answers, new)

    def answers(self, *, prompt: str | None = None, version: str | None = None) -> list[Answer]:
        return self._look(pool.list_answers, prompt=prompt, version=version)

    def answer(self, id: str) -> Answer:
        return self._look(pool.get_answer, id)

    def add_pairs(self, new: Sequence[Pair]) -> int:
        """How many of them were not there before."""
        return self._do(pool.add_pairs, new)

    def pairs(
        self,
        *,
        purpose: Purpose | None = None,
        judged: bool | None = None,
        person: str | None = None,
        limit: int | None = None,
    ) -> list[Pair]:
        """In the order they came. `person`: those meant for this person or for anyone; `judged`: whether this person
        (without one, whether anybody) has compared them or passed them over."""
        return self._look(pool.list_pairs, purpose=purpose, judged=judged, person=person, limit=limit)

    def pair(self, id: str) -> Pair:
        return self._look(pool.get_pair, id)

    # -- judgements --------------------------------------------------------------------------------------------------

    def judge(self, judgement: Judgement, *, key: str) -> Ack:
        """On the disk when it returns. The same judgement with the same key is stored once, however often it is sent."""
        return self._do(judging.judge, judgement, key)

    def undo(self, id: str, *, person: str, key: str) -> Ack:
        """Take back the judgement `id`; what it had replaced counts again. An event like any other."""
        what = Judgement(
            id=secrets.token_hex(12), person=person, prompt=(), answers=(), order=(), kind=Kind.UNDO, value={},
            replaces=id,
        )  # fmt: skip
        return self._do(judging.judge, what, key)

    def judgements(
        self,
        *,
        after: int = 0,
        person: str | None = None,
        kinds: Iterable[Kind] | None = None,
        purpose: Purpose | None = None,
        live: bool = True,
    ) -> list[Stored]:
        """In the order they were said, from the sequence number `after` on. `live`: without those that were replaced
        or undone, and without the undoing itself."""
        return self._look(judging.stored, after=after, person=person, kinds=kinds, purpose=purpose, live=live)

    def judgement(self, id: str) -> Stored:
        return self._look(judging.get, id)

    def count_judgements(
        self,
        *,
        after: int = 0,
        person: str | None = None,
        kinds: Iterable[Kind] | None = None,
        purpose: Purpose | None = None,
        live: bool = True,
    ) -> int:
        return self._look(judging.count, after=after, person=person, kinds=kinds, purpose=purpose, live=live)

    def erase_person(self, id: str) -> Erased:
        """Everything this person said, gone: from the database, its log, the inbox and the snapshots. Gives the model
        versions that have learnt from it."""
        self.take_in()
        return erase.erase(self.workspace, self._writing(), id)

    # -- guideline and settings --------------------------------------------------------------------------------------

    def add_rule(
        self, text: str, *, by: str | None = None, status: RuleStatus = "proposed", examples: Sequence[str] = ()
    ) -> Rule:
        return self._do(guideline.add, {"text": text, "by": by, "status": status, "examples": examples})

    def change_rule(self, id: str, **changes: Any) -> Rule:
        """text, status, examples, by (who changes it)."""
        return self._do(guideline.change, id, changes)

    def rules(self, *, history: bool = False) -> list[Rule]:
        return self._look(guideline.every, history=history)

    def get(self, key: str, default: Any = None) -> Any:
        return self._look(guideline.get_setting, key, default)

    def set(self, key: str, value: Any) -> None:
        self._do(guideline.set_setting, key, value)

    # -- the inbox ---------------------------------------------------------------------------------------------------

    def take_in(self) -> int:
        """Events read from the inbox that `serve` writes; each counts once."""
        with self._taking:
            return intake.take_in(self.workspace.root, self._writing().do)

    def kept_aside(self) -> list[Aside]:
        """Lines of the inbox that could not be taken in, with the reason."""
        return self._look(intake.list_aside)

    # -- as a whole --------------------------------------------------------------------------------------------------

    def look(self, what: Callable[[Connection], T]) -> T:
        """Several questions about one moment."""
        return self._look(what)

    def together(self, what: Callable[[Connection], T]) -> T:
        """Several changes as one: all of them are stored, or none."""
        return self._do(what)

    def backup(self, target: str | Path) -> Path:
        """A whole copy of tomoni.db while others go on writing."""
        return database.backup(self.workspace, Path(target).expanduser())
