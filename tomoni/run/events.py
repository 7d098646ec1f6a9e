"""What a run says while it works. Listeners (progress, tracking, a test) get these and change nothing. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tomoni.run.outcome import Result


@dataclass(frozen=True, slots=True)
class Preparing:
    """A part of the preparation begins: "model", "data", "engine"."""

    what: str


@dataclass(frozen=True, slots=True)
class Started:
    """Everything is in place; the next update has the number `step` (from 0) of `total`."""

    step: int
    total: int
    items: int
    trained_weights: int
    resumed_from: Path | None = None


@dataclass(frozen=True, slots=True)
class Stepped:
    """The update number `step` (from 1) of `total` is done. `metrics` is its line of metrics.jsonl, where one was due;
    `reward` the mean reward of the completions that it learnt from, where it learnt from rewards."""

    step: int
    total: int
    loss: float
    tokens_per_second: float
    seconds_left: float
    memory_bytes: int
    metrics: Mapping[str, float] | None = None
    reward: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluating:
    """Of `items` items `done` have been looked at."""

    done: int
    items: int


@dataclass(frozen=True, slots=True)
class Working:
    """Inside one long step: `done` of `all` of what is done ("read", "solve"); all 0: nobody knows how many."""

    what: str
    done: int
    all: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    step: int
    metrics: Mapping[str, float]
    best: bool = False


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint, or at the end the model."""

    folder: Path


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person should know: a damaged checkpoint passed over, rows left out, a setting without effect."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    result: Result


Event = Preparing | Started | Stepped | Working | Evaluating | Evaluated | Saved | Notice | Ended
Listener = Callable[[Event], None]
