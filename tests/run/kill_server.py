"""Trains in forked children of one warmed-up process, so that a kill costs a second and not the import of the libraries.

Reads lines "FOLDER KILL_AT" from stdin: forks a child that trains in FOLDER and sends itself SIGKILL at its KILL_AT-th
write, fsync or rename (-1: never); writes "PID" when it has started and "STATUS OPERATIONS
CPU_SECONDS" when it has ended.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from tests.engine.faults import FaultyOs
from tests.run import jobs
from tomoni import durable
from tomoni.engine import checkpoint, engine
from tomoni.run import journal  # noqa: F401  everything is imported before the first fork

torch.set_num_threads(1)


def child(folder: Path, kill_at: int, counter: Path) -> None:
    faulty = FaultyOs(kill_at if kill_at >= 0 else None, lambda operation: os.kill(os.getpid(), signal.SIGKILL))
    durable.os = checkpoint.os = faulty
    save_file = engine.save_file

    def counted_save_file(tensors: object, path: Path) -> None:
        faulty.mark("before a tensor file")
        save_file(tensors, path)  # type: ignore[arg-type]
        faulty.mark("after a tensor file")

    engine.save_file = counted_save_file
    jobs.train(jobs.config(folder, max_steps=18, eval_steps=6))
    counter.write_text(str(faulty.count))


def serve() -> None:
    for line in sys.stdin:
        folder, kill_at = line.split()
        counter = Path(folder + ".operations")
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                child(Path(folder), int(kill_at), counter)
                status = 0
            finally:
                os._exit(status)
        print(pid, flush=True)
        _, status, usage = os.wait4(pid, 0)
        operations = (counter.read_text() if counter.exists() else "") or 0  # empty: killed while it was being written
        print(os.waitstatus_to_exitcode(status), operations, usage.ru_utime + usage.ru_stime, flush=True)


if __name__ == "__main__":
    serve()
