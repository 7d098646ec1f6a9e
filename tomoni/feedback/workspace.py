"""A workspace: the user's folder, with workspace.json, the database, the inbox, and who holds it for writing. No torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tomoni import locking
from tomoni.durable import sync, write_synced
from tomoni.errors import DiskError, UserError

DESCRIPTION = "workspace.json"
DATABASE = "tomoni.db"
LOCK = "tomoni.db.lock"
SCHEMA = 1


def now() -> str:
    """The time as people read it. Nothing is ordered by it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def machine() -> str:
    """A mark of this machine, by which figures measured here are told from those of another; its name cannot be read from it."""
    return hashlib.sha256(f"{socket.gethostname()} {os.cpu_count()}".encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Workspace:
    root: Path
    id: str
    created: str
    url: str | None  # of a database server; None: tomoni.db in the folder

    @property
    def database(self) -> Path:
        return self.root / DATABASE


def find(root: str | Path) -> Workspace:
    """The workspace in this folder; UserError where there is none yet."""
    folder = Path(root).expanduser()
    path = folder / DESCRIPTION
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder} is no workspace: it has no {DESCRIPTION}",
            next_step="name the folder that the studio was started with; `make demo` makes one",
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}", next_step="restore it from a backup") from error
    return _described(folder, path, body)


def _described(folder: Path, path: Path, body: Any) -> Workspace:
    if not isinstance(body, dict) or not isinstance(body.get("id"), str):
        raise UserError(f"{path} is damaged: it names no id", next_step="restore it from a backup")
    if body.get("schema") != SCHEMA:
        raise UserError(
            f"{path} is of schema {body.get('schema')!r}", choices=[str(SCHEMA)], next_step="use a newer tomoni"
        )
    url = body.get("database")
    return Workspace(folder, body["id"], str(body.get("created", "")), url if isinstance(url, str) else None)


def make(root: str | Path, *, url: str | None = None) -> Workspace:
    """The workspace in this folder; the folder becomes one where it is none yet. `url` names a database server, and
    is kept in workspace.json, which only its owner may read."""
    folder = Path(root).expanduser()
    path = folder / DESCRIPTION
    if not path.exists():
        with naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _describe(path, {"schema": SCHEMA, "id": secrets.token_hex(16), "created": now(), "database": url})
    there = find(folder)
    if url is None or url == there.url:
        return there
    if there.url is not None or there.database.exists():
        raise UserError(
            f"{folder} keeps its judgements in {'another database' if there.url else there.database}",
            next_step="export them, make a new workspace with the other database, and import them there",
        )
    with naming(folder):
        _describe(path, {"schema": SCHEMA, "id": there.id, "created": there.created, "database": url})
    return find(folder)


def _describe(path: Path, body: dict[str, Any]) -> None:
    aside = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # before it holds the URL's password
    write_synced(aside, json.dumps(body, indent=1).encode() + b"\n")
    os.replace(aside, path)
    sync(path.parent)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """What the operating system says of a disk, as a DiskError that names the path."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"{error.filename or path}: {error.strerror}", next_step="check permissions and free space"
        ) from error


class Hold:
    """The right to write, for one process at a time; ends with `close` or with the process, however that came."""

    def __init__(self, workspace: Workspace) -> None:
        try:
            self._lock = locking.take(workspace.root / LOCK)
        except locking.Taken as taken:
            raise UserError(
                f"{workspace.root} is being written to by {taken.by}",
                next_step="stop that process (the studio, most likely), or do this in the studio",
            ) from None

    def close(self) -> None:
        self._lock.close()


def is_held(root: Path) -> bool:
    """Whether a process on this machine writes to the workspace."""
    return locking.is_held(root / LOCK)
