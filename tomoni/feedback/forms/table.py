"""A table for a spreadsheet: one judgement that counts a line, in UTF-8 with a mark that Excel needs to see Japanese.

It is written, not read: what a cell held may have been changed. A cell that a spreadsheet would take for a formula gets an
apostrophe in front, which shows it as the text it is. No torch.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tomoni.feedback.checks import FLAGS
from tomoni.feedback.entries import Stored
from tomoni.records import Judgement, Kind

COLUMNS = (
    "time", "person", "kind", "prompt", "answer 1", "answer 2", "verdict", "strength", "about answer", "thumb", "stars",
    "correction", *FLAGS, "reasons", "comment", "seconds", "version 1", "version 2", "purpose", "id",
)  # fmt: skip
MARK = "\ufeff"  # of UTF-8: without it Excel reads the text in the machine's old code page
BEGIN = "=+-@"  # what a spreadsheet computes; wide and small forms of these count as well


def text_of(stored: Iterable[Stored], names: Mapping[str, str]) -> tuple[str, int]:
    """The whole file, and how many judgements stand in it. `names`: of people, by id."""
    held = io.StringIO(newline="")
    held.write(MARK)
    writer = csv.DictWriter(held, COLUMNS, restval="", lineterminator="\r\n")
    writer.writeheader()
    count = 0
    for row in rows_of(stored, names):
        writer.writerow({name: harmless(value) if isinstance(value, str) else value for name, value in row.items()})
        count += 1
    return held.getvalue(), count


def harmless(text: str) -> str:
    """Text that no spreadsheet computes: with an apostrophe where it begins like a formula, after blanks and marks too."""
    seen = text.lstrip()
    while seen and unicodedata.category(seen[0]) in ("Cc", "Cf", "Zs", "Zl", "Zp"):
        seen = seen[1:].lstrip()
    first = unicodedata.normalize("NFKC", seen[:1]).replace("\u2212", "-")
    return f"'{text}" if (first and first in BEGIN) or (text[:1] in "\t\r\n" and text) else text


def rows_of(stored: Iterable[Stored], names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for entry in stored:
        said = entry.judgement
        answers, versions = ((*these, "", "")[:2] for these in (said.answers, said.model_versions))
        yield {
            "time": entry.received,
            "person": names.get(said.person, said.person),
            "kind": said.kind.value,
            "prompt": prompt_text(said),
            "answer 1": answers[0],
            "answer 2": answers[1],
            "reasons": ", ".join(said.tags),
            "comment": said.comment,
            "seconds": "" if said.seconds is None else round(said.seconds, 1),
            "version 1": versions[0],
            "version 2": versions[1],
            "purpose": str(said.extra.get("purpose") or ""),
            "id": said.id,
            **_value(said),
        }


def prompt_text(said: Judgement) -> str:
    """The question; of a longer conversation every turn, with who spoke."""
    if len(said.prompt) == 1:
        return said.prompt[0].content
    return "\n".join(f"{turn.role}: {turn.content}" for turn in said.prompt)


def _value(said: Judgement) -> dict[str, Any]:
    value = said.value
    about = {"about answer": value["answer"] + 1} if "answer" in value else {}
    match said.kind:
        case Kind.COMPARISON:
            return {"verdict": value["verdict"], "strength": value.get("strength") or ""}
        case Kind.CORRECTION:
            return about | {"correction": value["text"]}
        case Kind.THUMB:
            return about | {"thumb": "up" if value["up"] else "down"}
        case Kind.RATING:
            return about | {"stars": value["stars"]}
        case Kind.FLAG:
            return about | {flag: "yes" if value.get(flag) else "" for flag in FLAGS}
        case Kind.COMMENT | Kind.UNDO:
            return {"kind": "skipped"} if said.extra.get("skipped") else {}
