"""What a step's micro-batches add up to, and flat values back onto their rows."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from tomoni.engine.batch import MicroBatch
from tomoni.losses import Term, Unit
from tomoni.report import Mean, Stats
from tomoni.rows import Float32


def to_minimise(terms: Mapping[str, Term], count: Mapping[Unit, float]) -> Tensor:
    parts = [term.coefficient * term.sum / max(count[term.unit], 1e-30) for term in terms.values() if not term.metric]
    return torch.stack(parts).sum()


class Sums:
    """Each term's sum over micro-batches, kept in float64, and its unit."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._units: dict[str, Unit] = {}
        self.finite = True  # of all that is minimised

    def add(self, terms: Mapping[str, Term]) -> None:
        for name, term in terms.items():
            value = float(term.sum.detach())
            self.finite &= term.metric or math.isfinite(value)
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._units[name] = term.unit

    def over(self, count: Mapping[Unit, float]) -> Stats:
        return Stats({name: Mean(total, count[self._units[name]]) for name, total in self._sums.items()})


def spread(batch: MicroBatch, values_P: Tensor | None) -> list[Float32]:
    """Flat values back onto each row's tokens, 0 where nothing is trained."""
    flat = numpy_of(values_P)
    rows = [row for item in batch.items for row in item.rows]
    found, start = [], 0
    for row in rows:
        places = np.flatnonzero(row.weights)
        column = np.zeros((len(row), *flat.shape[1:]), dtype=np.float32)
        column[places] = flat[start : start + len(places)]
        start += len(places)
        found.append(column)
    return found


def numpy_of(tensor: Tensor | None) -> Float32:
    assert tensor is not None
    return tensor.detach().float().cpu().numpy()
