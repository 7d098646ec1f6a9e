"""Folders that survive: filled aside, hashed, brought to the disk, renamed into place (see `durable`). No torch.

A checkpoint is a folder with any files and `manifest.json`, which names every other file with its size and SHA-256 and
carries a hash of itself. Neither safetensors nor the file system notices a flipped bit or a tail of zeros; the manifest
does, at every load. A folder is written under a staging name beside its place and renamed only when all of it is on the
disk, so that whoever looks, at whatever moment the machine stopped, finds the old state or the new one.

    commit(final, write, bytes_needed=…)   write(staging) fills the folder; afterwards `final` is it
    verify(folder)                         CheckpointError naming each file that is not as it was written
    newest_whole(root)                     the last whole checkpoint under root, and the damaged ones met on the way
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomoni.durable import STAGING, naming_disk, require_space, sync, write_synced
from tomoni.errors import CheckpointError

FORMAT = 1
MANIFEST = "manifest.json"
REPLACED = ".replaced-"  # + final name: the old folder while its successor is put in place; comes back after a crash
DISCARDED = ".discarded-"  # + final name: being deleted
DAMAGED = "damaged-"  # + step name: set aside for people to look at
STEP_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, slots=True)
class Damaged:
    folder: Path
    reason: str


# -- one folder ------------------------------------------------------------------------------------------------------


def commit(final: Path, write: Callable[[Path], None], *, bytes_needed: int) -> None:
    """Make `final` the folder that `write` fills; atomic and durable. A folder that was there before is replaced.

    `bytes_needed` is checked against the free space first. Raises DiskError (no space, no permission, read-only,
    failing disk); what stood at `final` before is then unharmed.
    """
    with naming_disk(final, bytes_needed):
        final.parent.mkdir(parents=True, exist_ok=True)
        require_space(final.parent, bytes_needed)
        staging = _beside(final, STAGING)
        _remove(staging)
        try:
            os.mkdir(staging)
            write(staging)
            _seal(staging)
            _put_in_place(staging, final)
        except Exception:
            shutil.rmtree(staging, ignore_errors=True)
            raise


def verify(folder: Path) -> None:
    """Read every byte and compare with the manifest; CheckpointError names all that is not as it was written."""
    problems = _problems(folder)
    if problems:
        raise CheckpointError(
            f"{folder} is damaged: " + "; ".join(problems),
            next_step="use another checkpoint, or restore these files from a copy",
        )


def is_whole(folder: Path) -> bool:
    """`verify` as a question."""
    return not _problems(folder)


def _seal(staging: Path) -> None:
    """Bring every file to the disk, then the manifest, then the folders."""
    files = {}
    for path in _files(staging):
        files[path.relative_to(staging).as_posix()] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        sync(path)
    write_synced(staging / MANIFEST, _manifest_bytes(files))
    for folder, _, _ in os.walk(staging, topdown=False):
        sync(Path(folder))


def _put_in_place(staging: Path, final: Path) -> None:
    old = _beside(final, REPLACED)
    if final.exists():
        _remove(old)
        os.rename(final, old)
    try:
        os.rename(staging, final)
    except OSError:
        if old.exists():
            os.rename(old, final)
        raise
    sync(final.parent)
    _remove(old)


def _problems(folder: Path) -> list[str]:
    if not folder.is_dir():
        return ["there is no such folder"]
    try:
        raw = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except OSError as error:
        return [f"{MANIFEST} cannot be read ({error.strerror})"]
    files = _parse_manifest(raw)
    if isinstance(files, str):
        return [f"{MANIFEST}: {files}"]
    present = {path.relative_to(folder).as_posix() for path in _files(folder)} - {MANIFEST}
    problems = [f"{name} is missing" for name in sorted(files.keys() - present)]
    problems += [f"{name} is not in the manifest" for name in sorted(present - files.keys())]
    for name in sorted(files.keys() & present):
        problem = _file_problem(folder / name, files[name])
        problems += [f"{name} {problem}"] if problem else []
    return problems


def _file_problem(path: Path, expected: dict[str, Any]) -> str | None:
    try:
        if path.is_symlink():
            return "is a link"
        size = path.stat().st_size
        if size != expected["bytes"]:
            return f"has {size} bytes instead of {expected['bytes']}"
        return None if _sha256(path) == expected["sha256"] else "has other content than was written"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _manifest_bytes(files: dict[str, dict[str, Any]]) -> bytes:
    body = {"format": FORMAT, "files": dict(sorted(files.items()))}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**body, "sha256": digest}, indent=1) + "\n").encode()


def _parse_manifest(raw: bytes) -> dict[str, dict[str, Any]] | str:
    """The files it names, or what is wrong with it. Every byte counts: it must be exactly as it would be written."""
    try:
        body = json.loads(raw)
        files = body["files"]
        if body["format"] != FORMAT:
            return f"format {body['format']!r} is not known to this version"
        if raw != _manifest_bytes(files):
            return "has other content than was written"
        return dict(files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "is not a manifest"


# -- the checkpoints of a run ----------------------------------------------------------------------------------------


def step_folder(root: Path, step: int) -> Path:
    """`step` counts finished updates."""
    return root / f"step-{step:06d}"


def step_folders(root: Path) -> list[Path]:
    """All step folders, whole or not, oldest first."""
    if not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if STEP_NAME.fullmatch(path.name)), key=step_of)


def step_of(folder: Path) -> int:
    match = STEP_NAME.fullmatch(folder.name)
    if match is None:
        raise ValueError(f"{folder} is not a step's folder")
    return int(match[1])


def newest_whole(root: Path) -> tuple[Path | None, list[Damaged]]:
    """The newest checkpoint that verifies, and the newer ones that do not. Older ones are not looked at."""
    recover(root)
    damaged: list[Damaged] = []
    for folder in reversed(step_folders(root)):
        try:
            verify(folder)
            return folder, damaged
        except CheckpointError as error:
            damaged.append(Damaged(folder, error.what))
    return None, damaged


def set_aside(folder: Path) -> Path:
    """Give a damaged checkpoint a name under which it counts for nothing."""
    aside = folder.with_name(DAMAGED + folder.name)
    with naming_disk(folder, 0):
        _remove(aside)
        os.rename(folder, aside)
        sync(folder.parent)
    return aside


def retain(root: Path, *, newest: int, also: Path | None = None) -> list[Path]:
    """Delete all step folders but the `newest` and `also` (the best); returns the deleted ones."""
    gone = [folder for folder in step_folders(root)[:-newest] if also is None or folder.name != also.name]
    for folder in gone:
        _remove(folder)
    return gone


def recover(root: Path) -> None:
    """Clear away what a crash left under `root`: unfinished folders go, a replaced one without successor comes back."""
    if not root.is_dir():
        return
    with naming_disk(root, 0):
        for path in sorted(root.iterdir()):
            if path.name.startswith(REPLACED):
                final = path.with_name(path.name.removeprefix(REPLACED))
                if not final.exists():
                    os.rename(path, final)
                    sync(root)
                    continue
            if path.name.startswith((STAGING, REPLACED, DISCARDED)):
                _delete(path)


# -- small things ----------------------------------------------------------------------------------------------------


def _beside(path: Path, prefix: str) -> Path:
    return path.with_name(prefix + path.name)


def _files(folder: Path) -> list[Path]:
    return sorted(Path(root) / name for root, _, names in os.walk(folder) for name in names)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    """Delete a folder so that no crash leaves a part of it under its own name."""
    if not path.exists():
        return
    if path.name.startswith((STAGING, DISCARDED)):
        _delete(path)
        return
    discarded = path.with_name(DISCARDED + path.name.removeprefix(REPLACED))
    _delete(discarded)
    os.rename(path, discarded)
    _delete(discarded)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
