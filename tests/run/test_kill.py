"""kill -9 of a real training process, at random moments and at each operation of a save: nothing shows in the result."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.run import jobs
from tomoni.run.folder import is_held, read_status

KILLED = -signal.SIGKILL


class Server:
    """A server that trains in forked children; `words` go before every order. See kill_server."""

    def __init__(self, module: str = "tests.run.kill_server", *words: str) -> None:
        root = Path(__file__).parents[2]
        self.words = words
        self.process = subprocess.Popen(
            [sys.executable, "-m", module], cwd=root, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.operations = 0
        self.cpu_seconds = 0.0

    def train(self, folder: Path, *, kill_at: int = -1, kill_after: float | None = None) -> int:
        """The exit status; negative is the signal that ended it. `kill_after` is in seconds of the child's own CPU
        time, so that a busy machine does not move the moment out of the run."""
        assert self.process.stdin and self.process.stdout
        print(*self.words, folder, kill_at, file=self.process.stdin, flush=True)
        pid = int(self.process.stdout.readline())
        while kill_after is not None and 0 <= cpu_seconds(pid) < kill_after:
            time.sleep(0.001)
        if kill_after is not None:
            # until the answer is read here the number may belong to the ended child, which the server has just reaped
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        status, operations, seconds = self.process.stdout.readline().split()
        self.operations, self.cpu_seconds = int(operations), float(seconds)
        return int(status)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def cpu_seconds(pid: int) -> float:
    """Of a running process; -1 where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or between that and reading
        return -1
    return -1 if fields[0] == "Z" else (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture(scope="module")
def uninterrupted(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], int, float]:
    """Digests of an uninterrupted run, how many operations it made, and its seconds of CPU time."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert server.train(folder) == 0
    return jobs.digests(folder), server.operations, server.cpu_seconds


def test_the_same_run_twice_gives_the_same_bytes(
    server: Server, uninterrupted: tuple[dict[str, str], int, float], tmp_path: Path
) -> None:
    assert server.train(tmp_path / "run") == 0
    assert jobs.digests(tmp_path / "run") == uninterrupted[0]


def check_kills(
    server: Server,
    uninterrupted: tuple[dict[str, str], int, float],
    tmp_path: Path,
    *,
    runs: int,
    seed: int,
    least_kills: int,
) -> None:
    expected, operations, seconds = uninterrupted
    draw = random.Random(seed)
    kills = 0
    for run in range(runs):
        folder = tmp_path / f"run-{run}"
        for attempt in range(1 + (run % 3)):
            if (run + attempt) % 2 and Path("/proc/self/stat").exists():
                status = server.train(folder, kill_after=draw.uniform(0, 0.8 * seconds) / (attempt + 1))
            else:
                status = server.train(folder, kill_at=draw.randrange(operations // (attempt + 1)))
            assert status in (KILLED, 0)
            kills += status == KILLED
            if status == 0:
                break
            assert not is_held(folder)
        else:
            assert server.train(folder) == 0
        assert jobs.digests(folder) == expected, f"run {run}"
        assert [line["step"] for line in jobs.ledger(folder)] == list(range(18))
        assert (read_status(folder) or {})["state"] == "finished"
        assert not any(path.name.startswith(".") for path in folder.rglob("*"))
    assert kills >= least_kills


def test_killed_at_random_moments_and_operations_the_run_ends_bit_identical(
    server: Server, uninterrupted: tuple[dict[str, str], int, float], tmp_path: Path
) -> None:
    check_kills(server, uninterrupted, tmp_path, runs=13, seed=1, least_kills=20)


@pytest.mark.slow
def test_killed_at_every_single_operation_the_run_ends_bit_identical(
    server: Server, uninterrupted: tuple[dict[str, str], int, float], tmp_path: Path
) -> None:
    expected, operations, _ = uninterrupted
    for at in range(operations):
        folder = tmp_path / f"run-{at}"
        assert server.train(folder, kill_at=at) == KILLED
        assert server.train(folder) in (0, 1)
        assert jobs.digests(folder) == expected, f"killed at operation {at}"


@pytest.mark.slow
def test_killed_often_the_run_ends_bit_identical(
    server: Server, uninterrupted: tuple[dict[str, str], int, float], tmp_path: Path
) -> None:
    check_kills(server, uninterrupted, tmp_path, runs=40, seed=2, least_kills=60)
