"""Items on disk, tokenised once: raw little-endian arrays, a manifest with their SHA-256, read through memory maps.

A store is a folder named by its key, which hashes everything that decides its content. It is written beside its place
and renamed into it, so that it is there whole or not at all; two processes that build the same store do not disturb
each other: the first rename wins, and both go on with the same bytes. No torch, no pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoni.data.columns import COLUMNS, NAMES, Writer, label_from
from tomoni.data.render import TooLong
from tomoni.durable import sync
from tomoni.errors import DataError, DiskError
from tomoni.records import Record
from tomoni.rows import Item, Row

FORMAT = 5  # of the files and of what records become: raise it whenever the same record gives other rows
SHOWN = 20


class ItemStore:
    """Items by index, as numpy views of memory maps; `tokens` of all rows, `summary` from the building."""

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.key: str = manifest["key"]
        self.summary: dict[str, Any] = manifest["summary"]
        self.tokens: int = manifest["tokens"]
        self._items = _array(folder, "items", np.int64).reshape(-1, 3)  # first row, start of the id, of `about`
        self._facts = _array(folder, "facts", np.float64).reshape(-1, 3)  # weight, margin, noise
        self._rows = _array(folder, "rows", np.int64).reshape(-1, 1 + len(NAMES) + 1)
        self._ids = _array(folder, "ids", np.uint8)
        self._labels = _array(folder, "labels", np.uint8)
        self._about = _array(folder, "about", np.uint8)
        self._columns = {
            column.name: _array(folder, column.name, np.dtype(column.dtype)).reshape(-1, *column.shape)
            for column in COLUMNS
        }

    def __len__(self) -> int:
        return len(self._items) - 1

    def id(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return bytes(self._ids[int(self._items[index, 1]) : int(self._items[index + 1, 1])]).decode("utf-8")

    def __getitem__(self, index: int) -> Item:
        name = self.id(index)
        first, last = int(self._items[index, 0]), int(self._items[index + 1, 0])
        weight, margin, noise = (float(value) for value in self._facts[index])
        rows = tuple(self.row(row) for row in range(first, last))
        return Item(name, rows, weight, margin, noise, self._about_of(index))

    def _about_of(self, index: int) -> dict[str, Any]:
        text = bytes(self._about[int(self._items[index, 2]) : int(self._items[index + 1, 2])])
        return json.loads(text.decode("utf-8", "surrogatepass")) if text else {}

    def rows_of(self, index: int) -> range:
        return range(int(self._items[index, 0]), int(self._items[index + 1, 0]))

    def row(self, index: int) -> Row:
        length, *starts, label = (int(value) for value in self._rows[index])
        values: dict[str, Any] = {
            name: self._columns[name][start : start + length]
            for name, start in zip(NAMES, starts, strict=True)
            if start >= 0
        }
        if label >= 0:
            values["label"] = label_from(self._labels, label)
        return Row(**values)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every row [rows]."""
        return self._rows[:, 0]


def _array(folder: Path, name: str, dtype: Any) -> NDArray[Any]:
    path = folder / f"{name}.bin"
    dtype = np.dtype(dtype).newbyteorder("<")
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)


def cache_key(
    files: Sequence[str | Path], *, tokenizer: str, template: str, settings: Mapping[str, Any], method: str = ""
) -> str:
    """32 hex digits over the files' contents, the tokenizer's and the template's hashes, the settings and the format."""
    made = hashlib.sha256(f"tomoni items {FORMAT}\n".encode())
    for file in files:
        with Path(file).open("rb") as handle:
            made.update(hashlib.file_digest(handle, "sha256").digest())
        made.update(Path(file).name.encode())  # sources are named in the summary
    known = {"tokenizer": tokenizer, "template": template, "settings": dict(settings), "method": method}
    made.update(json.dumps(known, sort_keys=True, default=str).encode())
    return made.hexdigest()[:32]


