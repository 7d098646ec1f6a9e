"""kill -9 of the process that writes, at any moment: what was acknowledged is there, once; the next one goes on."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tomoni.feedback.standing import standing
from tomoni.feedback.store import Store
from tomoni.feedback.workspace import is_held
from tomoni.records import Kind

KILLED = -signal.SIGKILL
ENOUGH = 100_000  # judgements a thread: more than it gets to


class Writers:
    """See kill_writer."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.feedback.kill_writer"], cwd=Path(__file__).parents[2], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def run(
        self, workspace: Path, acks: Path, what: str, *, kill_after: float | None = None, count: int = ENOUGH
    ) -> int:
        """The exit status. `kill_after` seconds after the first new acknowledgement it is killed."""
        assert self.process.stdin and self.process.stdout
        before = acks.stat().st_size if acks.exists() else 0
        print(workspace, acks, what, count, file=self.process.stdin, flush=True)
        pid = int(self.process.stdout.readline())
        if kill_after is not None:
            end = time.monotonic() + 60
            while (acks.stat().st_size if acks.exists() else 0) == before and time.monotonic() < end:
                time.sleep(0.001)
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def writers() -> Iterator[Writers]:
    made = Writers()
    yield made
    made.close()


def whole_lines(acks: Path) -> list[str]:
    """The last line may have been cut by the kill."""
    text = acks.read_text()
    return text[: text.rfind("\n") + 1].splitlines()


def check_judgements(workspace: Path, acks: Path) -> int:
    acknowledged = dict(line.split(" ", 1) for line in whole_lines(acks))
    with Store.open(workspace) as store:
        everything = store.judgements(live=False)
        by_id = {one.judgement.id: one for one in everything}
        assert len(by_id) == len(everything)
        for key, said in acknowledged.items():
            id, sequence = said.split()
            assert (id, by_id[id].sequence) == (f"j{key}", int(sequence))
        assert [one.judgement.id for one in standing(everything).live] == [
            one.judgement.id for one in store.judgements()
        ]
        assert store.together(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar()) == "ok"
        # of each thread at most the one judgement that was under way is stored without having been acknowledged
        assert len(everything) - len(acknowledged) <= 4
    return len(acknowledged)


def kill_often(writers: Writers, folder: Path, kills: int) -> None:
    rng = random.Random(kills)
    workspace, acks = folder / "w", folder / "acks"
    for _ in range(kills):
        assert writers.run(workspace, acks, "judge", kill_after=rng.random() * 0.08) == KILLED
        assert not is_held(workspace)
        check_judgements(workspace, acks)
    assert check_judgements(workspace, acks) > kills


def test_twenty_killed_writers_lose_nothing_that_was_acknowledged(writers: Writers, tmp_path: Path) -> None:
    kill_often(writers, tmp_path, 20)


@pytest.mark.slow
def test_a_hundred_killed_writers_lose_nothing_that_was_acknowledged(writers: Writers, tmp_path: Path) -> None:
    kill_often(writers, tmp_path, 100)


def test_feedback_in_the_inbox_is_taken_in_once_whenever_either_end_is_killed(writers: Writers, tmp_path: Path) -> None:
    rng = random.Random(1)
    workspace, acks = tmp_path / "w", tmp_path / "acks"
    for _ in range(8):
        assert writers.run(workspace, acks, "serve", kill_after=rng.random() * 0.1) == KILLED
    with Store.open(workspace) as store:
        store.take_in()
        stored = [one.judgement.id for one in store.judgements(kinds=[Kind.COMMENT])]
        assert store.take_in() == 0
        assert store.kept_aside() == []
    told = whole_lines(acks)
    assert len(stored) == len(set(stored)) and {f"{event}-comment" for event in told} <= set(stored)
    assert len(stored) - len(told) <= 8  # written but not acknowledged: one a kill
    assert not list((workspace / "inbox").glob("*.jsonl"))


def test_a_log_that_was_cut_short_loses_only_its_end(writers: Writers, tmp_path: Path) -> None:
    """What a power loss can do to what was not yet synced; every prefix of the log is a state that was."""
    workspace, acks = tmp_path / "w", tmp_path / "acks"
    assert writers.run(workspace, acks, "judge", kill_after=0.2) == KILLED
    wal = workspace / "tomoni.db-wal"
    size = wal.stat().st_size
    rng = random.Random(0)
    counts = []
    for cut in sorted([size, size - 1, *(rng.randrange(size) for _ in range(8)), 0]):
        copy = tmp_path / f"cut-{cut}"
        shutil.copytree(workspace, copy)
        os.truncate(copy / "tomoni.db-wal", cut)
        with Store.open(copy) as store:
            everything = store.judgements(live=False)
            numbers = [one.sequence for one in everything]
            # a prefix of what happened: no gap, for every event is in one count
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
            counts.append(len(everything))
    assert counts == sorted(counts) and counts[-1] >= len(whole_lines(acks))


def test_a_log_with_a_damaged_frame_ends_there(writers: Writers, tmp_path: Path) -> None:
    workspace, acks = tmp_path / "w", tmp_path / "acks"
    assert writers.run(workspace, acks, "judge", kill_after=0.1) == KILLED
    wal = workspace / "tomoni.db-wal"
    raw = bytearray(wal.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 4096] = bytes(4096)
    wal.write_bytes(raw)
    with Store.open(workspace) as store:
        assert store.together(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar()) == "ok"
        store.judgements(live=False)


def test_the_hold_of_a_killed_writer_is_free_at_once(writers: Writers, tmp_path: Path) -> None:
    workspace, acks = tmp_path / "w", tmp_path / "acks"
    assert writers.run(workspace, acks, "judge", kill_after=0.0) == KILLED
    assert (workspace / "tomoni.db.lock").read_text()  # it names the one that was killed
    Store.open(workspace).close()


def test_a_writer_that_is_not_killed_says_everything_it_has_to(writers: Writers, tmp_path: Path) -> None:
    workspace, acks = tmp_path / "w", tmp_path / "acks"
    assert writers.run(workspace, acks, "judge", count=25) == 0
    assert check_judgements(workspace, acks) == 100
    with contextlib.closing(sqlite3.connect(workspace / "tomoni.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
