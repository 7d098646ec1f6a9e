"""What a form makes of a row, and the checks that all forms share. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tomoni.data.badrows import BadValue
from tomoni.records import Record


@dataclass(frozen=True, slots=True)
class Made:
    """A record's content before it has an id; `content` is what the id is hashed from."""

    content: Any
    build: Callable[[str], Record]


def text_of(value: Any, column: str, *, empty: bool = False) -> str:
    """The value, which must be a string of valid characters; white space alone counts as empty."""
    if not isinstance(value, str):
        raise BadValue("not_text", f"{column} is {kind_of_value(value)}")
    if not empty and not value.strip():
        raise BadValue("empty", column)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadValue("lone_surrogate", f"{column}: U+{ord(value[error.start]):04X}") from None
    return value


def kind_of_value(value: Any) -> str:
    names = {
        type(None): "null",
        bool: "a boolean",
        str: "text",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)


def list_of(value: Any, column: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadValue("not_a_list", f"{column} is {kind_of_value(value)}")
    return value