def build(
    records: Iterable[Record],
    to_items: Callable[[Record], list[Item]],
    *,
    key: str,
    folder: Path,
    summary: Callable[[], Mapping[str, Any]] = dict,
    say: Callable[[str], None] = lambda text: None,
    nothing: Callable[[], str] = str,
) -> ItemStore:
    """The store of this key under `folder`: the one that is there, if it is whole, else built from the records.

    `summary` is called after the last record; what it gives (counts, bad rows) is kept with the store, so that a
    reused store can still tell it. `nothing` says why nothing is left, where nothing is. Rows over max_length are named together, in one DataError.
    """
    final = Path(folder) / key
    if final.exists():
        damage = verify(final)
        if damage is None:
            return ItemStore(final)
        say(f"the token cache {final} is damaged ({damage}); it is built again")
        _put_away(final)
    work = final.with_name(f".building-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        work.mkdir(parents=True)
        _write(records, to_items, key=key, work=work, summary=summary, nothing=nothing)
        _settle(work, final)
    except OSError as error:
        raise DiskError(
            f"the token cache cannot be written in {str(folder)!r}: {error.strerror or error}",
            next_step="make room, or set TOMONI_CACHE to a folder that can be written",
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return ItemStore(final)


def _write(
    records: Iterable[Record],
    to_items: Callable[[Record], list[Item]],
    *,
    key: str,
    work: Path,
    summary: Callable[[], Mapping[str, Any]],
    nothing: Callable[[], str],
) -> None:
    long: list[TooLong] = []
    with Writer(work) as writer:
        for record in records:
            try:
                items = to_items(record)
            except TooLong as error:
                long.append(error)
                continue
            if not long:
                for item in items:
                    writer.add(item)
        if long:
            raise too_long_error(long)
        if not writer.items:
            raise DataError(
                nothing() or "nothing is left to learn: no record became a row",
                next_step="`tomoni check` shows what the rows become; a larger max_length may keep them",
            )
        counts = {"items": writer.items, "rows": writer.rows, "tokens": writer.tokens}
    manifest = {"format": FORMAT, "key": key, **counts, "summary": dict(summary()), "files": writer.files}
    manifest["sha256"] = _own_hash(manifest)
    with (work / "store.json").open("w", encoding="utf-8") as handle:
        json.dump(manifest, handle, ensure_ascii=False, indent=1)
        handle.flush()
        os.fsync(handle.fileno())


def _own_hash(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the manifest without its own hash."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def too_long_error(long: Sequence[TooLong]) -> DataError:
    """One error that names the first rows over max_length and the length that would hold all."""
    if len(long) == 1:
        return long[0]
    lines = [f"{len(long)} rows are longer than max_length"]
    lines += [f"  {error.name}: {error.length} tokens" for error in long[:SHOWN]]
    if len(long) > SHOWN:
        lines.append(f"  … and {len(long) - SHOWN} more")
    needed = max(error.length for error in long)
    return DataError(
        "\n".join(lines),
        next_step=f"set max_length to {needed} (holds all; if the model reads so many), or on_long_rows to truncate or drop",
    )


def _settle(work: Path, final: Path) -> None:
    sync(work)
    try:
        os.rename(work, final)
    except OSError:
        # another process was first: its store has the same key, so the same content
        if not final.is_dir() or verify(final) is not None:
            raise
    sync(final.parent)


def _put_away(final: Path) -> None:
    """Out of the way first, so that nobody opens a half-deleted store."""
    aside = final.with_name(f".damaged-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        os.rename(final, aside)
    except FileNotFoundError:  # another process did it
        return
    shutil.rmtree(aside, ignore_errors=True)


def verify(folder: Path) -> str | None:
    """What is wrong with a store, in a few words; None when every byte is as it was written."""
    try:
        manifest = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            return f"format {manifest['format']}, not {FORMAT}"
        if manifest["key"] != folder.name:
            return "it belongs to another key"
        if manifest["sha256"] != _own_hash(manifest):
            return "store.json has changed"
        for name, facts in manifest["files"].items():
            with (folder / name).open("rb") as handle:
                if hashlib.file_digest(handle, "sha256").hexdigest() != facts["sha256"]:
                    return f"{name} has changed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its manifest cannot be read"
    return None
