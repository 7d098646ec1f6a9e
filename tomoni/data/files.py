"""Files become raw rows: dicts with their place, or what is wrong with them. Streams; nothing is converted. No torch.

Strings stay strings ("NA", "007", dates), and a row that cannot be read is yielded as a bad one instead of being
skipped. What ends the reading of a whole file (a cut gzip file, an unbalanced quote, a broken JSON array) raises
DataError, because the rows behind it cannot be named.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tomoni.data.badrows import BadValue, excerpt
from tomoni.errors import DataError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")  # all but .parquet also with .gz
CHUNK = 1 << 20
DOCUMENT_BREAKS = ("\f", "<|endoftext|>")


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it stands in the file; `fault` says why it could not be read."""

    file: str
    line: int
    offset: int | None
    raw: bytes | str
    values: dict[str, Any]
    fault: BadValue | None = None

    @property
    def excerpt(self) -> str:
        return excerpt(self.raw)


def kind_of(path: Path) -> str:
    """The suffix that says how a file is read, without .gz."""
    names = path.name.lower().removesuffix(".gz")
    for suffix in SUFFIXES:
        if names.endswith(suffix):
            return suffix
    raise DataError(f"data file {str(path)!r} has no known ending", choices=[*SUFFIXES, "each also with .gz"])


def rows_of(path: Path) -> Iterator[RawRow]:
    """All rows of one file, in order; blank lines of JSONL are passed over."""
    kind = kind_of(path)
    if not path.is_file():
        raise DataError(
            f"data file {str(path)!r} does not exist",
            next_step="check the spelling; it is read from where the command runs",
        )
    if kind == ".parquet":
        yield from _parquet(path)
        return
    with _opened(path) as handle:
        start = handle.peek(4096)[:4096]  # type: ignore[attr-defined]
        _refuse_utf16(path, start)
        lead = len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0
        handle.read(lead)
        if kind in (".csv", ".tsv"):
            yield from _csv(path, _lines(handle, start, lead), "\t" if kind == ".tsv" else ",")
        elif kind == ".txt":
            yield from _documents(path, _lines(handle, start, lead))
        elif kind == ".json" or start[lead:].lstrip()[:1] == b"[":
            yield from _json_values(path, handle, lead)
        else:
            yield from _jsonl(path, _lines(handle, start, lead))


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    zipped = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path, "rb") if zipped else path.open("rb") as handle:
            yield handle  # type: ignore[misc]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: the gzip file is damaged or cut short ({error})", next_step="copy or download the file again"
        ) from None
    except PermissionError:
        raise DataError(f"{path}: no permission to read it", next_step="check the file's permissions") from None


def _refuse_utf16(path: Path, start: bytes) -> None:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or start[1:2] == b"\0" or start[:1] == b"\0":
        raise DataError(
            f"{path}: the file is UTF-16, not UTF-8", next_step=f"convert it: iconv -f UTF-16 -t UTF-8 {path.name}"
        )


def _lines(handle: IO[bytes], start: bytes, offset: int) -> Iterator[tuple[int, int, bytes]]:
    """(1-based line, byte offset, line with its end). Ends are LF and CRLF; CR alone where the start has no LF."""
    source = _cr_lines(handle) if b"\r" in start and b"\n" not in start else iter(handle)
    for number, line in enumerate(source, start=1):
        yield number, offset, line
        offset += len(line)


