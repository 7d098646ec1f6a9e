"""Opening the database: SQLite in WAL mode or PostgreSQL by a URL; the schema brought up to date. No torch.

SQLite has one connection that writes and checkpoints, and others that cannot: a bug of its WAL mode before 3.51.3 can
corrupt a file that two connections checkpoint at once.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool, QueuePool

from tomoni.durable import sync
from tomoni.errors import DiskError, UserError
from tomoni.feedback.workspace import Workspace, naming, now

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_MS = 10_000
ADVISORY = 0x746F6D6F  # PostgreSQL's lock for the one writer


def writing(workspace: Workspace) -> Engine:
    """An engine for the one connection that writes. Nothing is opened yet."""
    if workspace.url:
        return _server(workspace.url)
    engine = create_engine(
        "sqlite://", creator=lambda: _open_sqlite(workspace.database, "rwc"), poolclass=NullPool, hide_parameters=True
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def reading(workspace: Workspace) -> Engine:
    """An engine whose connections cannot write."""
    if workspace.url:
        return _server(workspace.url).execution_options(postgresql_readonly=True)
    engine = create_engine(
        "sqlite://",
        creator=lambda: _open_sqlite(workspace.database, "ro"),
        poolclass=QueuePool,
        pool_size=8,
        max_overflow=56,
        hide_parameters=True,  # what people wrote belongs in no message and no log
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _server(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in ("postgresql", "postgres"):
            raise ArgumentError(f"{parsed.get_backend_name()} is not known")
        parsed = parsed.set(drivername="postgresql+psycopg")
        return create_engine(parsed, pool_pre_ping=True, pool_size=8, max_overflow=56, hide_parameters=True)
    except (ArgumentError, NoSuchModuleError) as error:
        raise UserError(
            f"the database URL cannot be used: {error}",
            choices=["postgresql://user@host/database"],
            next_step="leave it out to keep everything in one file, tomoni.db",
        ) from error
    except ModuleNotFoundError as error:
        raise UserError("psycopg is not installed", next_step="pip install 'tomoni[postgres]'") from error


def _open_sqlite(path: Path, mode: str) -> sqlite3.Connection:
    try:
        if mode == "rwc":
            for_its_owner(path)
        connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode={mode}",
            uri=True,
            timeout=BUSY_MS / 1000,
            isolation_level=None,  # transactions begin where we say so, not where the driver guesses
            check_same_thread=False,
        )
        for pragma in _PRAGMAS[mode]:
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error as error:
        raise _unreadable(path, error) from error
    return connection


def for_its_owner(path: Path) -> None:
    """A database that is new may be read by its owner only; SQLite gives its log the same mode."""
    with naming(path), contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


_EVERY = (f"busy_timeout={BUSY_MS}", "foreign_keys=ON", "mmap_size=0", "trusted_schema=OFF")
_PRAGMAS = {
    # checkpoints are ours to make, so that their errors are seen; a log that begins anew is cut, so that its size says
    # how much is in it
    "rwc": (
        *_EVERY,
        "journal_mode=WAL",
        "synchronous=FULL",
        "secure_delete=ON",
        "wal_autocheckpoint=0",
        "journal_size_limit=0",
    ),
    "ro": (*_EVERY, "query_only=ON"),
}


def _unreadable(path: Path, error: sqlite3.Error) -> UserError:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return UserError(f"{path} is damaged: {error}", next_step="restore a backup: see docs/feedback.md")
    return DiskError(f"{path} cannot be opened: {error}", next_step="check permissions and free space")


@contextlib.contextmanager
def worded(workspace: Workspace) -> Iterator[None]:
    """What a database server says when it cannot be reached, as a UserError without its password."""
    try:
        yield
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error):
            raise _unreadable(workspace.database, error.orig) from error
        where = make_url(workspace.url).render_as_string(hide_password=True) if workspace.url else workspace.database
        raise UserError(
            f"the database {where} cannot be used: {str(error.orig).strip()}",
            next_step="check that the server runs and that the URL's user may write to its database",
        ) from error


# -- the schema ------------------------------------------------------------------------------------------------------


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def head() -> str:
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def migrate(workspace: Workspace, engine: Engine) -> Path | None:
    """Bring the schema up to date, all steps in one transaction; the SQLite file is copied first. Gives the copy."""
    with engine.connect() as connection:
        with connection.begin():
            there = revision(connection)
        wanted = head()
        if there == wanted:
            return None
        _refuse_newer(workspace, there)
        copied = None
        if there is not None and not workspace.url:
            copied = workspace.database.with_name(f"{workspace.database.name}.before-{wanted}.bak")
            copy_sqlite(workspace.database, copied)
        sqlite = engine.dialect.name == "sqlite"
        if sqlite:
            # rebuilding a table drops the old one, which must not take the rows that point to it along
            _raw(connection).execute("PRAGMA foreign_keys=OFF")
        with connection.begin():
            command.upgrade(_config(connection), "head")
            if sqlite and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
                raise RuntimeError(f"a migration left rows that point nowhere: {broken[:3]}")
        return copied


def _raw(connection: Connection) -> Any:
    return connection.connection.driver_connection


def _refuse_newer(workspace: Workspace, there: str | None) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if there is not None and there not in known:
        raise UserError(
            f"the database of {workspace.root} is of schema {there}, which this tomoni does not know",
            choices=sorted(known),
            next_step="use the newer tomoni that wrote it",
        )


def copy_sqlite(source: Path, target: Path) -> None:
    """A whole copy of a database that may be in use (SQLite's online backup), checked and on the disk."""
    aside = target.with_name(f".{target.name}-{now().replace(':', '')}")
    try:
        for_its_owner(aside)
        with contextlib.closing(_open_sqlite(source, "ro")) as old, contextlib.closing(sqlite3.connect(aside)) as new:
            old.backup(new, pages=1024, sleep=0.001)
            new.execute("PRAGMA journal_mode=DELETE")
            (said,) = new.execute("PRAGMA integrity_check").fetchone()
        if said != "ok":
            raise UserError(f"the copy of {source} is damaged: {said}", next_step="restore an older backup")
        sync(aside)
        aside.replace(target)
        sync(target.parent)
    except sqlite3.Error as error:
        raise _unreadable(source, error) from error
    finally:
        aside.unlink(missing_ok=True)


def backup(workspace: Workspace, target: Path) -> Path:
    """A whole copy of the database, made while others may write. UserError where a server holds it."""
    if workspace.url:
        raise UserError(
            f"the judgements of {workspace.root} are in a PostgreSQL database",
            next_step="use its own tools (pg_dump), or `tomoni feedback W export`",
        )
    if not workspace.database.exists():
        raise UserError(f"{workspace.root} has no judgements yet", next_step="start the studio, and judge")
    if target.is_dir():
        target = target / f"{workspace.database.stem}-{now()[:19].replace(':', '')}.db"
    if target.exists():
        raise UserError(f"{target} exists already", next_step="choose a name that is free")
    target.parent.mkdir(parents=True, exist_ok=True)
    copy_sqlite(workspace.database, target)
    return target


def take_writer_lock(connection: Connection) -> None:
    """On a server: one writer for the whole database, wherever it runs."""
    if connection.dialect.name == "sqlite":
        return
    with connection.begin():
        if not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": ADVISORY}).scalar():
            pid = connection.execute(
                text("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = :key AND granted"),
                {"key": ADVISORY},
            ).scalar()
            raise UserError(
                f"the database is being written to by another process (of the server: {pid})",
                next_step="stop the other studio that uses this database",
            )
