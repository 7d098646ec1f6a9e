"""Dropout by keys: a number is dropped or not by its place and a key, so that the backward pass drops the same without
keeping anything, and the lanes of a step draw side by side, each by keys of its own.

Float32 on a CPU, where the kernels are built.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tomoni.data.stream import GOLDEN, mixed
from tomoni.engine.calls import kernels, kernels_for, pointer


@dataclass(frozen=True, slots=True)
class Draw:
    """Which `key`, and the share p that is dropped; nothing is where p is 0."""

    key: int = 0
    p: float = 0.0

    def told(self) -> tuple[ctypes.c_uint32, ctypes.c_uint32, ctypes.c_float]:
        limit = min(int(self.p * 2**32), 2**32 - 1)
        return ctypes.c_uint32(self.key), ctypes.c_uint32(limit), ctypes.c_float(1 / (1 - self.p))

    def factors(self, count: int) -> Tensor:
        """[count] of 0 or 1 / (1 - p), as the kernels draw them at the places 0, 1 …"""
        out = torch.empty(count)
        kernels().dropout_factors(*self.told(), pointer(out), ctypes.c_int64(count))
        return out


class _Keys(threading.local):
    """Of the micro-batch that a thread computes: its key, and how many were taken from it."""

    whole: int | None = None
    taken: int = 0


_keys = _Keys()


@contextlib.contextmanager
def keyed(key: int) -> Iterator[None]:
    """Meanwhile what this thread draws is told by this key."""
    before = _keys.whole, _keys.taken
    _keys.whole, _keys.taken = key, 0
    try:
        yield
    finally:
        _keys.whole, _keys.taken = before


def draw(dropout: nn.Dropout) -> Draw:
    """The next one; outside of `keyed` its key comes from PyTorch's generator."""
    if not dropout.training or dropout.p == 0:
        return Draw()
    if _keys.whole is None:
        return Draw(int(torch.randint(2**32, ())), dropout.p)
    word = mixed(_keys.whole + _keys.taken * GOLDEN)  # SplitMix64 (Steele et al. 2014)
    _keys.taken += 1
    return Draw(word >> 32, dropout.p)


class KeyedDropout(nn.Dropout):
    """PyTorch's, but for where its numbers come from."""

    def forward(self, input: Tensor) -> Tensor:
        if kernels_for(input) is None:
            return super().forward(input)
        drawn = draw(self)
        return input * drawn.factors(input.numel()).view_as(input) if drawn.p else input
