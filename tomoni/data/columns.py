"""The columns of rows as files: their types, and the writer of a store. No torch.

Every column is one file over all rows, so that a store without, say, advantages has an empty file and pays nothing.
A row's entry in rows.bin is [length, start in each column or -1, place of its label or -1].
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoni.rows import Item, Label, Row

BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    dtype: str
    shape: tuple[int, ...] = ()


COLUMNS = (
    Column("tokens", "<i4"),
    Column("weights", "<f4"),
    Column("targets", "<i4"),
    Column("segments", "|i1"),
    Column("offsets", "<i4", (2,)),
    Column("behaviour", "<f4"),
    Column("reference", "<f4"),
    Column("advantages", "<f4"),
    Column("returns", "<f4"),
    Column("values", "<f4"),
)
NAMES = tuple(column.name for column in COLUMNS)


class _File:
    """One file, hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self.handle = path.open("wb", buffering=BUFFER)
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self.handle.write(data)
        self.hash.update(data)
        self.size += len(data)

    def close(self) -> None:
        self.handle.flush()
        os.fsync(self.handle.fileno())
        self.handle.close()


class Writer:
    """Writes items into a folder; memory does not grow with their number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.items = self.rows = self.tokens = 0
        self._ends = dict.fromkeys(NAMES, 0)  # values written to each column
        self._out = {
            name: _File(folder / f"{name}.bin") for name in (*NAMES, "items", "facts", "rows", "ids", "labels", "about")
        }

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._end_of_item()  # so that items[i + 1] exists for the last item
        for file in self._out.values():
            file.close()

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """Size and SHA-256 of every file; complete after the writer is closed."""
        return {
            f"{name}.bin": {"bytes": file.size, "sha256": file.hash.hexdigest()} for name, file in self._out.items()
        }

    def add(self, item: Item) -> None:
        self._end_of_item()
        self._out["facts"].write(np.asarray([item.weight, item.margin, item.noise], dtype="<f8").tobytes())
        self._out["ids"].write(item.id.encode("utf-8"))
        if item.about:
            self._out["about"].write(json.dumps(item.about, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        for row in item.rows:
            self._row(row)
        self.items += 1

    def _end_of_item(self) -> None:
        self._out["items"].write(
            np.asarray([self.rows, self._out["ids"].size, self._out["about"].size], dtype="<i8").tobytes()
        )

    def _row(self, row: Row) -> None:
        entry = array("q", [len(row)])
        for column in COLUMNS:
            values = getattr(row, column.name)
            entry.append(-1 if values is None else self._ends[column.name])
            if values is not None:
                self._out[column.name].write(np.ascontiguousarray(values, dtype=column.dtype).tobytes())
                self._ends[column.name] += len(row)
        entry.append(-1 if row.label is None else self._out["labels"].size)
        if row.label is not None:
            self._out["labels"].write(label_bytes(row.label))
        self._out["rows"].write(np.asarray(entry, dtype="<i8").tobytes())
        self.rows += 1
        self.tokens += len(row)


def label_bytes(label: Label) -> bytes:
    """A label as one line of JSON with its kind; floats keep every bit."""
    match label:
        case np.ndarray():
            plain: Any = [str(label.dtype), label.tolist()]
        case tuple():
            plain = ["span", list(label)]
        case float() | np.floating():
            plain = ["float", float(label)]
        case _:
            plain = ["int", int(label)]
    return json.dumps(plain).encode() + b"\n"


def label_from(stored: NDArray[np.uint8], start: int) -> Label:
    end = start
    while stored[end] != 10:  # the line's end
        end += 1
    kind, value = json.loads(bytes(stored[start:end]))
    if kind == "span":
        return (value[0], value[1])
    if kind in ("float", "int"):
        return value  # type: ignore[no-any-return]
    return np.asarray(value, dtype=kind)
