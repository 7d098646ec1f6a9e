"""How often: tries at a door, answers asked from the model. Counted in memory, over the time before each. No torch."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tomoni.studio.faults import Fault

if TYPE_CHECKING:
    from limits.strategies import MovingWindowRateLimiter

ANSWERS_A_MINUTE = 60  # that one person may ask of the model


@dataclass
class Quota:
    _limiter: MovingWindowRateLimiter | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, code: str, most: str, what: str, key: str, *, cost: int = 1) -> None:
        """Fault 429 `code`, with the seconds to wait, where `key` has had as many as `most` ("60 per minute") says."""
        from limits import parse

        limiter, limit = self._ready(), parse(most)
        if limiter.hit(limit, what, key, cost=cost):
            return
        free = limiter.get_window_stats(limit, what, key).reset_time
        raise Fault(code, 429, seconds=max(1, math.ceil(free - time.time())))

    def _ready(self) -> MovingWindowRateLimiter:
        with self._lock:
            if self._limiter is None:
                from limits.storage import MemoryStorage
                from limits.strategies import MovingWindowRateLimiter

                self._limiter = MovingWindowRateLimiter(MemoryStorage())
            return self._limiter
