"""What a step tells the runner. No torch.

A statistic travels as a sum and the count it is over, never as a mean, so that steps, micro-batches and ranks can be
added in any grouping with the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tomoni.rows import Item


@dataclass(frozen=True, slots=True)
class Mean:
    """A statistic over `count` units; `value` is what people read."""

    sum: float
    count: float = 1.0

    @property
    def value(self) -> float:
        return self.sum / self.count if self.count else float("nan")

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.sum + other.sum, self.count + other.count)


@dataclass(frozen=True, slots=True)
class CalibrationError(Mean):
    """The expected calibration error (Naeini et al. 2015): `sum` adds up the sizes of the bins' gaps, each the sum of
    confidence minus right over the bin's items. Two are added bin by bin."""

    gaps: tuple[float, ...] = ()

    @classmethod
    def of(cls, gaps: Sequence[float], count: float) -> CalibrationError:
        return cls(math.fsum(map(abs, gaps)), count, tuple(gaps))

    def __add__(self, other: Mean) -> Mean:
        if not isinstance(other, CalibrationError):
            raise TypeError("a calibration error is added to another only: the sizes of gaps do not add up")
        gaps = [one + two for one, two in zip(self.gaps, other.gaps, strict=True)]
        return CalibrationError.of(gaps, self.count + other.count)


class Stats(dict[str, Mean]):
    """Named statistics. `a | b` takes both (b wins a shared name); `a + b` adds sums and counts."""

    def __or__(self, other: Mapping[str, Mean]) -> Stats:  # type: ignore[override]
        return Stats({**self, **other})

    def __add__(self, other: Mapping[str, Mean]) -> Stats:
        names = [*self, *(name for name in other if name not in self)]
        return Stats({name: self.get(name, Mean(0, 0)) + other.get(name, Mean(0, 0)) for name in names})

    def means(self) -> dict[str, float]:
        return {name: mean.value for name, mean in self.items()}

    def finite(self) -> Stats:
        """Without those that are not numbers, of a step that was skipped: they would swallow all they are added to."""
        return Stats({name: mean for name, mean in self.items() if math.isfinite(mean.value)})


class Looked(Stats):
    """Statistics of a look, with each item's own numbers: `each[name]` in the items' order. `a + b`: a's items, then b's.

    By them two looks at the same items can be compared item by item, whose chance differences then fall out.
    """

    def __init__(self, stats: Mapping[str, Mean], each: Mapping[str, Sequence[float]]) -> None:
        super().__init__(stats)
        self.each: dict[str, tuple[float, ...]] = {name: tuple(values) for name, values in each.items()}

    def __add__(self, other: Mapping[str, Mean]) -> Stats:
        added = super().__add__(other)
        if not isinstance(other, Looked):
            return added
        return Looked(added, {name: values + other.each[name] for name, values in self.each.items()})


Told = Callable[[str, int, int], None]


def untold(what: str, done: int, all: int) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class State:
    """All that a method carries from step to step besides what the engine holds: JSON values only.

    `told` takes what a long step is at: what, how many are done, of how many (0: nobody knows). It may raise, where somebody
    wants the run to stop.
    """

    step: int = 0
    values: Mapping[str, Any] = field(default_factory=dict)
    told: Told = untold


@dataclass(frozen=True, slots=True)
class Report:
    """One finished optimizer update: `step` counts from 0, `item_ids` and `tokens` are of the items it trained on.

    `resumable` says whether a checkpoint may be taken after it (for reinforcement learning only after a rollout's
    last update). `values` is what `State.values` must hold for the next step. `completions` are those that were sampled
    for it, as JSON values, with their scores; `stop` says why the method ends the run here, if it does.
    """

    step: int
    stats: Stats
    item_ids: tuple[str, ...] = ()
    tokens: int = 0
    resumable: bool = True
    values: Mapping[str, Any] = field(default_factory=dict)
    completions: Sequence[Mapping[str, Any]] = ()
    stop: str | None = None

    @classmethod
    def after(
        cls,
        step: int,
        items: Sequence[Item],
        stats: Stats,
        *,
        resumable: bool = True,
        values: Mapping[str, Any] | None = None,
        completions: Sequence[Mapping[str, Any]] = (),
        stop: str | None = None,
    ) -> Report:
        """Of an update on these items."""
        ids = tuple(item.id for item in items)
        tokens = sum(item.tokens for item in items)
        return cls(step, stats, ids, tokens, resumable, values or {}, completions, stop)
