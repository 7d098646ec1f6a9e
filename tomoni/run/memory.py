"""Memory of this process: the largest so far, in bytes; on a GPU the largest that tensors took there."""

from __future__ import annotations

import resource
import sys


def peak_bytes(device_type: str = "cpu") -> int:
    if device_type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # the one unit in which macOS and Linux differ
