"""Texts become tokens with their places in the text, framed as the model's tokenizer frames one text or two. No torch.

Three kinds of tokenizers: the fast ones say where their tokens stand; BertJapaneseTokenizer (words by MeCab or Sudachi,
then WordPiece or characters) does not, and is followed word by word (`align`); others are refused where places matter.
Control tokens that a text spells are the characters they are made of.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tomoni.data.align import Normalised, Place, nfkc, normalised, places_of
from tomoni.data.tokenize import Encoder
from tomoni.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOWHERE: Place = (-1, -1)  # of tokens that the frame brings


@dataclass(frozen=True, slots=True)
class Pieces:
    """Tokens of a text; `places` are characters [start, end), `words` says which tokens make up a word (equal numbers),
    None where the tokenizer does not go by words."""

    ids: tuple[int, ...]
    places: tuple[Place, ...]
    words: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, start: int, end: int) -> Pieces:
        words = None if self.words is None else self.words[start:end]
        return Pieces(self.ids[start:end], self.places[start:end], words)


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands before a text, between two and behind, and the segment of each part."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    behind: tuple[int, ...]
    behind_two: tuple[int, ...]

    @property
    def one(self) -> int:
        """Tokens that framing one text adds."""
        return len(self.before) + len(self.behind)

    @property
    def two(self) -> int:
        return len(self.before) + len(self.between) + len(self.behind_two)


@dataclass(frozen=True, slots=True)
class Framed:
    """tokens [T], segments [T], and where each token stands in its text [T, 2] (-1 for the frame's)."""

    tokens: np.ndarray
    segments: np.ndarray
    places: np.ndarray


class TextEncoder:
    """`notes` is what people should know about the tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._encoder = Encoder(tokenizer)
        self._backend: Any = self._encoder._backend
        self.unknown: int | None = tokenizer.unk_token_id  # type: ignore[assignment]
        self.frame = self._frame()
        self.notes = tuple(_strips_accents(self))

    @property
    def places_known(self) -> bool:
        return self._backend is not None or hasattr(self.tokenizer, "subword_tokenizer")

    def pieces(self, text: str) -> Pieces:
        if self._backend is not None:
            return self._fast(text)
        if hasattr(self.tokenizer, "subword_tokenizer"):
            return self._by_words(text)
        ids = tuple(self._encoder.plain(text))
        return Pieces(ids, (NOWHERE,) * len(ids))

    def _fast(self, text: str) -> Pieces:
        ids = self._encoder.plain(text)
        made = self._backend.encode(text, add_special_tokens=False)
        if list(made.ids) != ids:  # a control token that the text spells stood in the vocabulary as an ordinary piece
            return self._pieced(text)
        return Pieces(tuple(made.ids), tuple((int(start), int(end)) for start, end in made.offsets))

    def _pieced(self, text: str) -> Pieces:
        """Character by character: rare, and right."""
        ids: list[int] = []
        places: list[Place] = []
        for index, letter in enumerate(text):
            made = self._encoder.plain(letter, continues=index > 0)
            ids += made
            places += [(index, index + 1)] * len(made)
        return Pieces(tuple(ids), tuple(places))

    # -- BertJapaneseTokenizer -----------------------------------------------------------------------------------------

    def _by_words(self, text: str) -> Pieces:
        tokenizer: Any = self.tokenizer
        known, words = self._words(text)
        ids: list[int] = []
        places: list[Place] = []
        of_word: list[int] = []
        found = places_of(words, known)
        if found is None:
            raise ModelError(
                f"where its tokens stand cannot be told for the text {text[:40]!r}",
                next_step="take a model with a tokenizer.json, or leave this text out",
            )
        for number, (word, (start, end)) in enumerate(zip(words, found, strict=True)):
            parts = tokenizer.subword_tokenizer.tokenize(word) if tokenizer.do_subword_tokenize else [word]
            ids += tokenizer.convert_tokens_to_ids(parts)
            of_word += [number] * len(parts)
            places += [known.place(a, b) for a, b in _parts_of(parts, start, end)]
        return Pieces(tuple(ids), tuple(places), tuple(of_word))

    def _words(self, text: str) -> tuple[Normalised, list[str]]:
        """The text as the word tokenizer normalises it, and its words. That a control token is spelt is no matter: the
        word tokenizer is asked without any that are never split."""
        tokenizer: Any = self.tokenizer
        word_tokenizer = tokenizer.word_tokenizer if tokenizer.do_word_tokenize else None
        if word_tokenizer is None:
            known = normalised(text, lambda part: part)
            return known, [letter for letter in text if not letter.isspace()]
        words = [word for word in word_tokenizer.tokenize(text, never_split=[]) if word.strip()]
        lower = bool(getattr(word_tokenizer, "do_lower_case", False))
        wide = bool(getattr(word_tokenizer, "normalize_text", True))

        def change(part: str) -> str:
            part = nfkc(part) if wide else part
            return part.lower() if lower else part

        return normalised(text, change), words

    # -- framing -------------------------------------------------------------------------------------------------------

    def _frame(self) -> Frame:
        """Learnt from what the tokenizer does with one letter, and with two."""
        one, other = "a", "b"
        bare, bare_two = list(self._ids(one)), list(self._ids(other))
        single, double = list(self._ids(one, special=True)), list(self._ids(one, other, special=True))
        at = _find(bare, single, 0)
        before, behind = single[:at], single[at + len(bare) :]
        first = _find(bare, double, 0)
        second = _find(bare_two, double, first + len(bare))
        between, behind_two = double[first + len(bare) : second], double[second + len(bare_two) :]
        if not between:  # a decoder has nothing that parts two texts
            between = list(self._encoder.plain("\n"))
        return Frame(tuple(before), tuple(between), tuple(behind), tuple(behind_two))

    def _ids(self, *texts: str, special: bool = False) -> list[int]:
        return list(self.tokenizer(*texts, add_special_tokens=special)["input_ids"])  # type: ignore[arg-type]

    def framed(self, first: Pieces, second: Pieces | None = None, *, places_of: int = 0) -> Framed:
        """One text, or two of which the second is the segment 1; `places_of` says whose places are kept."""
        frame = self.frame
        if second is None:
            parts = [(frame.before, 0, None), (first.ids, 0, first.places), (frame.behind, 0, None)]
        else:
            kept = (first.places, None) if places_of == 0 else (None, second.places)
            parts = [
                (frame.before, 0, None),
                (first.ids, 0, kept[0]),
                (frame.between, 0, None),
                (second.ids, 1, kept[1]),
                (frame.behind_two, 1, None),
            ]
        tokens = [token for ids, _, _ in parts for token in ids]
        segments = [segment for ids, segment, _ in parts for _ in ids]
        places = [place for ids, _, known in parts for place in (known or [NOWHERE] * len(ids))]
        return Framed(
            np.asarray(tokens, dtype=np.int32),
            np.asarray(segments, dtype=np.int8),
            np.asarray(places, dtype=np.int32).reshape(-1, 2),
        )


def _find(part: Sequence[int], whole: Sequence[int], start: int) -> int:
    for at in range(start, len(whole) - len(part) + 1):
        if list(whole[at : at + len(part)]) == list(part):
            return at
    raise ModelError(
        "the tokenizer makes something else of a text with its control tokens than without",
        next_step="take a model with an ordinary tokenizer (BERT, RoBERTa, DeBERTa, ModernBERT …)",
    )


def _parts_of(parts: Sequence[str], start: int, end: int) -> list[tuple[int, int]]:
    """Where in a word its parts stand: WordPiece's ("##") one after another. A part that is unknown stands for one letter
    where every part does (a tokenizer of characters), else for the whole word."""
    if len(parts) == end - start:
        return [(start + index, start + index + 1) for index in range(len(parts))]
    if len(parts) == 1:
        return [(start, end)]
    found, position = [], start
    for part in parts:
        length = len(part.removeprefix("##"))
        found.append((position, min(end, position + length)))
        position += length
    return found


def _strips_accents(encoder: TextEncoder) -> list[str]:
    """バ must not become ハ: a note where it does, tried on the tokenizer itself."""
    marked = [("バ", "ハ"), ("が", "か"), ("ペ", "へ")]
    lost = [f"{one} becomes {other}" for one, other in marked if _alike(encoder, one, other)]
    if not lost:
        return []
    return [
        f"the tokenizer strips accents (strip_accents, or lower case without strip_accents: false): {', '.join(lost)}; "
        "it was made so, and the model has never seen the difference"
    ]


def _alike(encoder: TextEncoder, one: str, other: str) -> bool:
    made, plain = encoder.pieces(one).ids, encoder.pieces(other).ids
    known = encoder.unknown not in made
    return known and made == plain and unicodedata.normalize("NFC", one) != unicodedata.normalize("NFC", other)
