"""Losses: pure functions of what the engine computed and of the rows' own columns. Torch only.

A loss gets a micro-batch and returns sums with their units, never means: the engine adds the sums of all micro-batches
and divides each once by the step's count, so that the result does not depend on how a step was cut for memory.

Legend of shapes, here and in `engine`: N rows, T tokens, V vocabulary, B items, K rows per item, C classes, D hidden,
and P the trained positions of all rows of the micro-batch, one after another (rows differ in length, so what is
computed per trained position is kept flat: no padding is ever summed). `row_P` says which row a position belongs to,
`item_N` which item a row belongs to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Unit = Literal["token", "item"]


@dataclass(frozen=True, slots=True)
class Term:
    """A sum over a micro-batch and the unit whose count over the whole step divides it.

    "token" counts trained positions by row weight times item weight, "item" counts items by weight. A term with
    `metric=True` is reported and has no gradient; the others add up to what is minimised, each times `coefficient`.
    """

    sum: Tensor
    unit: Unit
    metric: bool = False
    coefficient: float = 1.0


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows' columns at their trained positions, as tensors on the engine's device."""

    row_P: Tensor
    item_N: Tensor
    weights_P: Tensor  # row weight times item weight
    weight_B: Tensor
    margin_B: Tensor
    noise_B: Tensor
    behaviour_P: Tensor | None = None
    reference_P: Tensor | None = None
    advantages_P: Tensor | None = None
    returns_P: Tensor | None = None
    values_P: Tensor | None = None
    label_N: Tensor | None = None
    targets_P: Tensor | None = None
    place_P: Tensor | None = None  # the token of its row at which each trained position stands

    def sum_per_row(self, values_P: Tensor) -> Tensor:
        """[P] -> [N]"""
        return values_P.new_zeros(len(self.item_N)).index_add(0, self.row_P, values_P)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the model says about the trained positions."""

    logprobs_P: Tensor  # log-probability of the target at each trained position
    correct_P: Tensor  # 1.0 where the target is the most probable token, without gradient
    scores_N: Tensor | None = None  # [N, C] of a head on the pooled row, where the engine has one
    scores_P: Tensor | None = None  # [P, C] of a head on each trained position, where the engine has one


Loss = Callable[[Outputs, Rows], dict[str, Term]]


def nll(outputs: Outputs, rows: Rows) -> dict[str, Term]:
    """Negative log-likelihood of the targets, weighted, per token; with the share of tokens predicted right."""
    return {
        "loss": Term(-(outputs.logprobs_P * rows.weights_P).sum(), "token"),
        "mean_token_accuracy": Term((outputs.correct_P * rows.weights_P).sum(), "token", metric=True),
    }
