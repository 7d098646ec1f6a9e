"""Prompts on their way in: which of their tokens are computed next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tomoni.engine.slots import Piece, SlotRow

Answer = TypeVar("Answer")


@dataclass(slots=True, eq=False)
class Entering(Generic[Answer]):
    """A prompt that is being computed, piece by piece, for all answers that have it."""

    answers: list[Answer]
    prompt: list[int]
    row: SlotRow

    @property
    def left(self) -> int:
        return len(self.prompt) - self.row.length

    def piece(self, size: int) -> Piece:
        done = self.row.length
        return Piece(self.row, self.prompt[done : done + size], done + size == len(self.prompt))


def next_pieces(entering: Sequence[Entering[Answer]], most: int) -> list[tuple[Entering[Answer], Piece]]:
    """At most `most` tokens: half of them of the oldest prompt, the rest of the shortest first, and what is left over
    again of the oldest; so that neither waits for the other for long."""
    if not entering:
        return []
    taken = [0] * len(entering)
    shortest = sorted(range(1, len(entering)), key=lambda index: entering[index].left)
    oldest_first = most // 2 if shortest else most
    for index, limit in [(0, oldest_first), *((index, most) for index in shortest), (0, most)]:
        size = min(limit, most, entering[index].left - taken[index])
        taken[index] += size
        most -= size
    return [(one, one.piece(size)) for one, size in zip(entering, taken, strict=True) if size]
