"""Tokens as clients see them: their text and their bytes, and which of them a text that was cut still has."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Any

from tomoni.serve.streams import Token

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenTexts:
    """Of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.bytes_of = lru_cache(maxsize=65_536)(self._bytes_of)

    def text_of(self, id: int) -> str:
        """Half a character is shown as U+FFFD; its bytes tell what it is."""
        return self.bytes_of(id).decode("utf-8", "replace")

    def _bytes_of(self, id: int) -> bytes:
        piece = self._tokenizer.convert_ids_to_tokens(id)
        if not isinstance(piece, str):
            return b""
        if id in self._specials:
            return piece.encode()
        if self._byte_level and all(letter in _LETTERS for letter in piece):
            return bytes(_LETTERS[letter] for letter in piece)
        if match := _BYTE.fullmatch(piece):
            return bytes([int(match[1], 16)])
        return piece.replace("\u2581", " ").encode("utf-8", "replace")

    @cached_property
    def _specials(self) -> frozenset[int]:
        return frozenset(self._tokenizer.all_special_ids)

    @cached_property
    def _byte_level(self) -> bool:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        return backend is not None and "ByteLevel" in str(backend.decoder)


def _letters() -> dict[str, int]:
    """GPT-2's letters for the 256 bytes: printable ones stand for themselves, the others for U+0100 and on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + at): byte for at, byte in enumerate(others)}


_LETTERS = _letters()


class Told:
    """Gives the tokens of one answer once the text that they stand for is certain: what lies behind a stop string is
    never told, nor is the end token."""

    def __init__(self, texts: TokenTexts, ends: Iterable[int]) -> None:
        self._texts = texts
        self._ends = frozenset(ends)
        self._held: list[tuple[int, Token]] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._start = 0  # characters before the next token
        self._said = 0  # characters of text that are certain

    def add(self, tokens: Iterable[Token], text: str, finish: str | None) -> list[Token]:
        for token in tokens:
            if token.id not in self._ends:
                self._held.append((self._start, token))
                self._start += len(self._decoder.decode(self._texts.bytes_of(token.id)))
        self._said += len(text)
        if finish == "length":  # nothing was cut away
            ready, self._held = self._held, []
        else:
            ready = [held for held in self._held if held[0] < self._said]
            self._held = self._held[len(ready) :]
        return [token for _, token in ready]
