"""How many cores a piece of work gets that comes again and again, where the result does not depend on it.

On a quiet machine all that there are. Where other programs hold the cores, threads that share a small piece of work wait for each
other all the time, and one alone is several times as fast: so both are timed, and now and then once more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SOONEST, LATEST = (
    16,
    512,
)  # pieces after which the slower way is tried again; twice as many each time it has stayed slower
SHARE = 0.3  # of the newest time in the mean


@dataclass(slots=True)
class _Known:
    seconds: dict[int, float] = field(default_factory=dict)
    best: int = 1
    interval: int = SOONEST
    left: int = SOONEST


class Cores:
    """`choose` for a piece of about `size`, `told` how long it took."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], _Known] = {}

    def choose(self, most: int, size: int) -> int:
        """1 or `most`."""
        if most == 1:
            return 1
        known = self._of(most, size)
        for untried in (most, 1):
            if untried not in known.seconds:
                return untried
        if known.left > 0:
            known.left -= 1
            return known.best
        return 1 if known.best == most else most

    def told(self, most: int, size: int, cores: int, seconds: float) -> None:
        if most == 1:
            return
        known = self._of(most, size)
        before = known.seconds.get(cores)
        again = before is not None and cores != known.best  # the slower way, tried once more
        known.seconds[cores] = seconds if before is None or again else (1 - SHARE) * before + SHARE * seconds
        best = min(known.seconds, key=lambda one: (known.seconds[one], one))
        if best != known.best:
            known.interval = known.left = SOONEST
        elif again:
            known.interval = known.left = min(2 * known.interval, LATEST)
        known.best = best

    def _of(self, most: int, size: int) -> _Known:
        return self._known.setdefault((most, size.bit_length()), _Known())
