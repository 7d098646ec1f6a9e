"""The reference that a method measures its distance from: the run's start, a moving average of it, or another model.

The start is kept as a copy of the trained weights alone: all others are the policy's own. It stays when the average
moves, so that the distance from it can be told in either case. Log-probabilities that are to
be kept are computed for each item by itself and on one core, so that no batch, and no number of cores, shows in them: a
resumed run, which computes some of them anew, goes on with the same bits.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tomoni.rows import Float32, Item, Row

if TYPE_CHECKING:
    from tomoni.engine.engine import Engine

FILE = "reference.safetensors"
KEPT_BYTES = 2**29  # of log-probabilities; what is beyond is computed again each time


class Reference:
    """`start`: the trained weights as they were; `weights`: those of the reference, where they are not another model's.
    `moved`: whether it is a moving average, which a checkpoint has to hold."""

    def __init__(self, policy: Engine, *, keep: bool, other: Engine | None) -> None:
        self.policy = policy
        self.other = other
        self.start: dict[str, Tensor] | None = (
            {name: weight.detach().clone() for name, weight in policy.trained.items()} if keep else None
        )
        self.weights = self.start if other is None else None
        self.moved = False
        self._kept: dict[bytes, Float32] = {}
        self._bytes = 0

    def logprobs(self, items: Sequence[Item], *, keep: bool) -> list[tuple[Float32, ...]]:
        if self.other is None and self.weights is None:
            raise ValueError("this engine has no reference; build it with keep_reference or reference_engine")
        if not keep or self.moved:
            return self._computed(items)
        keys = [_key(item) for item in items]
        missing = [index for index, key in enumerate(keys) if key not in self._kept]
        found = {}
        if missing:
            computed = self._alone([items[index] for index in missing])
            found = {keys[index]: _trained(items[index], rows) for index, rows in zip(missing, computed, strict=True)}
            for key, values in found.items():
                self._keep(key, values)
        return [
            _spread(item, found[key] if key in found else self._kept[key])
            for item, key in zip(items, keys, strict=True)
        ]

    @property
    def is_start(self) -> bool:
        return self.other is None and not self.moved

    def logprobs_of_start(self, items: Sequence[Item]) -> list[tuple[Float32, ...]]:
        if self.start is None:
            raise ValueError("this engine has not kept its start; build it with keep_reference")
        with self._in_place(self.start):
            return self.policy.logprobs(items)

    def move(self, rate: float) -> None:
        if self.weights is None:
            raise ValueError("only a reference that is kept as weights can move")
        self._leave_start()
        self._kept.clear()
        with torch.no_grad():
            for name, weight in self.policy.trained.items():
                self.weights[name].lerp_(weight.detach(), rate)

    def save(self, folder: Path) -> None:
        if self.moved and self.weights is not None:
            save_file({name: weight.cpu().contiguous() for name, weight in self.weights.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        if self.weights is None or not (folder / FILE).exists():
            return
        self._leave_start()
        for name, weight in load_file(folder / FILE).items():
            self.weights[name].copy_(weight)

    def _leave_start(self) -> None:
        """The average becomes a copy of its own."""
        assert self.weights is not None
        if not self.moved:
            self.weights = {name: weight.clone() for name, weight in self.weights.items()}
        self.moved = True

    def _computed(self, items: Sequence[Item]) -> list[tuple[Float32, ...]]:
        if self.other is not None:
            return self.other.logprobs(items)
        assert self.weights is not None
        with self._in_place(self.weights):
            return self.policy.logprobs(items)

    def _alone(self, items: Sequence[Item]) -> list[tuple[Float32, ...]]:
        if self.other is not None:
            return self.other.logprobs_alone(items)
        assert self.weights is not None
        with self._in_place(self.weights):
            return self.policy.logprobs_alone(items)

    @contextlib.contextmanager
    def _in_place(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """The policy's trained weights are these, for the time of a look; swapped by storage: nothing is copied."""
        current = {name: weight.data for name, weight in self.policy.trained.items()}
        try:
            for name, weight in self.policy.trained.items():
                weight.data = weights[name]
            yield
        finally:
            for name, weight in self.policy.trained.items():
                weight.data = current[name]

    def _keep(self, key: bytes, values: Float32) -> None:
        if self._bytes + values.nbytes <= KEPT_BYTES:
            self._kept[key] = values
            self._bytes += values.nbytes


def _key(item: Item) -> bytes:
    """Of what is computed: an item that is cut or worded otherwise under the same id is another one."""
    made = hashlib.blake2b(digest_size=16)
    for row in item.rows:
        made.update(len(row).to_bytes(8, "little"))
        for column in (row.tokens, row.targets, _places(row)):
            made.update(b"-" if column is None else np.ascontiguousarray(column).tobytes())
    return made.digest()


def _places(row: Row) -> np.ndarray:
    return np.flatnonzero(row.weights)


def _trained(item: Item, rows: Sequence[Float32]) -> Float32:
    return np.concatenate([values[_places(row)] for row, values in zip(item.rows, rows, strict=True)])


def _spread(item: Item, values: Float32) -> tuple[Float32, ...]:
    found, start = [], 0
    for row in item.rows:
        places = _places(row)
        column = np.zeros(len(row), dtype=np.float32)
        column[places] = values[start : start + len(places)]
        start += len(places)
        found.append(column)
    return tuple(found)
