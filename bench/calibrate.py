"""The machine's matrix rate: a large float32 product with as many threads as the measured processes use."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch

from bench.process import Clock, main

SIZE = 2048
TIMES = 9


def measure(job: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    left, right = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    result = torch.empty(SIZE, SIZE)
    torch.mm(left, right, out=result)
    taken = []
    with clock:
        for _ in range(TIMES):
            start = time.perf_counter()
            torch.mm(left, right, out=result)
            taken.append(time.perf_counter() - start)
    return {"rate": 2 * SIZE**3 / statistics.median(taken), "threads": torch.get_num_threads()}


if __name__ == "__main__":
    main(measure)
