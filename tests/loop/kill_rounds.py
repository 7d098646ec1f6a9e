"""Plays rounds in forked children of one warmed-up process, which may be killed; spoken to as tests.run.kill_server is."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from tests.engine.faults import FaultyOs
from tomoni import durable
from tomoni.engine import checkpoint, reading, sampler  # noqa: F401  everything is imported before the first fork
from tomoni.evaluate import subject  # noqa: F401
from tomoni.feedback import inbox, workspace
from tomoni.loop import probes, report_pages  # noqa: F401
from tomoni.loop.gate import Settings
from tomoni.loop.round import Wanted, play
from tomoni.methods import sft  # noqa: F401
from tomoni.run import start  # noqa: F401
from tomoni.world import safety_probes

torch.set_num_threads(1)
OURS = safety_probes
WANTED = {"pairs": 16, "prompts": 16, "answers": 2, "threads": 1, "settings": Settings(safety_margin=0.6)}


def wanted(path: Path) -> Wanted:
    """A small round; fewer of our probes, so a wider margin."""
    probes.safety_probes = lambda world: OURS(world)[::20]
    return Wanted(path, **WANTED)  # type: ignore[arg-type]


def child(path: Path, kill_at: int, counter: Path) -> None:
    faulty = FaultyOs(kill_at if kill_at >= 0 else None, lambda operation: os.kill(os.getpid(), signal.SIGKILL))
    for module in (durable, checkpoint, inbox, workspace):
        module.os = faulty
    play(wanted(path))
    counter.write_text(str(faulty.count))


def serve() -> None:
    for line in sys.stdin:
        folder, kill_at = line.split()
        counter = Path(folder + ".operations")
        counter.unlink(missing_ok=True)
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
        operations = (counter.read_text() if counter.exists() else "") or 0
        print(os.waitstatus_to_exitcode(status), operations, usage.ru_utime + usage.ru_stime, flush=True)


if __name__ == "__main__":
    serve()
