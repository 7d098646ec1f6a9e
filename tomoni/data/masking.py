"""Whole words are hidden and to be guessed (Devlin et al. 2019, and their later whole-word masking). No torch.

Which words are hidden is drawn by seed, epoch and record, so that every epoch hides others and a resumed run the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tomoni.rows import Item, Row

HIDDEN, REPLACED = 0.8, 0.1  # of the chosen words; the rest stays as it is, and is to be guessed too
LOOKING = -1  # the epoch of evaluations: always the same words


@dataclass(frozen=True, slots=True)
class Masking:
    """`share` of the tokens are chosen, word by word. `ordinary` are the tokens that may stand in for others."""

    share: float
    mask: int
    ordinary: np.ndarray
    seed: int

    def __call__(self, items: Sequence[Item], epochs: Sequence[int]) -> list[Item]:
        """The items with some words hidden, to be guessed at their places; `offsets` of their rows name the words."""
        return [
            item.with_rows([self._row(row, f"{item.id}/{number}", epoch) for number, row in enumerate(item.rows)])
            for item, epoch in zip(items, epochs, strict=True)
        ]

    def _row(self, row: Row, name: str, epoch: int) -> Row:
        if row.offsets is None:
            raise ValueError("rows to be masked name the word of each token in offsets")
        draw = self._generator(name, epoch)
        word_T = row.offsets[:, 0]
        tokens = row.tokens.copy()
        weights = np.zeros(len(tokens), dtype=np.float32)
        wanted = max(1, round(self.share * int((word_T >= 0).sum())))
        taken = 0
        for word in draw.permutation(np.unique(word_T[word_T >= 0])):
            places = np.flatnonzero(word_T == word)
            if taken and taken + len(places) > wanted:
                continue  # a shorter word may still have room
            weights[places] = 1
            taken += len(places)
            chance = draw.random()
            if chance < HIDDEN:
                tokens[places] = self.mask
            elif chance < HIDDEN + REPLACED:
                tokens[places] = draw.choice(self.ordinary, len(places))
            if taken >= wanted:
                break
        return row.with_(tokens=tokens, weights=weights, targets=row.tokens, offsets=None)

    def _generator(self, name: str, epoch: int) -> np.random.Generator:
        key = hashlib.blake2b(f"mask {self.seed} {epoch} {name}".encode(), digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def masking_of(tokenizer: object, *, share: float, seed: int) -> Masking:
    """With the tokenizer's own mask; ValueError where it has none."""
    mask = getattr(tokenizer, "mask_token_id", None)
    if mask is None:
        raise ValueError("the tokenizer has no mask token")
    special = set(getattr(tokenizer, "all_special_ids", ()))
    size = len(tokenizer)  # type: ignore[arg-type]
    ordinary = np.asarray([token for token in range(size) if token not in special], dtype=np.int32)
    return Masking(share, int(mask), ordinary, seed)
