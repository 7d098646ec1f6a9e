"""What a run leaves: numbers before and after, answers side by side, time, memory, tokens. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tomoni.report import Looked, Mean, Stats


@dataclass(frozen=True, slots=True)
class Measured:
    """The model on `items` items that are looked at in the same way before and after; `loss` is what the best is chosen
    by, the lower the better: for sft and pretrain in nats a token."""

    stats: Stats
    items: int
    on: Literal["validation", "training"]

    @property
    def loss(self) -> float:
        return self._value("loss")

    @property
    def chosen_by(self) -> str:
        """By what the best of several looks is chosen: of rewards the "loss" is the negative."""
        return "held-out reward" if "reward" in self.stats else "held-out loss"

    @property
    def token_accuracy(self) -> float:
        return self._value("mean_token_accuracy")

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def each_reward(self) -> tuple[float, ...]:
        """Prompt by prompt, in the same order at every look; empty where nothing is rewarded."""
        return self.stats.each.get("reward", ()) if isinstance(self.stats, Looked) else ()

    def _value(self, name: str) -> float:
        return self.stats[name].value if name in self.stats else math.nan

    def as_json(self) -> dict[str, Any]:
        each = {"each": self.stats.each} if isinstance(self.stats, Looked) else {}
        return {"on": self.on, "items": self.items, "stats": stats_to_json(self.stats), **each}

    @staticmethod
    def from_json(body: dict[str, Any]) -> Measured:
        stats = stats_from_json(body["stats"])
        return Measured(Looked(stats, body["each"]) if "each" in body else stats, body["items"], body["on"])


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt as people read it, the desired answer where the data has one, and what the model says. `asked` is the
    prompt's last turn, where it has several."""

    prompt: str
    desired: str
    before: str = ""
    after: str = ""
    asked: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """`model` is the finished model's or adapter's folder; None for a stopped run. `best` is the checkpoint with the
    lowest held-out loss (or the highest reward), where evaluations were made during the run. `ended`: why the run ended
    before its last step."""

    folder: Path
    status: Literal["finished", "stopped"]
    step: int
    steps: int
    before: Measured | None = None
    after: Measured | None = None
    answers: tuple[Answer, ...] = ()
    model: Path | None = None
    best: Path | None = None
    signal: int | None = None
    ended: str | None = None
    seconds: float = 0.0  # of training; looking and saving not counted
    tokens: int = 0
    peak_memory_bytes: int = 0
    notes: tuple[str, ...] = field(default=())

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


def stats_to_json(stats: Stats) -> dict[str, list[float]]:
    """Sums and counts, so that nothing is lost by rounding a mean."""
    return {name: [mean.sum, mean.count] for name, mean in stats.items()}


def stats_from_json(body: dict[str, list[float]]) -> Stats:
    return Stats({name: Mean(*pair) for name, pair in body.items()})
