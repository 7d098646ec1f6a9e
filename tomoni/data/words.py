"""Words of a text, for masking whole ones. No torch.

Scripts that write spaces have their words between them. Japanese is cut by MeCab (fugashi, with the dictionary that is
installed); where that is missing, a run of one script is a word, and each hiragana by itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from tomoni.data.characters import is_unspaced
from tomoni.data.encode import Pieces

Place = tuple[int, int]
RUNS = re.compile(r"[\u30a0-\u30ff\uff66-\uff9f]+|[\u3400-\u9fff\uf900-\ufaff\u3005]+|.", re.DOTALL)
SPACED = re.compile(r"\w+|[^\w\s]")


@cache
def tagger() -> Any:
    """MeCab, or None where it is not installed."""
    try:
        import fugashi

        return fugashi.Tagger()  # type: ignore[attr-defined, unused-ignore]
    except (ImportError, RuntimeError):
        return None


def word_places(text: str) -> list[Place]:
    """Characters [start, end) of every word, in order."""
    places: list[Place] = []
    start = 0
    while start < len(text):
        unspaced = is_unspaced(text[start])
        end = start + 1
        while end < len(text) and is_unspaced(text[end]) == unspaced:
            end += 1
        found = _japanese(text[start:end]) if unspaced else [match.span() for match in SPACED.finditer(text[start:end])]
        places += [(start + a, start + b) for a, b in found]
        start = end
    return places


def _japanese(text: str) -> list[Place]:
    mecab = tagger()
    if mecab is None:
        return [match.span() for match in RUNS.finditer(text) if not match.group().isspace()]
    places: list[Place] = []
    position = 0
    for node in mecab(text):
        at = text.find(node.surface, position)
        if at < 0:  # a dictionary that normalises: the rest by its scripts
            rest = RUNS.finditer(text, position)
            return places + [match.span() for match in rest if not match.group().isspace()]
        places.append((at, at + len(node.surface)))
        position = at + len(node.surface)
    return places


def words_of(text: str, pieces: Pieces) -> list[int]:
    """The number of the word that each token belongs to: the tokenizer's own words where it goes by words, else the word
    in which the token begins."""
    if pieces.words is not None:
        return list(pieces.words)
    starts = np.asarray([start for start, _ in word_places(text)], dtype=np.int64)
    begins = [_first_letter(text, place) for place in pieces.places]
    return [int(number) for number in np.searchsorted(starts, begins, side="right")]


def _first_letter(text: str, place: Sequence[int]) -> int:
    """A token may begin with the space before its word."""
    start, end = place
    while start < end - 1 and text[start].isspace():
        start += 1
    return start
