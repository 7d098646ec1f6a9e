"""Bad rows: what is wrong with a line of a file, and how it is told. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tomoni.errors import DataError

SHOWN = 20  # bad rows listed in one error
EXCERPT = 80  # characters of a bad row shown

# reason code -> what it means; the codes are stable, the sentences are not
REASONS: dict[str, str] = {
    "broken_json": "not valid JSON",
    "two_values": "more than one JSON value on the line",
    "not_an_object": "a JSON value that is not an object",
    "duplicate_key": "a key occurs twice in one object",
    "not_a_number": "NaN or Infinity, which JSON does not have",
    "number_too_large": "a number too large for a float, which would silently become infinite",
    "too_deep": "nested too deeply",
    "not_utf8": "bytes that are not UTF-8",
    "lone_surrogate": "half of a surrogate pair, which is no character",
    "wrong_field_count": "not as many fields as the header has",
    "missing_column": "a column of the form is missing",
    "not_text": "a value that must be text is not",
    "empty": "an empty text",
    "not_a_list": "a value that must be a list is not",
    "wrong_role": "an unknown role",
    "two_systems": "more than one system message",
    "late_system": "a system message that is not the first",
    "ends_with_user": "the conversation ends without an answer",
    "no_answer": "nothing to learn: no assistant turn",
    "wrong_value": "a value of the wrong kind",
    "same_answers": "chosen and rejected are equal",
    "no_prompt": "no prompt, and none in common at the start of both answers",
    "hh_rlhf": "a dialogue in one string (hh-rlhf); convert it to message lists first",
    "duplicate_id": "an id that an earlier row has",
    "outside": "offsets that are not in the text",
    "splits_character": "an offset inside of what people see as one character",
    "overlap": "spans that overlap",
    "elsewhere": "a text that does not stand where its offset says",
    "mixed_labels": "a label of another kind (number, text, list) than most rows have",
    "single_example": "the only example of its class: nothing could be learnt of it and measured",
    "unknown_class": "a class that the training data does not have",
    "unknown_characters": "a text of which the model's vocabulary knows no character",
}


class BadValue(Exception):
    """Raised while one row is read; becomes a `BadRow`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        if reason not in REASONS:
            raise KeyError(reason)
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


@dataclass(frozen=True, slots=True)
class BadRow:
    file: str
    line: int  # 1-based; the row for Parquet and JSON arrays
    offset: int | None  # of the row's first byte in the (uncompressed) file; None for Parquet
    reason: str  # a key of REASONS
    detail: str
    excerpt: str  # the first 80 characters, escaped

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" + ("" if self.offset is None else f" (byte {self.offset})")
        detail = f": {self.detail}" if self.detail else ""
        return f"{place} {self.reason}{detail} | {self.excerpt}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def excerpt(raw: bytes | str) -> str:
    """The first characters of a row with everything invisible escaped; Japanese stays readable."""
    text = raw[: EXCERPT * 4].decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:EXCERPT])


def bad_rows_error(bad: Sequence[BadRow], *, good: int) -> DataError:
    """One error that lists the first rows and counts all by reason; `good` rows are left besides."""
    counts = Counter(row.reason for row in bad)
    lines = [f"{len(bad)} bad row{'s' if len(bad) > 1 else ''}; no row was changed or left out"]
    lines += [f"  {row}" for row in bad[:SHOWN]]
    if len(bad) > SHOWN:
        lines.append(f"  … and {len(bad) - SHOWN} more")
    lines += [f"  {count} × {reason}: {REASONS[reason]}" for reason, count in counts.most_common()]
    return DataError(
        "\n".join(lines),
        next_step="mend these rows; a training can leave them out: on_bad_rows: quarantine (they are written to quarantine.jsonl)"
        if good
        else "convert the file to UTF-8, e.g. iconv -f CP932 -t UTF-8 for Windows' Shift_JIS"
        if counts.most_common(1)[0][0] == "not_utf8"
        else "no row is good: check that form, columns and the file's ending fit what is in it"
        + ("; one JSON value over several lines is a .json file" if set(counts) == {"broken_json"} else ""),
    )
