"""What people see as one character, and where a text may be cut. No torch.

Not the whole of Unicode's text segmentation (UAX 29): the sequences that texts really hold, combining marks, half-width
kana with their marks, variation selectors, emoji joined or coloured, flags, and line ends of two characters.
"""

from __future__ import annotations

import unicodedata

JOINER = "\u200d"
HALF_WIDTH_MARKS = "\uff9e\uff9f"


def inside_character(text: str, position: int) -> bool:
    """Whether a cut before text[position] would go through what people see as one character."""
    if not 0 < position < len(text):
        return False
    before, here = text[position - 1], text[position]
    if unicodedata.category(here) in ("Mn", "Me", "Mc") or here in HALF_WIDTH_MARKS:
        return not before.isspace()
    if "\U0001f3fb" <= here <= "\U0001f3ff" or "\U000e0020" <= here <= "\U000e007f":  # skin tones, tags of flags
        return not before.isspace()
    if here == JOINER or before == JOINER:
        return True
    if before == "\r" and here == "\n":
        return True
    return _flags_before(text, position) % 2 == 1 and _is_flag(here)


def _is_flag(letter: str) -> bool:
    return "\U0001f1e6" <= letter <= "\U0001f1ff"


def _flags_before(text: str, position: int) -> int:
    count = 0
    while count < position and _is_flag(text[position - 1 - count]):
        count += 1
    return count


def is_unspaced(letter: str) -> bool:
    """Whether the letter belongs to a script that writes no spaces between words: kana, kanji, full-width marks."""
    code = ord(letter)
    return (
        0x3000 <= code <= 0x30FF
        or 0x3400 <= code <= 0x9FFF
        or 0xF900 <= code <= 0xFAFF
        or 0xFF00 <= code <= 0xFFEF
        or 0x20000 <= code <= 0x3FFFF
    )
