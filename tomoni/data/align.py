"""Where tokens stand in the text they were made of, for tokenizers that do not say so themselves. No torch.

A tokenizer may normalise the text first (NFKC, lower case) and drop white space. The text is therefore cut into the
smallest parts that are normalised by themselves, so that each character of the normalised text is known to come from
certain characters of the original; tokens are then found one after another in the normalised text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Place = tuple[int, int]  # characters [start, end) of the original text


@dataclass(frozen=True, slots=True)
class Normalised:
    """`places[i]` are the original characters that `text[i]` comes from."""

    text: str
    places: tuple[Place, ...]

    def place(self, start: int, end: int) -> Place:
        """Of the characters [start, end) of the normalised text, which are not none."""
        return self.places[start][0], max(self.places[end - 1][1], self.places[start][1])


def normalised(text: str, change: Callable[[str], str]) -> Normalised:
    """The text as `change` makes it. A part is as short as it can be: it ends where what follows is changed no
    differently with it than alone."""
    letters: list[str] = []
    places: list[Place] = []
    start = 0
    while start < len(text):
        end = start + 1
        made = change(text[start:end])
        while end < len(text) and _belongs(made, text[start:end], text[end], change):
            end += 1
            made = change(text[start:end])
        letters += made
        places += [(start, end)] * len(made)
        start = end
    return Normalised("".join(letters), tuple(places))


def _belongs(made: str, part: str, following: str, change: Callable[[str], str]) -> bool:
    return bool(unicodedata.combining(following)) or change(part + following) != made + change(following)


def nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def places_of(words: Sequence[str], text: Normalised) -> list[tuple[int, int]] | None:
    """Where in the normalised text each word stands, white space between them left out; None where they are not its
    words one after another."""
    found, position = [], 0
    for word in words:
        while position < len(text.text) and text.text[position].isspace() and not text.text.startswith(word, position):
            position += 1
        if not _same(text.text[position : position + len(word)], word):
            return None
        found.append((position, position + len(word)))
        position += len(word)
    return found if not text.text[position:].strip() else None


def _same(one: str, other: str) -> bool:
    return one == other or (len(one) == len(other) and one.casefold() == other.casefold())
