"""Files that survive: write aside, fsync, rename, fsync the folder; and what a disk says, in words. No torch.

    atomic_write(path, data)    a small file is the old one or the new one, whenever the machine stops
    write_object(path, body)    the same for a JSON object
    read_object(path)           a small JSON file that another program wrote, if it can be read
    sync(path)                  a file or a folder is on the disk
    naming_disk(path, bytes)    what the operating system says of a disk becomes a DiskError that names the path

What an fsync that fails has lost is not known, so it is never tried again: the write is given up and said
(`DiskError`), and what was there before stays.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tomoni.errors import DiskError

STAGING = ".staging-"  # + final name: being written; worthless after a crash
MARGIN = 1 << 20  # bytes left free besides what a write needs: file-system blocks, logs


def atomic_write(path: Path, data: bytes | str) -> None:
    """`path` holds the old content or all of `data`, also after a crash."""
    raw = data.encode() if isinstance(data, str) else data
    with naming_disk(path, len(raw)):
        staging = path.with_name(STAGING + path.name)
        try:
            write_synced(staging, raw)
            os.replace(staging, path)
        except Exception:
            with contextlib.suppress(OSError):
                staging.unlink()
            raise
        sync(path.parent)


def write_object(path: Path, body: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """A JSON object, one line where `indent` is None; what `read_object` reads."""
    atomic_write(path, json.dumps(body, indent=indent, ensure_ascii=False) + "\n")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object for show; empty where there is none, or where what is there is damaged or something else."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(path: Path, raw: bytes) -> None:
    """Write a whole file and bring it to the disk; its name is safe only once its folder is synced too."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        view = memoryview(raw)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


# -- space and errors ------------------------------------------------------------------------------------------------

_DISK_ERRORS = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write",
    errno.EPERM: "no permission to write",
    errno.EIO: "the disk reports an error",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOTDIR: "a part of the path is a file",
}
_FREE_SPACE = "free some space, then start again with the same command: the run goes on from its last checkpoint"
_NEXT_STEPS = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EIO: "check the disk; what was saved before is unharmed",
}


def require_space(folder: Path, bytes_needed: int) -> None:
    """DiskError unless the disk of `folder` (which exists) has room for `bytes_needed` and a margin."""
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if free < bytes_needed + MARGIN:
        raise DiskError(
            f"no space in {folder}: {bytes_needed:,} bytes are needed and {free:,} are free",
            next_step=_FREE_SPACE,
        )


@contextlib.contextmanager
def naming_disk(path: Path, bytes_needed: int) -> Iterator[None]:
    """Turn what the operating system says about a disk into a DiskError that names the path and the bytes."""
    try:
        yield
    except Exception as error:
        code = _errno_of(error)
        if code not in _DISK_ERRORS or isinstance(error, DiskError):
            raise
        needs = f" ({bytes_needed:,} bytes are needed)" if bytes_needed else ""
        raise DiskError(
            f"{path} cannot be written: {_DISK_ERRORS[code]}{needs}",
            next_step=_NEXT_STEPS.get(code, "choose a folder that you may write to"),
        ) from error


def _errno_of(error: Exception) -> int | None:
    """safetensors has an error of its own, which carries the operating system's number in its text."""
    if isinstance(error, OSError):
        return error.errno
    if type(error).__name__ == "SafetensorError" and (found := re.search(r"os error (\d+)", str(error))):
        return int(found[1])
    return None
