"""The schema's history: it ends where `schema` says, keeps every row, and happens wholly or not at all."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from tests.feedback.conftest import Opener
from tests.feedback.saying import hanako, judgement, with_pair
from tests.feedback.test_kill import KILLED, Writers
from tomoni.errors import UserError
from tomoni.feedback import database
from tomoni.feedback.schema import METADATA
from tomoni.feedback.store import Store

OURS = Path(database.__file__).parent / "migrations"
TABLES = sorted(METADATA.tables)


def history(folder: Path) -> Path:
    """Our steps with one of the tests behind them."""
    made = folder / "history"
    shutil.copytree(OURS, made)
    shutil.copy(Path(__file__).with_name("later_step.py"), made / "versions")
    return made


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Not in force before a test says so."""
    return history(tmp_path)


def test_what_the_steps_make_is_what_the_schema_says(opened: Opener) -> None:
    store = opened()

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, METADATA))

    assert store.look(differences) == []


def test_a_second_opening_changes_and_copies_nothing(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    before = (tmp_path / "tomoni.db").read_bytes()
    Store.open(tmp_path).close()
    assert (tmp_path / "tomoni.db").read_bytes() == before
    assert not list(tmp_path.glob("*.bak"))


def filled(workspace: Path) -> list[str]:
    with Store.open(workspace) as store:
        who = hanako(store)
        with_pair(store)
        for number in range(20):
            store.judge(judgement(f"j{number}", who.id, extra={"pair": "p1"}), key=f"k{number}")
        store.undo("j3", person=who.id, key="u")
        store.set("色", "青")
        return [one.judgement.id for one in store.judgements()]


def contents(workspace: Path) -> dict[str, list[tuple[object, ...]]]:
    with contextlib.closing(sqlite3.connect(workspace / "tomoni.db")) as there:
        rows = {table: there.execute(f"SELECT * FROM {table}") for table in TABLES}  # noqa: S608 names of our own
        return {table: sorted(map(tuple, found), key=repr) for table, found in rows.items()}


def test_a_step_keeps_every_row_and_the_file_is_copied_first(
    tmp_path: Path, later: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = filled(tmp_path)
    before = contents(tmp_path)
    monkeypatch.setattr(database, "MIGRATIONS", later)
    with Store.open(tmp_path) as store:
        assert [one.judgement.id for one in store.judgements()] == ids
        columns = {row[1] for row in store.look(lambda c: c.execute(text("PRAGMA table_info(persons)")).all())}
        assert "nickname" in columns
    after = contents(tmp_path)
    assert {table: rows for table, rows in after.items() if table != "persons"} == {
        table: rows for table, rows in before.items() if table != "persons"
    }
    assert [row[:-1] for row in after["persons"]] == before["persons"]
    copy = tmp_path / "tomoni.db.before-9999.bak"
    with contextlib.closing(sqlite3.connect(copy)) as old:
        assert old.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert old.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
        assert old.execute("SELECT count(*) FROM judgements").fetchone() == (21,)


def test_a_step_works_on_either_database(opened: Opener, monkeypatch: pytest.MonkeyPatch, later: Path) -> None:
    store = opened()
    who = hanako(store)
    store.judge(judgement("j", who.id), key="k")
    store.close()
    monkeypatch.setattr(database, "MIGRATIONS", later)
    assert [one.judgement.id for one in opened().judgements()] == ["j"]


def test_a_step_killed_at_any_statement_has_not_happened(tmp_path: Path) -> None:
    filled(tmp_path / "w")
    before = contents(tmp_path / "w")
    history(tmp_path)
    writers = Writers()
    try:
        killed = 0
        for at in range(2, 60, 3):
            copy = tmp_path / f"at-{at}"
            shutil.copytree(tmp_path / "w", copy)
            if writers.run(copy, tmp_path / "acks", f"migrate:{at}") != KILLED:
                break
            killed += 1
            with contextlib.closing(sqlite3.connect(copy / "tomoni.db")) as there:
                assert there.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                (version,) = there.execute("SELECT version_num FROM alembic_version").fetchone()
            if version == "0001":
                assert contents(copy) == before
            assert writers.run(copy, tmp_path / "acks", "migrate:100000") == 0
            assert contents(copy)["judgements"] == before["judgements"]
        assert killed >= 5
    finally:
        writers.close()


def test_a_database_of_a_newer_tomoni_is_left_alone(
    tmp_path: Path, later: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as future:
        future.setattr(database, "MIGRATIONS", later)
        Store.open(tmp_path).close()
    for open_ in (Store.open, Store.read):
        with pytest.raises(UserError, match="9999"):
            open_(tmp_path)


def test_whoever_reads_an_older_database_is_told_to_open_it_once(
    tmp_path: Path, later: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.open(tmp_path).close()
    monkeypatch.setattr(database, "MIGRATIONS", later)
    with pytest.raises(UserError, match="brings it up to date"):
        Store.read(tmp_path)
