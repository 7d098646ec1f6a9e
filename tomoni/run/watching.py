"""What the runner carries of a policy that learns from a reward: its evaluations beside the start, and whether it has
gone too far. In each checkpoint, so that a resumed run decides as an uninterrupted one. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tomoni.evaluate.overoptimisation import Estimate, Form, Point, at_equal_length, overoptimised, paired
from tomoni.report import Looked, Stats
from tomoni.settings.common import TrainingSettings
from tomoni.settings.watching import WatchSettings


def form_of(cfg: TrainingSettings) -> Form:
    """Of the curve that a method's score follows."""
    return "best_of_n" if getattr(cfg, "method", None) == "bestofn" else "rl"


@dataclass
class Watch:
    """`best_scores`: those of the best evaluation so far, the start's before there is one; `log_length`: mean of the
    first rollout, whose policy is the start; `warned`: whether too far has been said."""

    points: list[Point] = field(default_factory=list)
    best_scores: Sequence[float] = ()
    log_length: float | None = None
    warned: bool = False

    def begin(self, stats: Stats) -> None:
        """Keep what the first rollout tells of the start."""
        if self.log_length is None and "completions/log_length" in stats:
            self.log_length = stats["completions/log_length"].value

    def line(self, values: Mapping[str, float]) -> dict[str, float]:
        """Of a line of metrics what follows from it: the reward at the start's length,

        reward - b (mean ln tokens - that of the start),    b = completions/length_slope
        """
        slope = values.get("completions/length_slope")
        if self.log_length is None or slope is None or not math.isfinite(slope):
            return {}
        longer = values["completions/log_length"] - self.log_length
        return {"reward_length_controlled": values["reward"] - slope * longer}

    def add(self, step: int, start: Looked, now: Looked) -> dict[str, float]:
        """One more evaluation; what it adds to its line of metrics."""
        scores, first = now.each["reward"], start.each["reward"]
        gain = paired(scores, first)
        longer = [b - a for a, b in zip(start.each["log_length"], now.each["log_length"], strict=True)]
        controlled = at_equal_length([b - a for a, b in zip(first, scores, strict=True)], longer)
        trained = (
            paired(now.each["trained_reward"], start.each["trained_reward"]) if "trained_reward" in now.each else None
        )
        best = self.best_scores or first
        fall = paired(scores, best)
        if fall.value > 0:
            self.best_scores = scores
        else:
            self.best_scores = best
        self.points.append(Point(step, now["kl_from_start"].value, gain, controlled, trained, fall))
        told = {"gain": gain.value, "gain_se": gain.se, "gain_length_controlled": controlled.value}
        return {name: value for name, value in told.items() if math.isfinite(value)}

    def too_far(self, cfg: WatchSettings, form: Form) -> tuple[str | None, bool]:
        """Why, and whether the run ends: a budget always ends it, over-optimisation where that is asked for."""
        if cfg.max_kl is not None and self.points[-1].kl > cfg.max_kl:
            return (
                f"KL from the start is {self.points[-1].kl:.3g} nats a completion, and max_kl is {cfg.max_kl:g}",
                True,
            )
        return overoptimised(self.points, form), cfg.on_overoptimization == "stop"

    def as_json(self) -> dict[str, Any]:
        return {
            "points": [point_to_json(point) for point in self.points],
            "best_scores": list(self.best_scores),
            "log_length": self.log_length,
            "warned": self.warned,
        }

    @staticmethod
    def from_json(body: Mapping[str, Any]) -> Watch:
        points = [point_from_json(point) for point in body["points"]]
        return Watch(points, body["best_scores"], body["log_length"], body["warned"])


def point_to_json(point: Point) -> dict[str, Any]:
    """Estimates as [value, standard error]; null for what is no number, since JSON has none for it."""
    body = asdict(point)
    return {
        name: [one if math.isfinite(one) else None for one in value] if isinstance(value, tuple | list) else value
        for name, value in body.items()
    }


def point_from_json(body: Mapping[str, Any]) -> Point:
    return Point(
        step=body["step"],
        kl=body["kl"],
        gain=_estimate(body["gain"]),
        controlled=_estimate(body["controlled"]),
        trained=None if body["trained"] is None else _estimate(body["trained"]),
        fall=_estimate(body["fall"]),
    )


def _estimate(pair: Sequence[float | None]) -> Estimate:
    value, se = pair
    return Estimate(math.nan if value is None else value, math.inf if se is None else se)