def _cr_lines(handle: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while chunk := handle.read(CHUNK):
        *whole, rest = (rest + chunk).split(b"\r")
        for line in whole:
            yield line + b"\r"
    if rest:
        yield rest


# JSON


def _reject_constant(word: str) -> Any:
    raise BadValue("not_a_number", word)


def _finite(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise BadValue("number_too_large", word[:40])
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise BadValue("duplicate_key", Counter(key for key, _ in pairs).most_common(1)[0][0])
    return made


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_reject_constant, parse_float=_finite)


def _reject_surrogates(value: Any) -> None:
    """Raise where any string, at any depth, has half of a surrogate pair."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            try:
                part.encode("utf-8")
            except UnicodeEncodeError as error:
                raise BadValue("lone_surrogate", f"U+{ord(part[error.start]):04X}") from None
        elif isinstance(part, dict):
            waiting.extend(part.keys())
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)


def _object(value: Any, *, escapes: bool) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadValue("not_an_object", type(value).__name__)
    if escapes:
        _reject_surrogates(value)
    return value


def parse_line(line: bytes) -> dict[str, Any]:
    """One JSON object, strictly; raises BadValue."""
    try:
        text = line.decode("utf-8").strip(" \t\r\n")
    except UnicodeDecodeError as error:
        raise BadValue("not_utf8", _encoding_hint(line, error.start)) from None
    try:
        value, end = DECODER.raw_decode(text)
        if end < len(text):
            two = text[end:].lstrip()[:1] in ("{", "[")
            raise BadValue("two_values" if two else "broken_json", f"more text after character {end}")
    except json.JSONDecodeError as error:
        raise BadValue("broken_json", f"{error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise BadValue("too_deep") from None
    except ValueError as error:  # an integer of thousands of digits
        raise BadValue("number_too_large", str(error)[:80]) from None
    return _object(value, escapes=b"\\u" in line)


def _encoding_hint(line: bytes, position: int) -> str:
    place = f"byte {position} of the row is 0x{line[position]:02X}"
    for encoding in ("cp932", "euc_jp"):
        try:
            line.decode(encoding)
        except UnicodeDecodeError:
            continue
        return (
            f"{place}; it can be read as {'Shift_JIS' if encoding == 'cp932' else 'EUC-JP'}: convert the file to UTF-8"
        )
    return place


def _jsonl(path: Path, lines: Iterator[tuple[int, int, bytes]]) -> Iterator[RawRow]:
    for number, offset, line in lines:
        if not line.strip(b" \t\r\n"):
            continue
        try:
            yield RawRow(str(path), number, offset, line, parse_line(line))
        except BadValue as fault:
            yield RawRow(str(path), number, offset, line, {}, fault)


def _json_values(path: Path, handle: IO[bytes], offset: int) -> Iterator[RawRow]:
    """The elements of a top-level array, or objects one after the other; `line` counts elements."""
    reader = _Window(path, handle, offset)
    array = reader.skip("") == "["
    if array:
        reader.take(1)
    number = 0
    while True:
        following = reader.skip("," if number and array else "")
        if following == "" or (array and following == "]"):
            if array and following == "":
                raise DataError(
                    f"{path}: the array is not closed: the file seems to be cut short after row {number}",
                    next_step="copy or download the file again",
                )
            return
        number += 1
        yield reader.element(number)


class _Window:
    """A moving window of decoded text over a JSON file."""

    def __init__(self, path: Path, handle: IO[bytes], offset: int) -> None:
        self.path = path
        self.handle = handle
        self.offset = offset  # of the window's first character, in bytes
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text = ""
        self.at = 0  # how far it has been read; what is behind is cut off when more comes
        self.ended = False

    def more(self, size: int = CHUNK) -> None:
        data = self.handle.read(size)
        self.ended = not data
        try:
            self.text = self.text[self.at :] + self.decoder.decode(data, final=self.ended)
            self.at = 0
        except UnicodeDecodeError:
            raise DataError(
                f"{self.path}: bytes that are not UTF-8 after byte {self.offset}",
                next_step="convert the file to UTF-8; in a .jsonl file such rows can be left out one by one",
            ) from None

    def take(self, count: int) -> str:
        taken = self.text[self.at : self.at + count]
        self.at += count
        self.offset += len(taken.encode())
        return taken

    def skip(self, separator: str) -> str:
        """Past white space and one separator; the next character, "" at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.take(1)
            if self.at < len(self.text):
                if separator and self.text[self.at] == separator:
                    separator = ""
                    self.take(1)
                    continue
                return self.text[self.at]
            if self.ended:
                return ""
            self.more()

    def element(self, number: int) -> RawRow:
        size = CHUNK
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if not self.ended:
                    self.more(size)
                    size *= 2  # so that one huge element is not parsed again and again
                    continue
                raise DataError(
                    f"{self.path}: row {number} at byte {self.offset} is not valid JSON: {error.msg}; "
                    "the rows behind it cannot be found",
                    next_step="mend it, or write one object a line (.jsonl), where the other rows stay readable",
                ) from None
            except (BadValue, RecursionError, ValueError) as error:
                fault = error if isinstance(error, BadValue) else BadValue("too_deep")
                raise DataError(
                    f"{self.path}: row {number} at byte {self.offset}: {fault}",
                    next_step="mend it, or write one object a line (.jsonl), where the other rows stay readable",
                ) from None
            if end == len(self.text) and not self.ended:  # a number might go on
                self.more()
                continue
            place, raw = self.offset, self.take(end - self.at)
            try:
                return RawRow(str(self.path), number, place, raw[:400], _object(value, escapes="\\u" in raw))
            except BadValue as fault:
                return RawRow(str(self.path), number, place, raw[:400], {}, fault)


# tables


class _Recorded:
    """Decoded lines for the csv module, remembering where the current record began."""

    def __init__(self, lines: Iterator[tuple[int, int, bytes]]) -> None:
        self.lines = lines
        self.start: tuple[int, int] = (1, 0)
        self.raw = b""

    def __iter__(self) -> _Recorded:
        return self

    def __next__(self) -> str:
        number, offset, line = next(self.lines)
        if not self.raw:
            self.start = (number, offset)
        if len(self.raw) < 400:
            self.raw += line
        return line.decode("utf-8", "surrogateescape")


def _csv(path: Path, lines: Iterator[tuple[int, int, bytes]], delimiter: str) -> Iterator[RawRow]:
    csv.field_size_limit(1 << 30)
    source = _Recorded(lines)
    table = csv.reader(source, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        source.raw = b""
        try:
            fields = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}:{source.start[0]}: a quotation mark is not closed or stands in the wrong place ({error}); "
                "the rows behind it cannot be found",
                next_step='close it; inside a quoted field a quotation mark is written twice ("")',
            ) from None
        number, offset = source.start
        if not fields:
            continue
        if header is None:
            header = _header(path, fields)
            continue
        fault = _table_fault(fields, header)
        values = {} if fault else dict(zip(header, fields, strict=True))
        yield RawRow(str(path), number, offset, source.raw, values, fault)


