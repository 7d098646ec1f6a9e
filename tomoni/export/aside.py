"""An export is written aside and gets its name by one rename, so that nobody finds half of one.

    .exporting-xxxxxxxx/lock       held by the process that exports: what nobody holds was left by one that was killed
    .exporting-xxxxxxxx/files/     being written
    .exporting-xxxxxxxx/sealed/    complete, with its manifest, on the disk; this is what is renamed

That the rename will be possible is tried before any work.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from tomoni import locking
from tomoni.durable import naming_disk, sync
from tomoni.engine.checkpoint import commit
from tomoni.errors import DiskError, RunError

PREFIX: Final = ".exporting-"
LOCK: Final = "lock"
FAILED: Final = "-failed"
OTHER_NAMES: Final = 20  # that are tried where something came to stand in the output's place while it was made
_IN_THE_WAY: Final = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EBUSY)


def failed(output: Path) -> Path:
    return output.with_name(output.name + FAILED)


def refuse_output(output: Path) -> Path:
    """The folder that is there already and that all will stand in. Raises RunError where that cannot be, or where the
    output, or the folder it gets if parity fails, holds something."""
    if os.path.realpath(output) == os.path.realpath("."):
        raise RunError("the working directory cannot be the output", next_step="name a folder in it: --output NAME")
    if not output.name:
        raise RunError(f"--output {output} is no folder that could be made", next_step="name a new folder")
    above = _above(output)
    if len(os.fsencode(failed(output).name)) > os.pathconf(above, "PC_NAME_MAX"):
        raise RunError(f"the name {output.name!r} is too long for a folder", next_step="choose a shorter --output")
    for folder in (output, failed(output)):
        if folder.is_symlink() or os.path.ismount(folder):
            raise RunError(
                f"{folder} is a link or a mount point; a finished export takes its place by one rename",
                next_step=f"name a folder inside it: --output {folder / 'model'}",
            )
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(
                f"{folder} exists and is not empty",
                next_step="choose another --output, or remove it if it is not needed",
            )
    return above


def _above(output: Path) -> Path:
    try:
        for folder in output.parents:
            if folder.exists():
                break
            if folder.is_symlink():
                raise RunError(f"{folder} is a link to nowhere", next_step="mend the link, or choose another --output")
    except OSError as error:  # a name in it is too long, or may not be looked at
        raise RunError(
            f"--output {output} is no folder that could be made: {error.strerror}", next_step="choose another --output"
        ) from error
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise RunError(f"{folder} is not a folder that can be written to", next_step="choose another --output")
    return folder


def sweep(folder: Path) -> None:
    """Remove what exports that were killed have left in a folder. One that is being made is held by its process, and
    stays; so does what is no export's."""
    for left in sorted(folder.glob(PREFIX + "*")):
        if left.is_symlink() or not left.is_dir():
            continue
        with suppress(OSError):
            left.rmdir()  # killed before it had its lock
        if (left / LOCK).is_file():
            with suppress(locking.Taken, DiskError, OSError), locking.take(left / LOCK):
                _clear(left)


def _clear(folder: Path) -> None:
    """The lock goes last: what is left of a removal that is killed is swept too."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink(missing_ok=True)
    (folder / LOCK).unlink(missing_ok=True)
    folder.rmdir()


class Aside:
    """A folder for what is being exported to `output`; a context manager that leaves nothing behind but what
    `put_in_place` named. Raises RunError and DiskError where the output could not get its name in the end."""

    def __init__(self, output: Path) -> None:
        self._made = [folder for folder in output.parents if not folder.exists()]
        try:
            with naming_disk(output, 0):
                output.parent.mkdir(parents=True, exist_ok=True)
                self.root, self._lock = _begun(output.parent)
        except BaseException:
            self._remove_parents()
            raise
        try:
            with naming_disk(output, 0):
                self.files = self.root / "files"
                self.files.mkdir()
                for folder in (output, failed(output)):
                    self._try_to_name(folder)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Aside:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        with suppress(OSError):
            _clear(self.root)
        self._lock.close()
        self._remove_parents()

    def put_in_place(self, folder: Path) -> Path:
        """Seal `files` and give them the name `folder`; one beside it where something stands there by now. What it
        became."""
        sealed = self.root / "sealed"

        def fill(staging: Path) -> None:
            for path in sorted(self.files.iterdir()):
                path.rename(staging / path.name)

        commit(sealed, fill, bytes_needed=0)
        others = (folder.with_name(f"{folder.name}-{number}") for number in range(2, OTHER_NAMES))
        with naming_disk(folder, 0):
            for name in (folder, *others):
                try:
                    os.rename(sealed, name)  # over an empty folder, too
                except OSError as error:
                    if error.errno not in _IN_THE_WAY:
                        raise
                    continue
                sync(name.parent)
                return name
        raise RunError(f"{folder} and the names after it are taken", next_step="remove them, then export again")

    def _try_to_name(self, folder: Path) -> None:
        """Rename as at the end, with nothing in it: not every mount, and not every right, can be seen by looking."""
        probe = self.root / "probe"
        try:
            if folder.exists():
                os.rename(folder, probe)
                os.rename(probe, folder)
            else:
                probe.mkdir()
                os.rename(probe, folder)
                folder.rmdir()
        except OSError as error:
            if error.errno == errno.EXDEV and folder.exists():
                return  # of an image's layer (overlayfs): it cannot be moved away, and may yet be replaced
            raise RunError(
                f"{folder} could not be put in place by a rename when it is finished: {error.strerror}",
                next_step="choose another --output, on a local disk",
            ) from error

    def _remove_parents(self) -> None:
        with suppress(OSError):
            for folder in self._made:  # the deepest first; one that holds something stays
                folder.rmdir()


def _begun(parent: Path) -> tuple[Path, locking.Lock]:
    """A new folder and the lock in it. Whoever sweeps may take it for one that was left, until it is locked."""
    while True:
        root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        try:
            lock = locking.take(root / LOCK)
        except locking.Taken:
            continue
        except DiskError:
            if not root.exists():
                continue
            with suppress(OSError):
                _clear(root)
            raise
        if (root / LOCK).exists():
            return root, lock
        lock.close()
