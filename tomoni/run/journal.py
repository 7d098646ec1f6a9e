"""Files that grow by a line a step, metrics.jsonl and ledger.jsonl, cut back exactly where a run is taken up again.

A checkpoint remembers how many bytes each had and their SHA-256. Whatever a killed run wrote after the checkpoint is
cut off on resume and written again by the same steps, so that an interrupted run ends with the ledger of an
uninterrupted one. No torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tomoni.durable import naming_disk, sync


class Journal:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._hash = hashlib.sha256()
        self._bytes = 0
        with naming_disk(path, 0):
            self._file = path.open("ab", buffering=0)

    def append(self, line: Mapping[str, Any]) -> None:
        raw = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        with naming_disk(self.path, len(raw)):
            written = self._file.write(raw)
            while written < len(raw):  # a disk that is filling up takes a part
                written += self._file.write(raw[written:])
        self._hash.update(raw)
        self._bytes += len(raw)

    def position(self) -> dict[str, Any]:
        """Bring what was written to the disk; where a resumed run goes on."""
        with naming_disk(self.path, 0):
            sync(self.path)
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}

    def cut(self, position: Mapping[str, Any] | None) -> bool:
        """Cut the file back to `position` (None: to nothing). False where the file does not hold what it held then: it
        is set aside as damaged-… and a new one begins."""
        self._hash, self._bytes = hashlib.sha256(), 0
        wanted = position["bytes"] if position else 0
        for chunk in _chunks(self.path, wanted):
            self._hash.update(chunk)
            self._bytes += len(chunk)
        if position is None or (self._bytes == wanted and self._hash.hexdigest() == position["sha256"]):
            with naming_disk(self.path, 0):
                os.truncate(self.path, wanted)
            return True
        self._file.close()
        with naming_disk(self.path, 0):
            self.path.rename(self.path.with_name("damaged-" + self.path.name))
            self._file = self.path.open("ab", buffering=0)
        self._hash, self._bytes = hashlib.sha256(), 0
        return False

    def close(self) -> None:
        self._file.close()


def _chunks(path: Path, length: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while length > 0 and (chunk := file.read(min(length, 1 << 20))):
            length -= len(chunk)
            yield chunk
