"""What the runner itself carries from step to step; goes into each checkpoint, sums and not means. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tomoni.report import Report, Stats
from tomoni.run.outcome import Measured, stats_from_json, stats_to_json
from tomoni.run.watching import Watch


@dataclass(frozen=True, slots=True)
class Best:
    step: int
    loss: float
    by: str = "held-out loss"


@dataclass
class Carried:
    """`step` counts finished updates; `window` sums the statistics since the last line of metrics.jsonl."""

    step: int = 0
    values: Mapping[str, Any] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    window: Stats = field(default_factory=Stats)
    window_tokens: int = 0
    window_seconds: float = 0.0
    best: Best | None = None
    evaluation_due: bool = False
    ended: str | None = None  # why the run ended before its last step
    ended_too_far: bool = False  # because the policy had learnt more of its reward than is good
    last_evaluation: Measured | None = None
    last_evaluation_step: int = -1
    watch: Watch = field(default_factory=Watch)
    _recent: float = 0.0  # seconds a step, smoothed; for the time left only
    _recent_tokens: float = 0.0

    def add_seconds(self, seconds: float) -> None:
        self.seconds += seconds
        self.window_seconds += seconds
        self._recent = seconds if not self._recent else 0.9 * self._recent + 0.1 * seconds

    def add(self, report: Report, peak_memory_bytes: int) -> None:
        self.step = report.step + 1
        self.values = report.values
        self.tokens += report.tokens
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak_memory_bytes)
        self.window = self.window + report.stats.finite()
        self.window_tokens += report.tokens
        recent = self._recent_tokens or report.tokens
        self._recent_tokens = 0.9 * recent + 0.1 * report.tokens
        self.watch.begin(report.stats)

    def evaluated(self, measured: Measured) -> None:
        self.last_evaluation = measured
        self.last_evaluation_step = self.step

    def beats_the_best(self, measured: Measured) -> bool:
        """A loss that is not a number beats none."""
        return math.isfinite(measured.loss) and (self.best is None or measured.loss < self.best.loss)

    def pace(self, steps: int) -> tuple[float, float]:
        """Tokens per second and seconds left."""
        rate = self._recent_tokens / self._recent if self._recent else 0.0
        return rate, self._recent * (steps - self.step)

    def take_line(self, *, epoch: float) -> dict[str, float]:
        """The line of metrics.jsonl for the window that ends here; a new window begins."""
        values = self.window.means()
        line = {
            "step": self.step,
            "epoch": round(epoch, 6),
            **values,
            **self.watch.line(values),
            "num_tokens": self.tokens,
            "tokens_per_second": self.window_tokens / self.window_seconds if self.window_seconds else 0.0,
            "seconds": self.seconds,
            "memory": self.peak_memory_bytes,
        }
        self.window, self.window_tokens, self.window_seconds = Stats(), 0, 0.0
        return line

    def as_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "values": dict(self.values),
            "tokens": self.tokens,
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "window": stats_to_json(self.window),
            "window_tokens": self.window_tokens,
            "window_seconds": self.window_seconds,
            "best": None if self.best is None else {"step": self.best.step, "loss": self.best.loss, "by": self.best.by},
            "evaluation_due": self.evaluation_due,
            "ended": self.ended,
            "ended_too_far": self.ended_too_far,
            "last_evaluation": None if self.last_evaluation is None else self.last_evaluation.as_json(),
            "last_evaluation_step": self.last_evaluation_step,
            "watch": self.watch.as_json(),
        }

    @staticmethod
    def from_json(body: Mapping[str, Any]) -> Carried:
        best, last = body["best"], body["last_evaluation"]
        plain = ("step", "values", "tokens", "seconds", "peak_memory_bytes", "window_tokens", "window_seconds")
        return Carried(
            **{name: body[name] for name in plain},
            window=stats_from_json(body["window"]),
            best=None if best is None else Best(**best),
            evaluation_due=body["evaluation_due"],
            ended=body.get("ended"),
            ended_too_far=body.get("ended_too_far", False),
            last_evaluation=None if last is None else Measured.from_json(last),
            last_evaluation_step=body["last_evaluation_step"],
            watch=Watch.from_json(body["watch"]) if "watch" in body else Watch(),
        )
