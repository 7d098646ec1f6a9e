"""Packing: rows of many items put together into items of about the same number of tokens. No torch.

A packed item is several rows, one for each document or piece, so that no token can see another document: how rows lie
in memory is the engine's affair. Nothing is copied; the view holds two numbers a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tomoni.data.store import ItemStore
from tomoni.rows import Item

WINDOW = 64  # packs that are open at a time


class Packed:
    """A view of a store whose items hold rows of up to `tokens` tokens together (a longer row stands alone).

    Rows are taken in the store's order and put into the first open pack with room (first fit), so that the packs
    depend on the store alone. `indices` restricts the view to some items of the store.
    """

    def __init__(self, store: ItemStore, *, tokens: int, indices: Sequence[int] | None = None) -> None:
        self.store = store
        wanted = range(len(store)) if indices is None else indices
        rows = [(row, index) for index in wanted for row in store.rows_of(int(index))]
        packs = first_fit([int(store.lengths[row]) for row, _ in rows], tokens)
        self._ends = np.cumsum([0, *map(len, packs)])
        order = [place for pack in packs for place in pack]
        self._rows = np.asarray([rows[place][0] for place in order], dtype=np.int64)
        self._owners = np.asarray([rows[place][1] for place in order], dtype=np.int64)
        self.tokens = int(sum(int(store.lengths[row]) for row, _ in rows))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def id(self, index: int) -> str:
        """The ids of the first row's item and how many rows follow: packs of one store have different ids."""
        first, last = self._span(index)
        name = self.store.id(int(self._owners[first]))
        return name if last - first == 1 else f"{name}+{last - first - 1}"

    def members(self, index: int) -> list[str]:
        """The ids of all items that have a row in the pack."""
        first, last = self._span(index)
        return list(dict.fromkeys(self.store.id(int(owner)) for owner in self._owners[first:last]))

    def __getitem__(self, index: int) -> Item:
        first, last = self._span(index)
        return Item(self.id(index), tuple(self.store.row(int(row)) for row in self._rows[first:last]))

    def _span(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return int(self._ends[index]), int(self._ends[index + 1])


def first_fit(lengths: Sequence[int], room: int, *, window: int = WINDOW) -> list[list[int]]:
    """Places 0 … n-1 put into packs whose lengths sum to at most `room`; at most `window` packs are open at a time.

    When all are open, the fullest is closed. A place longer than `room` is a pack of its own.
    """
    packs: list[list[int]] = []
    open_packs: list[list[int]] = []  # [pack, room left], oldest first
    for place, length in enumerate(lengths):
        chosen = next((pack for pack in open_packs if pack[1] >= length), None)
        if chosen is None:
            if len(open_packs) == window:
                open_packs.remove(min(open_packs, key=lambda pack: pack[1]))
            packs.append([])
            chosen = [len(packs) - 1, room]
            open_packs.append(chosen)
        packs[chosen[0]].append(place)
        chosen[1] -= length
        if chosen[1] <= 0:
            open_packs.remove(chosen)
    return packs