def _header(path: Path, fields: list[str]) -> list[str]:
    twice = [name for name, times in Counter(fields).items() if times > 1]
    if twice:
        raise DataError(
            f"{path}: the header names a column twice: {', '.join(sorted(twice)[:20])}",
            next_step="rename one of them in the file's first line",
        )
    if len(fields) == 1 and ";" in fields[0]:
        raise DataError(f"{path}: the columns are separated by semicolons", next_step="save the file with commas")
    return fields


def _table_fault(fields: list[str], header: list[str]) -> BadValue | None:
    if len(fields) != len(header):
        return BadValue("wrong_field_count", f"{len(fields)} fields, {len(header)} columns")
    for field in fields:
        if any("\udc80" <= letter <= "\udcff" for letter in field):
            raw = field.encode("utf-8", "surrogateescape")
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError as error:
                return BadValue("not_utf8", _encoding_hint(raw, error.start))
    return None


def _parquet(path: Path) -> Iterator[RawRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in table.iter_batches(batch_size=256):
            for values in batch.to_pylist():
                number += 1
                raw = str({key: str(value)[:80] for key, value in values.items()})
                yield RawRow(str(path), number, None, raw, values)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: the Parquet file cannot be read: {str(error)[:200]}",
            next_step="copy or download it again; is it Parquet at all?",
        ) from None


def _documents(path: Path, lines: Iterator[tuple[int, int, bytes]]) -> Iterator[RawRow]:
    """Documents of a text file: the whole file, or the parts between lines that are a form feed or <|endoftext|>."""
    begun: tuple[int, int] | None = None
    parts: list[bytes] = []
    for number, offset, line in lines:
        if line.strip(b"\r\n ").decode("utf-8", "replace") in DOCUMENT_BREAKS:
            if begun:
                yield _document(path, *begun, b"".join(parts))
            begun, parts = None, []
        elif begun or line.strip():
            begun = begun or (number, offset)
            parts.append(line)
    if begun:
        yield _document(path, *begun, b"".join(parts))


def _document(path: Path, number: int, offset: int, raw: bytes) -> RawRow:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        fault = BadValue("not_utf8", _encoding_hint(raw, error.start))
        return RawRow(str(path), number, offset, raw[:400], {}, fault)
    return RawRow(str(path), number, offset, raw[:400], {"text": text.rstrip("\r\n")})
