"""A full disk, a failing one: it is said, nothing is acknowledged that is not stored, no sync is tried twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tomoni.feedback.store import Store

ROOT = Path(__file__).parents[2]


def run(what: str, *paths: Path, **environment: str) -> dict[str, Any]:
    words = [sys.executable, "-m", "tests.feedback.disk_writer", what, *map(str, paths)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def stored(workspace: Path) -> list[str]:
    with Store.open(workspace) as store:
        return [one.judgement.id.replace("j", "k") for one in store.judgements()]


def test_a_disk_that_is_full_is_said_and_used_again_when_it_is_not(tmp_path: Path) -> None:
    told = run("full", tmp_path)
    assert 0 < len(told["done"]) < 1000
    assert "tomoni.db could not be written" in told["said"] and "nothing of this was stored" in told["said"]
    assert "free some space" in told["failed_again"]
    assert [id.replace("j", "k") for id in told["seen"]] == told["done"]  # one can still look
    assert len(told["more"]) == 5 and told["after"] == ""
    assert stored(tmp_path) == told["done"] + told["more"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("file systems may not be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_file_system_without_space_is_said_and_used_again_when_there_is_some(small_disk: Path) -> None:
    told = run("mounted", small_disk)
    assert 0 < len(told["done"]) < 1000 and "nothing of this was stored" in told["said"]
    assert len(told["more"]) == 5 and told["after"] == ""
    assert stored(small_disk) == told["done"] + told["more"]


@pytest.fixture(scope="module")
def failing_sync(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("a fault that is preloaded needs a C compiler and Linux")
    made = tmp_path_factory.mktemp("shim") / "failing_sync.so"
    source = Path(__file__).with_name("failing_sync.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return made


def test_after_a_sync_that_failed_nothing_is_acknowledged_and_none_is_tried_again(
    tmp_path: Path, failing_sync: Path
) -> None:
    flag, noted = tmp_path / "flag", tmp_path / "noted"
    fault = {"LD_PRELOAD": str(failing_sync), "FAIL_WHILE": str(flag), "NOTED": str(noted)}
    told = run("sync", tmp_path / "w", flag, **fault)
    assert told["done"] == [f"k{n}" for n in range(5)]
    assert told["refused"] == told["later"] == []
    assert "could not be written" in told["said"] and told["said_later"] == told["said"]
    assert [f"j{n}" for n in range(5)] == told["seen"]
    calls = noted.read_text()
    assert calls.count("F") == 1 and calls.endswith("F")  # nothing was synced after it, at the end neither
    assert set(told["done"]) <= set(stored(tmp_path / "w")) <= {*told["done"], "k5"}


def test_so_it_is_with_the_inbox(tmp_path: Path, failing_sync: Path) -> None:
    flag, noted = tmp_path / "flag", tmp_path / "noted"
    (tmp_path / "w").mkdir()
    fault = {"LD_PRELOAD": str(failing_sync), "FAIL_WHILE": str(flag), "NOTED": str(noted)}
    said = run("inbox", tmp_path / "w", flag, **fault)["said"]
    assert said[:2] == ["", ""] and "nothing of this was stored" in said[2] and said[3] == said[2]
    assert noted.read_text().count("F") == 1


def test_a_workspace_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    from tomoni.errors import UserError

    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        Store.open(tmp_path / "file" / "w")


def test_a_database_that_is_none_is_said_and_left_alone(tmp_path: Path) -> None:
    from tomoni.errors import UserError

    Store.open(tmp_path).close()
    (tmp_path / "tomoni.db").write_bytes(b"no database, but 24 bytes" * 40)
    before = (tmp_path / "tomoni.db").read_bytes()
    for open_ in (Store.open, Store.read):
        with pytest.raises(UserError, match="damaged"):
            open_(tmp_path)
    assert (tmp_path / "tomoni.db").read_bytes() == before
