"""One process at a time: locks on files, between the processes of one machine. No torch.

    with locking.take(path): ...      at once, or Taken, which names the process that has it
    with locking.wait(path): ...      as soon as it is free
    locking.is_held(path)             whether a process has it, this one included; takes it from nobody
    locking.holder_of(path)           who wrote its name there last

The lock is flock(2) on a file that stays. It ends when it is closed, and with its process, however that ends: what a
killed process leaves is the file, which says who it was, and no lock. (A child made by fork has a share in it.)

    locking.keep(handle)              an open file of one's own is kept while it is open,
    locking.is_left(handle)           and somebody else who has it open asks whether it is kept still

What the operating system says becomes a DiskError that names the path.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tomoni.durable import naming_disk
from tomoni.errors import DiskError, RunError

TRIES: Final = 5  # of `take`: whoever asks `is_held` has a share in the lock for an instant
PAUSE: Final = 0.02  # seconds between them
READS: Final = 20  # of a name that is being written


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that has a lock."""

    pid: int
    host: str
    start: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.start}"


class Taken(RunError):
    """Another process has the lock: `holder`, or None where it has not written its name. Who takes a lock says in its
    own words what that means."""

    def __init__(self, path: Path, holder: Holder | None) -> None:
        self.holder = holder
        super().__init__(f"{path} is held by {self.by}", next_step="wait for it to end, or stop it")

    @property
    def by(self) -> str:
        return str(self.holder or "another process")


class Lock:
    """A lock that this process has, until `close`."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self.holder = Holder(os.getpid(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"))
        with contextlib.suppress(OSError):  # on a full disk a holder stays nameless
            os.ftruncate(handle, 0)
            os.pwrite(handle, (json.dumps(asdict(self.holder)) + "\n").encode(), 0)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def take(path: Path) -> Lock:
    """The lock on `path` (a file, made where it is missing), without waiting. Raises Taken, and DiskError where the
    file cannot be made or its file system has no locks."""
    handle = _opened(path)
    try:
        with _naming(path):
            for _ in range(TRIES):
                if _flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    return Lock(handle)
                time.sleep(PAUSE)
        raise Taken(path, holder_of(path))
    except BaseException:
        os.close(handle)
        raise


def wait(path: Path) -> Lock:
    """As `take`, but waits until it is free: for what is held for milliseconds."""
    handle = _opened(path)
    try:
        with _naming(path):
            _flock(handle, fcntl.LOCK_EX)
        return Lock(handle)
    except BaseException:
        os.close(handle)
        raise


def is_held(path: Path) -> bool:
    """Whether a process on this machine has the lock on `path`; has a share in it for an instant."""
    with _naming(path):
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return not is_left(handle)
        finally:
            os.close(handle)


def holder_of(path: Path) -> Holder | None:
    """Who wrote its name last. Between taking the lock and writing its name a holder is nameless for an instant."""
    for _ in range(READS):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            body = json.loads(path.read_text(encoding="utf-8"))
            return Holder(body["pid"], body["host"], body["start"])
        time.sleep(PAUSE / 2)
    return None


def keep(handle: int) -> None:
    """Keep a file that this process alone has open. Raises OSError as the operating system does."""
    fcntl.flock(handle, fcntl.LOCK_EX)


def is_left(handle: int) -> bool:
    """Whether nobody else keeps this open file: its holder has closed it or is gone. Where it is so, nobody can take it
    until `handle` is closed."""
    return _flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _flock(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        return False
    return True


def _opened(path: Path) -> int:
    with _naming(path):
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        with naming_disk(path, 0):
            yield
    except OSError as error:
        raise DiskError(
            f"{path} cannot be locked: {error.strerror or error}", next_step="choose a folder on a local disk"
        ) from error
