"""Answers to a few prompts on a terminal: a block for each prompt, a line for each answer, cut to the width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

LABEL = 20  # columns of a label at most


@dataclass(frozen=True, slots=True)
class Block:
    """What was asked, and labelled answers to it."""

    asked: str
    answers: Sequence[tuple[str, str]]


def show(console: Console, blocks: Sequence[Block]) -> None:
    """Four blocks of three answers fit on a screen of 24 lines."""
    from rich.text import Text

    widest = max((len(label) for block in blocks for label, _ in block.answers), default=0)
    for number, block in enumerate(blocks, start=1):
        lines = [Text.assemble((f"{number:>2}  ", "dim"), (one_line(block.asked), "bold"))]
        for label, answer in block.answers:
            lines.append(Text.assemble((f"    {label:<{widest}}  ", "dim"), one_line(answer)))
        for line in lines:
            line.truncate(console.width, overflow="ellipsis")
            console.print(line, soft_wrap=True)


def one_line(text: str) -> str:
    """A model's or a file's text, so that it neither steers the terminal nor takes more than one line."""
    return harmless(" ".join(text.split()))


def harmless(text: str) -> str:
    """What a model says must not steer the terminal: control characters become a visible mark."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\u3000" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def short_name(name: str) -> str:
    """A model's name as a heading: of a long path only its end."""
    if len(name) <= LABEL or "/" not in name:
        return name
    tail = ""
    for part in reversed(Path(name).parts):
        if len(part) + len(tail) > LABEL - 2:
            break
        tail = f"/{part}{tail}"
    return f"…{tail}" if tail else f"…{name[1 - LABEL :]}"
