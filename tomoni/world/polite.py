"""A reward that is read off the text: is an answer polite (丁寧語), complete and brief?

For `reward_funcs: tomoni.world.polite:courtesy`. It knows nothing of whether the answer is right, so a model that learns
from it alone may say anything courteously: what it forgets is measured apart.
"""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass

from tomoni.world.tastes import words_in

BRIEF = 20  # words, two Japanese characters counted as one
SHORTEST = 3  # words in a sentence that says something
_JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
_SENTENCE_END = re.compile(r"[。！？.!?]+")
_POLITE_END = re.compile(r"(です|ます|でした|ました|ません|でしょう|ましょう|ください|ございます)(か|ね|よ|が|よね)?$")
_CASUAL_OPENING = re.compile(r"^(うん|ううん|ねえ|へえ|まあ|なあ)")
_POLITE_FRAME = re.compile(r"\b(certainly|thank you|gladly|of course|with pleasure|please|kindly)\b", re.IGNORECASE)
_CASUAL_FRAME = re.compile(r"\b(well|sure|hey|oh|guess what|by the way|you know|yeah|nope)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Courtesy:
    polite: bool
    complete: bool
    brief: bool

    @property
    def all(self) -> bool:
        return self.polite and self.complete and self.brief


def courtesy(completion: str) -> float:
    """A third for each of polite, complete and brief."""
    found = astuple(read(completion))
    return sum(found) / len(found)


def read(text: str) -> Courtesy:
    """A text with Japanese characters is read as Japanese, any other as English."""
    text = text.strip()
    in_japanese = bool(_JAPANESE.search(text))
    words = words_in(text)
    return Courtesy(
        polite=_polite_ja(text) if in_japanese else _polite_en(text),
        complete=words >= SHORTEST and text.endswith(("。", "！", "？") if in_japanese else (".", "!", "?")),
        brief=words <= BRIEF,
    )


def _polite_ja(text: str) -> bool:
    """Every sentence ends politely and none opens casually: mixed registers are not polite."""
    sentences = [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]
    return bool(sentences) and all(
        _POLITE_END.search(sentence) and not _CASUAL_OPENING.search(sentence) for sentence in sentences
    )


def _polite_en(text: str) -> bool:
    return bool(_POLITE_FRAME.search(text)) and not _CASUAL_FRAME.search(text)
