"""Where a run's folder holds what it trained. No torch."""

from __future__ import annotations

from pathlib import Path

from tomoni.errors import RunError

RESULTS = ("model", "adapter")  # where a run leaves what it trained


def result_of(name: str | Path) -> str | Path:
    """The model or adapter inside a run's folder; any other name as it is."""
    folder = Path(name).expanduser()
    if not (folder / "config.yaml").is_file() or (folder / "config.json").is_file():
        return name
    for result in RESULTS:
        if (folder / result).is_dir():
            return folder / result
    raise RunError(
        f"the run in {folder} has no result yet",
        choices=[f"{folder / result}" for result in RESULTS],
        next_step="let the run finish: the same command that began it goes on from its last checkpoint",
    )
