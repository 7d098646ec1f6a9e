"""The folders of a workspace's rounds, W/rounds/NNNN, for whoever looks at them. No torch."""

from __future__ import annotations

import json
from pathlib import Path

from tomoni.durable import atomic_write

FOLDER = "rounds"


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


def close(folder: Path, why: str) -> None:
    atomic_write(folder / "closed.json", json.dumps({"why": why}, ensure_ascii=False) + "\n")
