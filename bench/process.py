"""One measured process: it reads its job from a JSON file and writes its outcome into another. Both sides use it.

A job is {"model", "work", ...}; see the scripts. An outcome has at least `seconds` (of the work itself) and the memory.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def main(measure: Callable[[Mapping[str, Any], Clock], Mapping[str, Any]]) -> None:
    """`python -m bench.SCRIPT JOB OUTCOME`"""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    clock = Clock()
    found = measure(job, clock)
    outcome = {
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "before_bytes": clock.before,
        "peak_bytes": peak_bytes(),
        **found,
    }
    Path(sys.argv[2]).write_text(json.dumps(outcome), encoding="utf-8")


class Clock:
    """`with clock:` around the work that is measured."""

    seconds = 0.0
    cpu_seconds = 0.0  # of all threads; tells a busy machine from slow code
    before = 0

    def __enter__(self) -> Clock:
        self.before = resident_bytes()
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._start[0]
        self.cpu_seconds += time.process_time() - self._start[1]


def resident_bytes() -> int:
    """Memory of this process now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
