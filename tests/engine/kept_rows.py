"""Rows for tests of the store, by number; no torch, so that a process that is to be killed starts at once."""

from __future__ import annotations

from typing import Any

import numpy as np

WIDTH = 8


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def states(number: int) -> np.ndarray[Any, Any]:
    """[T, WIDTH] of a length and content of its own."""
    return np.random.default_rng(number).normal(size=(1 + number % 7, WIDTH)).astype(np.float32)
