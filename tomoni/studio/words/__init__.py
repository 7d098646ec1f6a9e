"""What the studio says, in Japanese and English: a JSON file a language, both with the same keys.

A key is `page.what`. `{name}` in a text is filled in; numbers are written with separators. A text that depends on a
count has a second key with `.one`. Where a page builds a key from a value ("stage." + stage), the family stands before
the dot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

Lang = Literal["ja", "en"]
LANGS: tuple[Lang, ...] = get_args(Lang)


@cache
def catalogue(lang: Lang) -> Mapping[str, str]:
    found: dict[str, str] = json.loads((Path(__file__).parent / f"{lang}.json").read_text(encoding="utf-8"))
    return found


class Words:
    """The texts of one language; called with a key and the values to fill in."""

    def __init__(self, lang: Lang) -> None:
        self.lang = lang
        self.texts = catalogue(lang)

    def __call__(self, key: str, /, **values: Any) -> str:
        """KeyError for a key that is not there: a page that lacks a word must not pass its test."""
        if values.get("n") == 1 and f"{key}.one" in self.texts:
            key += ".one"
        return self.texts[key].format(**{name: written(value) for name, value in values.items()})

    def known(self, key: str, otherwise: str) -> str:
        """The text, or `otherwise` where a value from outside has no words."""
        return self.texts.get(key, otherwise)

    def of(self, *families: str) -> dict[str, str]:
        """The keys that a page's script needs."""
        return {key: text for key, text in self.texts.items() if key.partition(".")[0] in families}


def written(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def chosen(accept: Iterable[str | None]) -> Lang:
    """The first language that is asked for and known; of an Accept-Language header, the known one it likes best."""
    for text in accept:
        for part in sorted((text or "").split(","), key=_liking, reverse=True):  # stable: equals stay in order
            name = part.partition(";")[0].strip().lower()[:2]
            for lang in LANGS:
                if name == lang and _liking(part) > 0:
                    return lang
    return "en"


def _liking(part: str) -> float:
    """The q of "ja;q=0.8" (RFC 9110, 12.4.2); 1 where none is told, 0 where it makes no sense."""
    _, told, value = part.partition(";")
    if not told:
        return 1.0
    found = re.fullmatch(r"\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*", value, re.IGNORECASE)
    return float(found[1]) if found else 0.0
