"""Learning-rate schedules by their Hugging Face names: a factor of the peak rate at each step."""

from __future__ import annotations

import math
from typing import Literal, get_args

Schedule = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "warmup_stable_decay",
]
SCHEDULES: tuple[str, ...] = get_args(Schedule)


def factor(name: str, step: int, *, steps: int, warmup: int, min_lr_ratio: float = 0.0, decay: int = 0) -> float:
    """The factor at `step` (from 0) of `steps`, of which the first `warmup` rise linearly from 0.

    As transformers' schedulers of the same name with their default options; `min_lr_ratio` is the floor of
    `cosine_with_min_lr` and `warmup_stable_decay`, `decay` the number of steps over which the latter comes down.
    """
    if step < warmup and name != "constant":
        return step / max(1, warmup)
    progress = (step - warmup) / max(1, steps - warmup)
    match name:
        case "constant" | "constant_with_warmup":
            return 1.0
        case "linear":
            return max(0.0, 1 - progress)
        case "cosine":
            return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))
        case "cosine_with_restarts":
            return 0.0 if progress >= 1 else max(0.0, 0.5 * (1 + math.cos(math.pi * (progress % 1.0))))
        case "cosine_with_min_lr":
            cosine = 0.5 * (1 + math.cos(math.pi * progress))
            return max(0.0, cosine * (1 - min_lr_ratio) + min_lr_ratio)
        case "polynomial":
            return _polynomial(progress, step, steps)
        case "inverse_sqrt":
            timescale = warmup or 10_000
            return 1.0 / math.sqrt((step + timescale - warmup) / timescale)
        case "warmup_stable_decay":
            start = steps - decay
            if step < start:
                return 1.0
            cosine = 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, decay)))
            return max(0.0, cosine * (1 - min_lr_ratio) + min_lr_ratio) if step < steps else min_lr_ratio
        case _:
            raise ValueError(f"unknown schedule {name!r}; known: {', '.join(SCHEDULES)}")


def _polynomial(progress: float, step: int, steps: int, end: float = 1e-7) -> float:
    # transformers ends at the absolute rate 1e-7; here the end is the same share of the peak, so that the factor does
    # not depend on the peak
    return end if step >= steps else (1 - end) * (1 - progress) + end
