"""The folders of a workspace's rounds, W/rounds/NNNN, for whoever looks at them. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tomoni.durable import write_object

FOLDER = "rounds"
PREFERENCE = ("preferred", "worse", "hardly_better", "not_sure_yet")  # the gate's reasons that tell of the win rate
LOCK = "lock"  # in it: held while a round is played
OWNERS = (
    "<!--owner-->",
    "<!--/owner-->",
)  # around what a report says of single people; no text can hold them, unescaped


def rounds(workspace: Path) -> list[Path]:
    """Oldest first."""
    root = workspace / FOLDER
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if path.name.isdigit() and (path / "round.json").is_file()]
    return sorted(found, key=lambda path: int(path.name))


def is_open(folder: Path) -> bool:
    """Whether it is still to be decided."""
    return folder.is_dir() and not (folder / "promotion" / "stage.json").exists() and not is_closed(folder)


def is_closed(folder: Path) -> bool:
    """Whether it was given up."""
    return (folder / "closed.json").exists()


def ended(folder: Path) -> Literal["promoted", "kept", "closed"] | None:
    """How it ended; None while it is open. By what was decided, not by the report, which is written afterwards."""
    if is_closed(folder):
        return "closed"
    if is_open(folder):
        return None
    try:
        output = json.loads((folder / "promotion" / "stage.json").read_text(encoding="utf-8"))["output"]
        return "promoted" if output["promoted"] is True else "kept"
    except (OSError, ValueError, KeyError, TypeError):
        return "kept"


def at_random(reasons: Sequence[Mapping[str, Any]]) -> int | None:
    """Of a report's reasons: how many pairs the win rate is of, those drawn for all prompts and not for single topics."""
    counts = (one["numbers"].get("n") for one in reasons if one["key"] in PREFERENCE)
    found = next(counts, None)
    return None if found is None else int(found)


def for_everybody(page: str) -> str:
    """A report without what it says of single people."""
    begin, end = OWNERS
    first, *rest = page.split(begin)
    return first + "".join(part.partition(end)[2] for part in rest)


def close(folder: Path, why: str) -> None:
    write_object(folder / "closed.json", {"why": why}, indent=None)
