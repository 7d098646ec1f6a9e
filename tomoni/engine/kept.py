"""Outputs of frozen layers on disk: computed once a row, read through memory maps ever after.

A store is a folder named by all that decides its content but the rows: weights, config, arithmetic, versions (see
`frozen.fingerprint`). In it every process that ever wrote has a pair of files of its own, so that any number of runs
share a store without a lock; each reads what stood there when it began, and what it wrote itself.

    NAME.states    the rows' states, one row after another, float32 or float16
    NAME.index     an entry a row: key, where, how long, checksum of the states, checksum of the entry

A row's states are written first, its entry after them, so a process that is killed leaves no entry without its states.
Nothing is brought to the disk by force (fsync): where a machine loses power an entry may outlive its states. Therefore
every row's checksum is compared when a process first reads it. What does not compare is computed again: a store can
be slow to fill, never wrong. No torch, no pickle.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENTRY = struct.Struct("<16sqqI")  # key, first token, tokens, checksum of the states
CHECKED = struct.Struct("<I")  # checksum of the entry
STATES, INDEX = ".states", ".index"
SHARE = 4  # at most a quarter of the free disk

States = NDArray[np.generic]  # [T, D], float32 or float16


class KeptOutputs:
    """States [T, D] by the row's key (16 bytes). `room` is how many bytes of states this process may
    add (the index adds 40 bytes a row).

    `trouble` says what went wrong last, until it is taken away; safe to use from several threads.
    """

    def __init__(self, folder: Path, *, width: int, dtype: str, room: int) -> None:
        self.folder = folder
        self.width = width
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.room = room
        self.trouble: str | None = None
        self._rows: dict[bytes, tuple[_Part, int, int, int]] = {}  # part, first token, tokens, checksum
        self._compared: set[bytes] = set()
        self._own: _Writer | None = None
        self._lock = threading.Lock()
        for index in sorted(folder.glob("*" + INDEX)) if folder.is_dir() else []:
            self._open(index)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def get(self, key: bytes) -> States | None:
        """A view of the row's states; None where they are not there, or not what was written."""
        with self._lock:
            found = self._rows.get(key)
            if found is None:
                return None
            part, first, length, checksum = found
            states = part.read(first, length)
            if states is not None and (key in self._compared or zlib.crc32(states.data) == checksum):
                self._compared.add(key)
                return states
            del self._rows[key]
            self.trouble = f"kept outputs in {part.path} are damaged; what is damaged is computed again"
            return None

    def put(self, key: bytes, states: States) -> bool:
        """Keep a row's states; False where there is no room. A disk that fails takes no more and gives its room back."""
        with self._lock:
            if key in self._rows:
                return True
            data = np.ascontiguousarray(states, dtype=self.dtype)
            if data.nbytes > self.room:
                return False
            try:
                if self._own is None:
                    self._own = _Writer(self.folder, self.width, self.dtype)
                first, checksum = self._own.append(key, data)
            except OSError as error:
                self._give_up(error)
                return False
            self.room -= data.nbytes
            self._rows[key] = (self._own.part, first, len(data), checksum)
            self._compared.add(key)
            return True

    def take_trouble(self) -> str | None:
        """What went wrong since this was last asked."""
        with self._lock:
            trouble, self.trouble = self.trouble, None
            return trouble

    def close(self) -> None:
        if self._own is not None:
            self._own.close()
            self._own = None
        self.room = 0

    def _open(self, index: Path) -> None:
        """Take up what another process wrote, as far as it is whole."""
        part = _Part(index.with_suffix(STATES), self.width, self.dtype)
        try:
            raw = index.read_bytes()
            tokens = part.tokens()
            os.utime(index)  # used: what was used last is put away last
        except OSError:
            return
        for key, first, length, checksum in _entries(raw):
            if first + length > tokens:
                self.trouble = f"{part.path} is shorter than it was; what is missing is computed again"
            else:
                self._rows.setdefault(key, (part, first, length, checksum))

    def _give_up(self, error: OSError) -> None:
        """No more is kept; what this process had written goes too, for whoever needs the disk more."""
        self.room = 0
        self.trouble = (
            f"outputs of frozen layers cannot be kept in {self.folder}: {error.strerror or error}; "
            "from here on they are computed again each time"
        )
        if self._own is not None:
            own = self._own.part
            self._rows = {key: found for key, found in self._rows.items() if found[0] is not own}
            self._own.close()
            self._own = None
            for path in (own.path.with_suffix(INDEX), own.path):
                with contextlib.suppress(OSError):
                    path.unlink()


