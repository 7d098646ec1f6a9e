"""The floor: floating-point operations that a step must do, over the measured rate of a large matrix product.

Counted are products only (a multiplication and an addition are 2 operations); norms, activations, softmax, rotary
embeddings and the optimizer are not. What is counted:

* every matrix of every layer once forward, once for the gradient of its input, and once for its own gradient where it
  is trained; nothing at all backward below the lowest trained layer, and the input's gradient of the first trained
  layer's q, k, v only where something below is trained;
* LoRA's two thin products and their gradients, in the cheaper of two forms: beside the matrix, or folded into it once
  a step (then the thin forward products and their part of the input's gradient go);
* attention over the causal half: 2 products forward, 4 backward (nothing is recomputed);
* the head at trained positions only; the embeddings' lookup costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.shapes import Shape


@dataclass(frozen=True, slots=True)
class Trained:
    """What is trained: `layers` from the top (None: all), whether as LoRA of rank `lora`, and whether embeddings are."""

    layers: int | None = None
    lora: int = 0
    embeddings: bool = False
    frozen_kept: bool = False  # outputs of the frozen layers are at hand: an epoch after the first


def trained(part: str, *, lora_r: int = 16, frozen_kept: bool = False) -> Trained:
    """From a config's `train`: all, lora or top:K."""
    if part == "all":
        return Trained(embeddings=True)
    if part == "lora":
        return Trained(lora=lora_r)
    if part.startswith("top:"):
        return Trained(layers=int(part.removeprefix("top:")), frozen_kept=frozen_kept)
    raise ValueError(f"no count for train: {part}")


def steps(
    shape: Shape, counts: Sequence[Sequence[tuple[int, int]]], part: str, *, kept_from: int | None = None
) -> float:
    """Operations of a run; from step `kept_from` on, what the frozen layers give is known from an earlier epoch."""
    known = len(counts) if kept_from is None else kept_from
    return sum(step(shape, rows, trained(part, frozen_kept=number >= known)) for number, rows in enumerate(counts))


def step(shape: Shape, rows: Sequence[tuple[int, int]], what: Trained) -> float:
    """Operations of one step over rows of (tokens, trained positions)."""
    tokens = sum(length for length, _ in rows)
    positions = sum(count for _, count in rows)
    pairs = sum(length * (length + 1) // 2 for length, _ in rows)
    layers = shape.layers if what.layers is None else what.layers
    frozen = 0 if what.frozen_kept else shape.layers - layers
    matrices = 2.0 * tokens * sum(inputs * outputs for inputs, outputs in shape.linear)
    attention = 2 * 2.0 * pairs * shape.hidden
    total = frozen * (matrices + attention) + layers * (2 * matrices + 3 * attention)
    if not what.embeddings:  # nothing below the first trained layer asks for a gradient
        total -= 2.0 * tokens * sum(inputs * outputs for inputs, outputs in shape.linear[:3])
    total += layers * (_thin(shape, tokens, what.lora) if what.lora else matrices)
    head = 2.0 * positions * shape.hidden * shape.vocabulary
    return total + head * (3 if what.embeddings else 2)


def _thin(shape: Shape, tokens: int, rank: int) -> float:
    """A layer's LoRA products of one step, gradients included."""
    widths = sum(inputs + outputs for inputs, outputs in shape.linear)
    beside = 3 * 2.0 * tokens * rank * widths
    folded = 2 * 2.0 * tokens * rank * widths + 2.0 * rank * sum(inputs * outputs for inputs, outputs in shape.linear)
    return min(beside, folded)
