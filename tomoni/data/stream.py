"""Which items a step trains on: a pure function of the seed, the step and the number of items. No torch.

Nothing is drawn from a random stream that would have to be saved: epoch e visits the items in an order that a keyed
permutation of 0 … n-1 gives, and step s takes the positions s·b … s·b + b-1 of the epochs laid end to end. The
permutation is a Feistel network with cycle walking (Black and Rogaway, 2002, "Ciphers with arbitrary finite domains"),
so that no list of n numbers is held and the order does not depend on any library's version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tomoni.rows import Item
from tomoni.settings.common import items_seen

ROUNDS = 6
MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio


class Items(Protocol):
    """What a stream reads: an ItemStore, a Packed view, a list of items."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Item: ...


@dataclass(frozen=True, slots=True)
class Permutation:
    """A permutation of 0 … size-1, keyed by (seed, epoch)."""

    size: int
    half: int  # bits of each half
    keys: tuple[int, ...]

    @classmethod
    def keyed(cls, size: int, seed: int, epoch: int) -> Permutation:
        half = max(1, (max(1, size - 1).bit_length() + 1) // 2)
        name = f"tomoni order {seed} {epoch} {size}".encode()
        digest = hashlib.blake2b(name, digest_size=8 * ROUNDS).digest()
        keys = tuple(int.from_bytes(digest[8 * index : 8 * index + 8], "little") for index in range(ROUNDS))
        return cls(size, half, keys)

    def __getitem__(self, position: int) -> int:
        if not 0 <= position < self.size:
            raise IndexError(position)
        value = self._once(position)
        while value >= self.size:  # at most 4 times as many values as items: a few turns on average
            value = self._once(value)
        return value

    def _once(self, value: int) -> int:
        mask = (1 << self.half) - 1
        left, right = value >> self.half, value & mask
        for key in self.keys:
            left, right = right, left ^ (mixed(right ^ key) & mask)
        return (left << self.half) | right


def mixed(value: int) -> int:
    """A 64-bit finalizer (splitmix64's constants): every input bit moves every output bit."""
    value = (value + GOLDEN) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


class Stream:
    """Batches of items; every item once an epoch, in an order of its own each epoch.

    `steps` bounds the run; `epochs` (may be a fraction) bounds the items, so that the last batch of a run of whole
    epochs may be short. `indices` restricts the stream to some items of the store. `limit` is the number of items
    in the whole run.
    """

    def __init__(
        self,
        store: Items,
        *,
        batch_size: int,
        seed: int,
        steps: int,
        indices: Sequence[int] | None = None,
        epochs: float | None = None,
    ) -> None:
        self.store = store
        self.batch_size = batch_size
        self.seed = seed
        self.steps = steps
        self.indices = indices
        self.size = len(store) if indices is None else len(indices)
        if self.size == 0:
            raise ValueError("a stream needs at least one item")
        whole = steps * batch_size
        self.limit = whole if epochs is None else min(whole, items_seen(self.size, epochs))
        self._last: tuple[int, Permutation] | None = None  # only spares work: the same epoch is asked for many times

    def positions(self, step: int) -> list[int]:
        """The store's indices of one step's items."""
        first = step * self.batch_size
        return [self._at(position) for position in range(first, min(first + self.batch_size, self.limit))]

    def batch(self, step: int) -> list[Item]:
        """The items of one step; the same however often and in whatever order it is asked."""
        return [self.store[index] for index in self.positions(step)]

    def epochs(self, step: int) -> list[int]:
        """In which epoch each of the step's items is seen."""
        first = step * self.batch_size
        return [position // self.size for position in range(first, min(first + self.batch_size, self.limit))]

    def epoch(self, step: int) -> float:
        """How many epochs have been seen when the step has been taken."""
        return min((step + 1) * self.batch_size, self.limit) / self.size

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, self.size)
        if self._last is None or self._last[0] != epoch:
            self._last = (epoch, Permutation.keyed(self.size, self.seed, epoch))
        index = self._last[1][place]
        return index if self.indices is None else int(self.indices[index])