class _Part:
    """One process's states, mapped as far as they have been written."""

    def __init__(self, path: Path, width: int, dtype: np.dtype[Any]) -> None:
        self.path = path
        self.width = width
        self.dtype = dtype
        self._map: States | None = None

    def tokens(self) -> int:
        return self.path.stat().st_size // (self.width * self.dtype.itemsize)

    def read(self, first: int, length: int) -> States | None:
        """A view [length, D]; None where the file is not that long, now: reading a map beyond its file's end would
        end the process."""
        try:
            tokens = self.tokens()
            if first + length > tokens:
                return None
            if self._map is None or first + length > len(self._map):
                self._map = np.memmap(self.path, dtype=self.dtype, mode="r", shape=(tokens, self.width)).view(
                    np.ndarray
                )
        except OSError:
            return None
        return self._map[first : first + length]


class _Writer:
    """This process's own pair of files, by a name that no other has."""

    def __init__(self, folder: Path, width: int, dtype: np.dtype[Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{os.getpid()}-{secrets.token_hex(6)}{STATES}"
        self.part = _Part(path, width, dtype)
        self._states = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            self._index = os.open(path.with_suffix(INDEX), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        except OSError:
            os.close(self._states)
            raise
        self._tokens = 0

    def append(self, key: bytes, states: States) -> tuple[int, int]:
        """The states' first token and their checksum; OSError where the disk takes them not."""
        first, checksum = self._tokens, zlib.crc32(states.data)
        if os.fstat(self._states).st_size != first * states.shape[1] * states.itemsize:
            # written on at its old place, a file that was cut would hold zeros where rows were
            raise OSError(errno.EIO, "the file was changed from outside")
        _write(self._states, states.reshape(-1).view(np.uint8).data)
        entry = ENTRY.pack(key, first, len(states), checksum)
        _write(self._index, memoryview(entry + CHECKED.pack(zlib.crc32(entry))))
        self._tokens += len(states)
        return first, checksum

    def close(self) -> None:
        os.close(self._states)
        os.close(self._index)


def _write(handle: int, data: memoryview) -> None:
    while len(data):  # a disk that is filling up takes a part
        data = data[os.write(handle, data) :]


def _entries(raw: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """Up to the first that is not whole; an entry torn by a crash is the last one."""
    size = ENTRY.size + CHECKED.size
    for start in range(0, len(raw) - size + 1, size):
        entry = raw[start : start + ENTRY.size]
        if CHECKED.unpack_from(raw, start + ENTRY.size)[0] != zlib.crc32(entry):
            return
        key, first, length, checksum = ENTRY.unpack(entry)
        if first < 0 or length <= 0:
            return
        yield key, first, length, checksum


# -- room ----------------------------------------------------------------------------------------------------------


def make_room(root: Path, name: str, needed: int) -> int | None:
    """How many bytes may be added to the store `name` under `root`, which is to hold `needed`; None where they are too
    many: all stores together take at most a quarter of the disk that is free without them. Older stores' files go
    first where that is what it takes; a process that still reads them can do so until it ends (POSIX)."""
    files = sorted(_files(root), key=lambda file: file[1])
    free = shutil.disk_usage(_existing(root)).free
    allowed = (free + sum(size for _, _, size in files)) // SHARE
    own = sum(size for path, _, size in files if path.parent.name == name)
    if needed > allowed:
        return None
    others = [(path, size) for path, _, size in files if path.parent.name != name]
    held = sum(size for _, size in others)
    for path, size in others:
        if held + max(needed, own) <= allowed:
            break
        with contextlib.suppress(OSError):
            path.with_suffix(INDEX).unlink(missing_ok=True)
            path.unlink()
            held -= size
    return max(0, min(needed, allowed - held - own))


def _files(root: Path) -> Iterator[tuple[Path, float, int]]:
    """States under `root`, when they were last taken up, and the disk that they hold."""
    for path in root.glob("*/*" + STATES):
        with contextlib.suppress(OSError):
            facts = path.stat()
            index = path.with_suffix(INDEX)
            used = index.stat().st_mtime if index.exists() else facts.st_mtime
            yield path, used, facts.st_size


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
