"""Trains by a method in forked children of one warmed-up process, which kill themselves at a given moment.

Reads lines "METHOD PLACE FOLDER KILL_AT" from stdin: forks a child that trains in FOLDER on the files in PLACE and sends
itself SIGKILL at its KILL_AT-th moment (-1: never): when completions have been sampled and are about to be scored, and
when an update is done. Writes "PID" when it has started and "STATUS MOMENTS CPU_SECONDS" when it has ended.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.methods import runs
from tomoni.rewards.answered import Answered, Scores
from tomoni.rewards.opening import Weighed
from tomoni.run import runner, start  # noqa: F401  everything is imported before the first fork
from tomoni.run.events import Event, Stepped

torch.set_num_threads(1)


class Moments:
    def __init__(self, kill_at: int) -> None:
        self.kill_at, self.count = kill_at, 0

    def one(self) -> None:
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1


def child(method: str, place: Path, folder: Path, kill_at: int, counter: Path) -> None:
    moments = Moments(kill_at)
    score = Weighed.__call__

    def scored(self: Weighed, answers: Sequence[Answered], /) -> Scores:
        moments.one()
        return score(self, answers)

    def listen(event: Event) -> None:
        if isinstance(event, Stepped):
            moments.one()

    Weighed.__call__ = scored  # type: ignore[method-assign]
    start(runs.config(method, place, folder), on_event=listen)
    counter.write_text(str(moments.count))


def serve() -> None:
    for line in sys.stdin:
        method, place, folder, kill_at = line.split()
        counter = Path(folder + ".moments")
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                child(method, Path(place), Path(folder), int(kill_at), counter)
                status = 0
            finally:
                os._exit(status)
        print(pid, flush=True)
        _, status, usage = os.wait4(pid, 0)
        moments = (counter.read_text() if counter.exists() else "") or 0  # empty: killed while it was being written
        print(os.waitstatus_to_exitcode(status), moments, usage.ru_utime + usage.ru_stime, flush=True)


if __name__ == "__main__":
    serve()
