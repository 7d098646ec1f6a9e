"""The one connection that writes, on a thread of its own. No torch.

Whoever writes hands a job over and waits. Jobs that wait together share one transaction, and each is answered after it
is on the disk (group commit); a job that fails takes back only what it did itself. What an fsync that fails has lost is
not known, so after one nothing more is written until the store is opened anew.
"""

from __future__ import annotations

import ctypes
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from tomoni.errors import DiskError, UserError
from tomoni.feedback.database import take_writer_lock
from tomoni.feedback.events import last
from tomoni.feedback.workspace import Workspace

T = TypeVar("T")
TOGETHER = 256  # jobs that share a transaction at most
# the log is brought into the database file where it is as long as this, or after so many transactions; while a reader
# holds its beginning it stays long, and is not tried again at once
WAL_BYTES = 4 << 20
WAL_GROUPS = 250
WAL_REST = 20


@dataclass(slots=True)
class _Job:
    run: Callable[[Connection], Any]
    alone: bool = False  # outside any transaction
    answer: Future[Any] = field(default_factory=Future)


class Writer:
    """Runs jobs one after another; `sequence` is the number of the last event that is on the disk."""

    def __init__(self, workspace: Workspace, engine: Engine) -> None:
        self._workspace = workspace
        self._engine = engine
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._connection: Connection | None = None
        self._broken: DiskError | None = None
        self._closing = threading.Lock()  # no job is handed over after the thread was told to end
        self._closed = False
        self._wal = workspace.database.with_name(workspace.database.name + "-wal")
        self._groups = 0  # transactions since it was last brought in
        self.sequence = 0
        self.changed = threading.Condition()
        self._connect()
        self._thread = threading.Thread(target=self._loop, name="tomoni-store", daemon=True)
        self._thread.start()

    # -- for the threads that ask ------------------------------------------------------------------------------------

    def do(self, run: Callable[[Connection], T]) -> T:
        """What `run` gives, once what it did is on the disk. Raises what it raised, or DiskError."""
        return self._hand_over(_Job(run))

    def alone(self, run: Callable[[Connection], T]) -> T:
        """What `run` gives, on the writer's thread, with no transaction open."""
        return self._hand_over(_Job(run, alone=True))

    def _hand_over(self, job: _Job) -> Any:
        if threading.current_thread() is self._thread:
            raise RuntimeError("a listener of the store cannot write to it: hand the work to another thread")
        with self._closing:
            if self._closed:
                raise UserError("the store is closed", next_step="open it again")
            self._jobs.put(job)
        return job.answer.result()

    def wait(self, after: int, timeout: float | None) -> int:
        """The number of the last event, as soon as it is greater than `after` or the time (seconds) is over."""
        with self.changed:
            self.changed.wait_for(lambda: self.sequence > after or self._closed, timeout)
            return self.sequence

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        self._thread.join()
        with self.changed:
            self.changed.notify_all()

    # -- the thread --------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            group = []
            while job is not None and not job.alone:
                group.append(job)
                if len(group) == TOGETHER or self._jobs.empty():
                    break
                job = self._jobs.get()
            if group:
                self._together(group)
            if job is None:
                break
            if job.alone:
                self._alone(job)
        self._end()

    def _alone(self, job: _Job) -> None:
        try:
            if self._broken is not None:
                raise self._broken
            job.answer.set_result(job.run(self._connection or self._connect()))
        except BaseException as error:
            job.answer.set_exception(self._worded(error))

    def _together(self, group: list[_Job]) -> None:
        if self._broken is not None:
            for job in group:
                job.answer.set_exception(self._broken)
            return
        try:
            outcomes, sequence = self._commit(group)
        except BaseException as error:
            # nothing of the group is stored, or it is not known to be: nobody is told that it is
            told = self._worded(error)
            for job in group:
                job.answer.set_exception(told)
            return
        with self.changed:
            self.sequence = sequence
            self.changed.notify_all()
        for job, (result, failure) in zip(group, outcomes, strict=True):
            if failure is not None:
                job.answer.set_exception(failure)
            else:
                job.answer.set_result(result)
        self._tidy()

    def _commit(self, group: list[_Job]) -> tuple[list[tuple[Any, Exception | None]], int]:
        connection = self._connection or self._connect()
        with connection.begin():
            outcomes = [_one(connection, job) for job in group]
            sequence = last(connection)
        return outcomes, sequence

    def _connect(self) -> Connection:
        connection = self._engine.connect()
        try:
            take_writer_lock(connection)
            with connection.begin():
                self.sequence = last(connection)
        except Exception:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _worded(self, error: BaseException) -> BaseException:
        if not isinstance(error, DBAPIError):
            return error
        if not isinstance(error.orig, sqlite3.Error):
            if self._connection is not None:  # of a server that went away, maybe: the next job connects anew
                self._connection.invalidate()
                self._connection.close()
                self._connection = None
            said = str(error.orig).strip()
            return DiskError(f"the database did not store this: {said}", next_step="check the server, then try again")
        name = getattr(error.orig, "sqlite_errorname", "")
        said = f"{self._workspace.database} could not be written ({error.orig}); nothing of this was stored"
        if name in ("SQLITE_FULL", "SQLITE_IOERR_WRITE"):
            return DiskError(said, next_step="free some space and try again")
        if name.startswith(("SQLITE_IOERR", "SQLITE_CORRUPT")):
            return self._give_up(said)
        return DiskError(said, next_step="try again")

    def _tidy(self) -> None:
        """Bring the log into the database file once it has grown; after the answers, so that nobody waits for it."""
        if self._connection is None or self._connection.dialect.name != "sqlite":
            return
        try:
            self._groups += 1
            long = self._groups >= WAL_REST and self._wal.stat().st_size >= WAL_BYTES
            if long or self._groups >= WAL_GROUPS:
                self.checkpoint("PASSIVE")
                self._groups = 0
        except FileNotFoundError:
            return
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "") not in ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_BUSY"):
                self._give_up(f"{self._workspace.database} could not be written ({error})")

    def checkpoint(self, how: str) -> bool:
        """Only on the writer's thread and outside a transaction. Whether all of the log is in the database file."""
        busy, _, _ = self._raw().execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        return not busy

    def write_anew(self, patience_ms: int) -> bool:
        """The file holds nothing but what it is asked for, and the log is empty; False where a reader holds the log."""
        raw = self._raw()
        (usual,) = raw.execute("PRAGMA busy_timeout").fetchone()
        raw.execute("VACUUM")
        raw.execute(f"PRAGMA busy_timeout={patience_ms}")
        try:
            return self.checkpoint("TRUNCATE")
        finally:
            raw.execute(f"PRAGMA busy_timeout={usual}")

    def _raw(self) -> Any:
        connection = self._connection or self._connect()
        return connection.connection.driver_connection

    def _end(self) -> None:
        if self._connection is not None and self._broken is None:
            self._connection.close()
            self._engine.dispose()

    def _give_up(self, said: str) -> DiskError:
        """Nothing more is written. The connection is never closed, not even when the interpreter tidies up at its end:
        closing it would checkpoint, and sync, once more."""
        if self._broken is None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
            self._broken = DiskError(said, next_step="check the disk, make a backup, then start again")
        return self._broken


def _one(connection: Connection, job: _Job) -> tuple[Any, Exception | None]:
    part = connection.begin_nested()
    try:
        result = job.run(connection)
        part.commit()
    except Exception as error:
        if _of_the_disk(error):
            raise
        part.rollback()
        return None, error
    return result, None


def _of_the_disk(error: Exception) -> bool:
    """Whether the whole transaction is lost with it, not only one job's part."""
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    name = getattr(error.orig, "sqlite_errorname", "")
    return name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_NOMEM", "SQLITE_CORRUPT", "SQLITE_READONLY"))
