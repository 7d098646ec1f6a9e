"""What a reward reads of a completion, and what it says about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tomoni.records import Message
from tomoni.rows import Row

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """One completion. `row` holds prompt and completion as they were sampled, so that a reward model with the same
    tokenizer reads exactly these tokens; `columns` are the record's extra ones. `finish`: "stop" or "length"."""

    id: str
    prompt: tuple[Message, ...]
    completion: str
    row: Row
    columns: Mapping[str, Any] = field(default_factory=dict)
    finish: str = "stop"


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """`values_NF`: what each of F rewards says about each of N completions; `weights` how much each counts."""

    names: tuple[str, ...]
    values_NF: Float64
    weights: tuple[float, ...]

    @property
    def total_N(self) -> Float64:
        """The weighted sum."""
        return self.values_NF @ np.asarray(self.weights)


class Rewards(Protocol):
    """Raises RunError, naming the completion, where a reward fails or says something that is no number."""

    def __call__(self, answers: Sequence[Answered], /) -> Scores: ...
