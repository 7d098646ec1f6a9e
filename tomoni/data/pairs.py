"""Preferences become items: two answers to a prompt, the chosen one first; or one answer with a thumb. No torch."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from tomoni.errors import DataError
from tomoni.records import Comparison, Rated, Record, Verdict, kind_of
from tomoni.rows import Item, Row

if TYPE_CHECKING:
    from tomoni.data.render import Renderer

PAIRED = ("preference",)
UNPAIRED = ("unpaired",)


def pair_item(record: Record, render: Renderer) -> list[Item]:
    """One item of two rows, the loss on the answers. Nothing, and counted in `render.left_out`, where nobody was
    preferred, where an answer is too long to be seen, or where both are the same tokens."""
    match record:
        case Comparison(verdict=Verdict.TIE):
            return _left_out(render, "a tie: neither answer was preferred")
        case Comparison(verdict=Verdict.BOTH_BAD):
            return _left_out(render, "both answers were bad: neither was preferred")
        case Comparison(verdict=Verdict.FIRST | Verdict.SECOND):
            rows = render.comparison(record)
        case _:
            raise DataError(
                f"{record.source}: pairs of a chosen and a rejected answer are needed, not {kind_of(record)}",
                choices=PAIRED,
                next_step="name a file with the columns prompt, chosen, rejected",
            )
    if rows is None:
        return []
    chosen, rejected = rows if record.verdict is Verdict.FIRST else rows[::-1]
    if np.array_equal(chosen.tokens, rejected.tokens):
        return _left_out(render, "chosen and rejected are the same tokens")
    _count_opposite(_key(chosen, rejected), _key(rejected, chosen), render)
    return [Item(record.id, (chosen, rejected), record.weight, record.margin, record.noise)]


def rated_item(record: Record, render: Renderer) -> list[Item]:
    """One item of one row with the label 1 (good) or 0."""
    match record:
        case Rated():
            row = render.completion(record.prompt, record.completion, name=f"{record.source} (record {record.id})")
        case _:
            label = record.extra.get("label")
            raise DataError(
                f"{record.source}: answers with a thumb are needed, not {kind_of(record)}"
                + ("" if label is None else f"; its label is {str(label)[:40]!r}, which is no truth value"),
                choices=UNPAIRED,
                next_step="name a file with the columns prompt, completion, label (true or false)",
            )
    if row is None:
        return []
    render.thumbs[record.good] += 1
    _count_opposite(_thumb(row, record.good), _thumb(row, not record.good), render)
    return [Item(record.id, (row.with_(label=int(record.good)),), record.weight)]


def _left_out(render: Renderer, reason: str) -> list[Item]:
    render.left_out[reason] += 1
    return []


def _count_opposite(said: bytes, opposite: bytes, render: Renderer) -> None:
    """Two judgements that say the opposite are both kept: they tell how sure people are. They are counted, and said."""
    render.seen.add(said)
    render.contradictions += opposite in render.seen


def _thumb(row: Row, good: bool) -> bytes:
    return hashlib.blake2b(row.tokens.tobytes() + (b"+" if good else b"-"), digest_size=8).digest()


def _key(first: Row, second: Row) -> bytes:
    return hashlib.blake2b(first.tokens.tobytes() + b"|" + second.tokens.tobytes(), digest_size=8).digest()
