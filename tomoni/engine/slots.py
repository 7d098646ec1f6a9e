"""Where a decoder keeps the keys and values of the rows it is working on.

One tensor for all layers, made once: each row has a slot in it, and a token is written into its row's slot in place.
Nothing is padded and nothing moves when rows grow; only a row that leaves lets another move into its slot, so that the
rows that are decoded together always stand side by side.

L layers, S slots, C tokens of room in each, X = 2 J d: a token's keys of J heads, then its values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FIRST_SLOTS, FIRST_ROOM = 8, 128


@dataclass(slots=True, eq=False)
class SlotRow:
    """A row's place, and how many of its tokens stand there."""

    slot: int
    length: int = 0


class Slots:
    """`memory_LSCX` is replaced by a larger one only when more rows or a longer row are announced than ever before."""

    def __init__(self, layers: int, width: int, *, room: int = FIRST_ROOM, slots: int = FIRST_SLOTS) -> None:
        self.memory_LSCX = torch.zeros(layers, slots, room, width)
        self._rows: list[SlotRow | None] = [None] * slots

    @property
    def room(self) -> int:
        return self.memory_LSCX.shape[2]

    def new(self, length: int) -> SlotRow:
        """An empty row that may grow to `length` tokens, as far as possible from those that `settle` puts side by
        side."""
        self.reserve(length)
        if all(row is not None for row in self._rows):
            self._grow(2 * len(self._rows), self.room)
        slot = max(slot for slot, row in enumerate(self._rows) if row is None)
        row = SlotRow(slot)
        self._rows[slot] = row
        return row

    def copy(self, row: SlotRow, length: int) -> SlotRow:
        """Another row with the same tokens."""
        other = self.new(length)
        self._write(row, other.slot)
        other.length = row.length
        return other

    def free(self, row: SlotRow) -> None:
        self._rows[row.slot] = None

    def settle(self, rows: Sequence[SlotRow], ends: Sequence[int] = ()) -> None:
        """Bring these rows into the first slots, in any order.

        `ends` are where groups of rows of like length end: a place that was left is filled with its group's last row,
        that one's place with the next group's last, so that groups stay together.
        """
        count = len(rows)
        wanted = set(map(id, rows))
        for slot in range(count):
            here = self._rows[slot]
            if here is not None and id(here) not in wanted:
                self._move(here, self._elsewhere(count))
        hole = self._hole(count)
        while hole < count:
            for end in ends:
                last = next((slot for slot in range(end - 1, hole, -1) if id(self._rows[slot]) in wanted), None)
                if last is not None:
                    self._fill(hole, last)
                    hole = last
            if hole < count:
                self._fill(hole, next(row.slot for row in rows if row.slot >= count))
            hole = self._hole(count)

    def _hole(self, count: int) -> int:
        return next((slot for slot in range(count) if self._rows[slot] is None), count)

    def _fill(self, hole: int, slot: int) -> None:
        row = self._rows[slot]
        assert row is not None
        self._move(row, hole)

    def _elsewhere(self, count: int) -> int:
        free = [slot for slot in range(count, len(self._rows)) if self._rows[slot] is None]
        if free:
            return free[-1]
        self._grow(2 * len(self._rows), self.room)
        return len(self._rows) - 1

    def _move(self, row: SlotRow, slot: int) -> None:
        self._write(row, slot)
        self._rows[row.slot], self._rows[slot] = None, row
        row.slot = slot

    def _write(self, row: SlotRow, slot: int) -> None:
        self.memory_LSCX[:, slot, : row.length] = self.memory_LSCX[:, row.slot, : row.length]

    def reserve(self, length: int) -> None:
        """Make room for rows of `length` tokens."""
        room = self.room
        while room < length:
            room *= 2
        if room > self.room:
            self._grow(len(self._rows), room)

    def _grow(self, slots: int, room: int) -> None:
        """Zeros, since a place that was never written is multiplied by a weight of 0. The system gives memory only to
        what is written, so slots that stay empty cost nothing."""
        layers, _, _, width = self.memory_LSCX.shape
        # by numpy, since PyTorch writes its zeros out, which takes the memory at once
        larger_LSCX = torch.from_numpy(np.zeros((layers, slots, room, width), dtype=np.float32))
        for row in self._rows:
            if row is not None:
                larger_LSCX[:, row.slot, : row.length] = self.memory_LSCX[:, row.slot, : row.length]
        self.memory_LSCX = larger_LSCX
        self._rows += [None] * (slots - len(self._rows))


def flat_places(slots: Sequence[int], positions: Sequence[int], room: int) -> Tensor:
    """int64 [N]: where in [S C] the tokens at these positions of these slots stand."""
    return torch.tensor([slot * room + position for slot, position in zip(slots, positions, strict=True)])
