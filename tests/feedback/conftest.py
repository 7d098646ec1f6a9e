"""Stores to test with: SQLite in a folder, and PostgreSQL in a cluster of its own where the machine has it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tomoni.feedback.store import Store

PROGRAMS = (
    "/usr/lib/postgresql/17/bin",
    "/usr/lib/postgresql/16/bin",
    "/usr/lib/postgresql/15/bin",
    "/usr/lib/postgresql/14/bin",
)
Opener = Callable[[], Store]


class Cluster:
    """A PostgreSQL of our own, in a temporary folder, on a socket there; it does not listen on the network."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.shared = ""
        self.folder = Path(tempfile.mkdtemp(prefix="tomoni-pg-"))
        self.as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        if self.as_user:
            shutil.chown(self.folder, "postgres")
        self._run("initdb", "-D", self.folder / "data", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses='' -k {self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-l", self.folder / "log", "-o", options, "start")

    def _run(self, program: str, *arguments: object) -> None:
        words = [*self.as_user, str(self.programs / program), *map(str, arguments)]
        subprocess.run(words, check=True, capture_output=True, cwd=self.folder)

    def database(self) -> str:
        name = f"t{secrets.token_hex(6)}"
        self._run("createdb", "-h", self.folder, "-U", "postgres", name)
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def emptied(self) -> str:
        """The same database for every test, with nothing in it: quicker than a new one."""
        if not self.shared:
            self.shared = self.database()
        url = self.shared.replace("postgresql:", "postgresql+psycopg:")
        engine = create_engine(url, poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        return self.shared

    def restart(self) -> None:
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")
        options = f"-c listen_addresses='' -k {self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-l", self.folder / "log", "-o", options, "start")

    def close(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self._run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    programs = next((Path(folder) for folder in PROGRAMS if (Path(folder) / "initdb").exists()), None)
    if programs is None:
        pytest.skip("PostgreSQL is not installed here")
    if os.getuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL refuses root, and there is no runuser")
    made = Cluster(programs)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens one workspace, any number of times one after the other; the test's stores are closed for it."""
    url = request.getfixturevalue("cluster").emptied() if request.param == "postgresql" else None
    made: list[Store] = []

    def open_() -> Store:
        made.append(Store.open(tmp_path / "w", url=url))
        return made[-1]

    yield open_
    for store in made:
        store.close()


@pytest.fixture
def store(opened: Opener) -> Store:
    return opened()
