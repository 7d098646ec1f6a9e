"""Rows and items: what is trained on. No torch.

A row is one token sequence and the columns aligned with it; an item is the rows that belong together. Columns are
numpy views (of a memory-mapped store, usually), never Python lists, and every length is checked on construction, so
that a misaligned column is found where it is made and not three modules later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Label = int | float | tuple[int, int] | Float32 | NDArray[np.int64]

# columns that, where present, have one value per token
PER_TOKEN = ("targets", "segments", "behaviour", "reference", "advantages", "returns", "values")


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One sequence before padding; T tokens.

    `weights[i]` is how much predicting position i counts. In a causal row position i is predicted from the positions
    before it, so `weights[0]` must be 0: nothing predicts the first token. `targets` stands where what is predicted
    differs from the tokens (masked language modelling); such a row is not causal and `weights[0]` is free.
    """

    tokens: Int32
    weights: Float32
    targets: Int32 | None = None
    segments: NDArray[np.int8] | None = None
    offsets: Int32 | None = None  # [T, 2] characters in the source text
    behaviour: Float32 | None = None  # log-probabilities under the policy that sampled the row
    reference: Float32 | None = None  # log-probabilities under the reference
    advantages: Float32 | None = None
    returns: Float32 | None = None
    values: Float32 | None = None
    label: Label | None = None

    def __post_init__(self) -> None:
        length = len(self.tokens)
        if length == 0:
            raise ValueError("a row has at least one token")
        if len(self.weights) != length:
            raise ValueError(f"{len(self.weights)} weights for {length} tokens")
        for name in PER_TOKEN:
            column = getattr(self, name)
            if column is not None and len(column) != length:
                raise ValueError(f"{len(column)} {name} for {length} tokens")
        if self.offsets is not None and self.offsets.shape != (length, 2):
            raise ValueError(f"offsets of shape {self.offsets.shape} for {length} tokens")
        if self.targets is None and self.weights[0] != 0:
            raise ValueError("a causal row has weights[0] == 0: nothing predicts its first token")

    def __len__(self) -> int:
        return len(self.tokens)

    def with_(self, **columns: object) -> Row:
        """The same row with some columns replaced."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        return Row(**{**kept, **columns})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """Rows that belong together: 1 for SFT, (chosen, rejected) for a preference, k of a group, the documents of a pack.

    `weight` is a person's weight, `margin` a preference's strength, `noise` its flip rate. An item is never split
    across micro-batches or ranks. `about` is what a reward may read of the record, as JSON values (`data.prompts`).
    """

    id: str
    rows: tuple[Row, ...]
    weight: float = 1.0
    margin: float = 0.0
    noise: float = 0.0
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError(f"item {self.id!r} has no rows")

    @property
    def tokens(self) -> int:
        return sum(len(row) for row in self.rows)

    def with_rows(self, rows: Sequence[Row]) -> Item:
        return replace(self, rows=tuple(rows))


def with_reference(items: Sequence[Item], logprobs: Sequence[Sequence[Float32]]) -> list[Item]:
    """Items whose rows carry the reference's log-probabilities; `logprobs` as `Engine.logprobs` gives them."""
    return [
        item.with_rows([row.with_(reference=values) for row, values in zip(item.rows, rows, strict=True)])
        for item, rows in zip(items, logprobs, strict=True)
    ]
