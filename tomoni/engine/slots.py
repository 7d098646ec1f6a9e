"""Where a decoder keeps the keys and values of the rows it is working on.

One tensor for all layers, made once: each row has a slot in it, and a token is written into its row's slot in place.
Nothing is padded and nothing moves when rows grow; only where rows are to stand side by
side (`settle`, for PyTorch's layers) one that leaves lets another move into its slot.

L layers, S slots, Y = 2 J heads of d numbers (keys, then values), C tokens of room in each: what a head has to read
stands in one piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

FIRST_SLOTS, FIRST_ROOM = 8, 128


@dataclass(slots=True, eq=False)
class SlotRow:
    """A row's place, and how many of its tokens stand there."""

    slot: int
    length: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of a prompt that are computed now, behind those of their row that were computed before. `last`: they are
    the prompt's end."""

    row: SlotRow
    tokens: Sequence[int]
    last: bool

    @property
    def positions(self) -> range:
        """Of its tokens in the row."""
        return range(self.row.length, self.row.length + len(self.tokens))


class Slots:
    """`memory_LSYCd` is replaced by a larger one only when more rows or a longer row are announced than ever before."""

    def __init__(
        self, layers: int, heads: int, head_dim: int, *, room: int = FIRST_ROOM, slots: int = FIRST_SLOTS
    ) -> None:
        self.memory_LSYCd = torch.zeros(layers, slots, heads, room, head_dim)
        self._rows: list[SlotRow | None] = [None] * slots

    @property
    def room(self) -> int:
        return self.memory_LSYCd.shape[3]

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
        self.memory_LSYCd[:, slot, :, : row.length] = self.memory_LSYCd[:, row.slot, :, : row.length]

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
        layers, _, heads, _, head_dim = self.memory_LSYCd.shape
        # by numpy, since PyTorch writes its zeros out, which takes the memory at once
        larger_LSYCd = torch.from_numpy(np.zeros((layers, slots, heads, room, head_dim), dtype=np.float32))
        for row in self._rows:
            if row is not None:
                larger_LSYCd[:, row.slot, :, : row.length] = self.memory_LSYCd[:, row.slot, :, : row.length]
        self.memory_LSYCd = larger_LSYCd
        self._rows += [None] * (slots - len(self._rows))
