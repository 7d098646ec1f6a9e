"""A lock is one process's, says whose it is, and ends with that process however it ends."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tomoni import locking
from tomoni.errors import DiskError

HOLDING = """
import sys
from pathlib import Path
from tomoni import locking
lock = locking.take(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "錠"


@pytest.fixture
def other(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_is_taken_once_and_the_error_names_who_has_it(path: Path, other: subprocess.Popen[str]) -> None:
    with pytest.raises(locking.Taken) as refused:
        locking.take(path)
    holder = refused.value.holder
    assert holder and (holder.pid, holder.host) == (other.pid, socket.gethostname())
    assert f"process {other.pid} on {socket.gethostname()}, since 20" in refused.value.what and refused.value.next_step
    assert locking.is_held(path) and locking.holder_of(path) == holder


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_its_process_ends_a_lock(path: Path, other: subprocess.Popen[str], number: signal.Signals) -> None:
    other.send_signal(number)
    other.wait()
    assert not locking.is_held(path)
    with locking.take(path) as lock:
        assert lock.holder.pid == os.getpid() and locking.holder_of(path) == lock.holder


def test_a_second_lock_in_the_same_process_is_refused_too_until_the_first_is_closed(path: Path) -> None:
    first = locking.take(path)
    with pytest.raises(locking.Taken):
        locking.take(path)
    first.close()
    first.close()  # again: nothing more to do, and no other file's handle is closed by it
    locking.take(path).close()


def test_whoever_waits_gets_the_lock_when_it_is_free(path: Path) -> None:
    first, got = locking.take(path), threading.Event()

    def waiting() -> None:
        with locking.wait(path):
            got.set()

    thread = threading.Thread(target=waiting)
    thread.start()
    assert locking.is_held(path) and not got.is_set()
    first.close()
    thread.join(timeout=60)
    assert got.is_set()


def test_nothing_is_held_where_there_is_no_file_and_asking_makes_none(path: Path) -> None:
    assert not locking.is_held(path) and locking.holder_of(path) is None and not path.exists()


def test_asking_takes_the_lock_from_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks has a share in the lock for an instant; a taker that comes in that instant tries again."""
    locking.take(path).close()
    asking = os.open(path, os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)
    monkeypatch.setattr(locking.time, "sleep", lambda seconds: fcntl.flock(asking, fcntl.LOCK_UN))
    with locking.take(path):
        assert locking.is_held(path)
    os.close(asking)


def test_a_holder_whose_name_is_damaged_is_another_process(path: Path, other: subprocess.Popen[str]) -> None:
    for content in ("", "[]", "{}", "{"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(locking.Taken, match="is held by another process"):
            locking.take(path)


def test_a_kept_file_is_left_when_its_holder_closes_it(path: Path) -> None:
    ours, theirs = os.open(path, os.O_RDWR | os.O_CREAT), os.open(path, os.O_RDONLY)
    locking.keep(ours)
    assert not locking.is_left(theirs)
    os.close(ours)
    assert locking.is_left(theirs)
    assert locking.is_held(path) is False  # a share stands beside another
    os.close(theirs)


def test_a_name_that_cannot_be_written_leaves_the_lock_held(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*anything: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with locking.take(path), pytest.raises(locking.Taken, match="another process"):
        locking.take(path)


@pytest.mark.parametrize("ask", [locking.take, locking.wait, locking.is_held])
def test_a_file_system_without_locks_is_said_in_words(path: Path, monkeypatch: pytest.MonkeyPatch, ask: object) -> None:
    locking.take(path).close()
    before = len(os.listdir("/proc/self/fd"))

    def refused(*anything: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(DiskError, match=r"錠 cannot be locked: No locks available") as said:
        ask(path)  # type: ignore[operator]
    assert "local disk" in said.value.next_step and len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("ask", [locking.take, locking.wait])
def test_a_lock_that_cannot_be_made_is_said_in_words(tmp_path: Path, ask: object) -> None:
    (tmp_path / "file").write_text("")
    for path, said in (
        (tmp_path / "nowhere" / "lock", "cannot be locked: No such file"),
        (tmp_path / "file" / "lock", "a part of the path is a file"),
        (tmp_path / ("長" * 100), "the name is too long"),
    ):
        with pytest.raises(DiskError, match=said):
            ask(path)  # type: ignore[operator]


def test_the_name_in_the_file_is_one_line_of_json(path: Path) -> None:
    path.write_text("x" * 500, encoding="utf-8")
    with locking.take(path):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) == 1 and json.loads(lines[0]).keys() == {"pid", "host", "start"}
