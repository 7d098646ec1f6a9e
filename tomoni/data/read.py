"""Read data files: records in the order of the files, every bad row named, nothing changed or dropped silently.

No torch. Memory does not grow with the file but for 8 bytes a record (and Python's overhead), which find equal ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tomoni.data.badrows import BadRow, BadValue, bad_rows_error
from tomoni.data.files import RawRow, rows_of
from tomoni.data.forms import DETECTED, FORMS, content_id
from tomoni.data.taskforms import expanded
from tomoni.errors import DataError, did_you_mean
from tomoni.records import Record, Source

OnBadRows = Literal["stop", "quarantine"]


class Reading:
    """Records of some files, read anew at each iteration.

    `form` (the forms found, joined by ", "), `bad` and `counts` (rows, kept, repeated, and bad by reason) are complete
    when the iteration is. With `on_bad_rows="stop"` the first bad row ends the records, the rest of the files is
    still looked through, and one DataError names the bad rows. `prompts` says that answers are not needed: a file that
    has only prompts is then what it should be. `wanted` are the forms that a method learns from: they decide where a row
    has the columns of a form and of one that needs more. `check` raises BadValue for a record that is not to be used.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        form: str | None = None,
        columns: Mapping[str, str] | None = None,
        on_bad_rows: OnBadRows = "stop",
        prompts: bool = False,
        wanted: Sequence[str] = (),
        check: Callable[[Record], None] | None = None,
    ) -> None:
        if form is not None and form not in FORMS:
            raise DataError(f"unknown form {form!r}{did_you_mean(form, list(FORMS))}", choices=list(FORMS))
        self.paths = [Path(path) for path in paths]
        if not self.paths:
            raise DataError("no data file is named", next_step="set train_file")
        self.asked = form
        self.prompts = prompts
        self.wanted = tuple(wanted)
        self.check = check
        self.columns = dict(columns or {})
        known = sorted({name for asked in ([form] if form else FORMS) for name in (*FORMS[asked].columns, "id")})
        for name in self.columns:
            if name not in known:
                raise DataError(
                    f"columns: {name!r} is no column of {form or 'any form'}{did_you_mean(name, known)}",
                    choices=known,
                    next_step="write the form's column first and the file's second: prompt: question",
                )
        self.on_bad_rows = on_bad_rows
        self._reset()

    def _reset(self) -> None:
        self.forms: dict[str, str] = {}  # file -> form
        self.bad: list[BadRow] = []
        self.counts: Counter[str] = Counter()
        self._ids: Counter[int] = Counter()
        self._explicit: set[int] = set()

    @property
    def form(self) -> str | None:
        return ", ".join(dict.fromkeys(self.forms.values())) or None

    def __iter__(self) -> Iterator[Record]:
        self._reset()
        for path in self.paths:
            for raw in self._rows(path):
                self.counts["rows"] += 1
                try:
                    record = self._record(raw)
                except BadValue as fault:
                    self._note(raw, fault)
                    continue
                if self.bad and self.on_bad_rows == "stop":
                    continue  # only to name the other bad rows
                self.counts["kept"] += 1
                yield record
        if self.bad and self.on_bad_rows == "stop":
            raise bad_rows_error(self.bad, good=self.counts["rows"] - len(self.bad))
        if not self.counts["rows"]:
            raise DataError(
                f"no rows in {', '.join(map(str, self.paths))}", next_step="check that the file is the right one"
            )
        if not self.counts["kept"]:
            raise bad_rows_error(self.bad, good=0)

    def _rows(self, path: Path) -> Iterator[RawRow]:
        number = 1
        for raw in rows_of(path):
            for each in expanded(raw, number):
                number += each is not raw
                yield each

    def _note(self, raw: RawRow, fault: BadValue) -> None:
        self.bad.append(BadRow(raw.file, raw.line, raw.offset, fault.reason, fault.detail, raw.excerpt))
        self.counts[fault.reason] += 1

    def _record(self, raw: RawRow) -> Record:
        if raw.fault:
            raise raw.fault
        if raw.file not in self.forms:
            self.forms[raw.file] = self.asked or detect(
                mapped(raw, self.columns), raw.file, prompts=self.prompts, wanted=self.wanted
            )
        form = FORMS[self.forms[raw.file]]
        row = mapped(raw, self.columns)
        for column in form.needs:
            if column not in row:
                there = ", ".join(map(str, list(raw.values)[:20]))
                raise BadValue("missing_column", f"{self.columns.get(column, column)}; the row has {there}")
        extra = {key: value for key, value in row.items() if key not in form.columns and key != "id"}
        made = form.make(row, Source(raw.file, raw.line), extra)
        if self.check is not None:
            self.check(made.build(""))
        return made.build(self._id(row.get("id"), made.content))

    def _id(self, own: Any, content: Any) -> str:
        if own is not None and own != "":
            if isinstance(own, bool) or not isinstance(own, str | int):
                raise BadValue("wrong_value", f"id is {type(own).__name__}; possible: text or a whole number")
            given = str(own)
            mark = hash(("id", given))
            if mark in self._explicit:
                raise BadValue("duplicate_id", given[:40])
            self._explicit.add(mark)
            return given
        made = content_id(content)
        mark = int(made, 16)
        self._ids[mark] += 1
        if self._ids[mark] == 1:
            return made
        self.counts["repeated"] += 1
        return f"{made}#{self._ids[mark]}"


def mapped(raw: RawRow, columns: Mapping[str, str]) -> dict[str, Any]:
    """The row under the form's column names; `columns` maps the form's column to the file's."""
    row = dict(raw.values)
    for ours, theirs in columns.items():
        if theirs not in raw.values:
            there = list(map(str, raw.values))
            raise BadValue(
                "missing_column", f"{theirs} (for {ours}){did_you_mean(theirs, there)}; the row has {', '.join(there)}"
            )
        row.pop(theirs, None)
    for ours, theirs in columns.items():
        row[ours] = raw.values[theirs]
    return row


def detect(row: Mapping[str, Any], file: str, *, prompts: bool = False, wanted: Sequence[str] = ()) -> str:
    """The one form whose columns the row has; several or none is an error that says how to choose. Of a form and one
    that needs further columns the latter is meant, unless only the former is `wanted`."""
    found = [name for name in DETECTED if all(column in row for column in FORMS[name].needs)]
    found = [name for name in found if not _is_part(name, found, wanted)]
    if {"unpaired", "prompt_completion"} <= set(found):  # a truth value tells thumbs from a column of that name
        number = "unpaired" in wanted and row["label"] in (0, 1)
        found.remove("prompt_completion" if isinstance(row["label"], bool) or number else "unpaired")
    if len(found) > 1 and len(learnt := [name for name in found if name in wanted]) == 1:
        found = learnt  # the method learns from one of them only
    if len(found) == 1:
        return found[0]
    if not found and prompts and "prompt" in row:
        return "prompt"
    there = ", ".join(map(str, list(row)[:30]))
    if found:
        raise DataError(
            f"{file}: the columns ({there}) fit several forms", choices=found, next_step=f"say which: form: {found[0]}"
        )
    raise DataError(
        f"{file}: the columns ({there}) fit no known form",
        choices=[f"{name} ({', '.join(FORMS[name].needs)})" for name in DETECTED],
        next_step=_mapping_hint(row),
    )


def _is_part(name: str, found: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether another form that fits is the one that is meant."""
    needs = set(FORMS[name].needs)
    for other in found:
        theirs = set(FORMS[other].needs)
        if name == "prompt_completion" or other == "prompt_completion":
            continue  # told from a thumb by what stands in the column
        if needs < theirs and not (name in wanted and other not in wanted):
            return True
        if theirs < needs and other in wanted and name not in wanted:
            return True
    return False


# columns of well-known files and what they hold
_KNOWN = (
    ({"instruction", "context", "response"}, "form: alpaca with columns: {input: context, output: response}"),
    ({"instruction", "response"}, "form: alpaca with columns: {output: response}"),
    ({"prompt", "response"}, "form: prompt_completion with columns: {completion: response}"),
    ({"question", "answer"}, "form: prompt_completion with columns: {prompt: question, completion: answer}"),
    ({"text", "category"}, "form: labelled with columns: {label: category}"),
    ({"text", "entities"}, "form: spans with columns: {spans: entities}"),
    ({"premise", "hypothesis", "label"}, "form: text_pair with columns: {sentence1: premise, sentence2: hypothesis}"),
    (
        {"prompt"},
        "a completion column is missing, or chosen and rejected; prompts alone are for bestofn, grpo, rloo and ppo",
    ),
)


def _mapping_hint(row: Mapping[str, Any]) -> str:
    for columns, hint in _KNOWN:
        if columns <= set(row):
            return hint
    if len(row) == 1 and isinstance(inner := next(iter(row.values())), list) and inner and isinstance(inner[0], dict):
        return f"write the objects in {next(iter(row))!r} as rows of their own: a list of them, or one a line"
    return (
        "name the form and map its columns, e.g. form: prompt_completion with columns: {prompt: ..., completion: ...}"
    )


def read(
    paths: Sequence[str | Path],
    *,
    form: str | None = None,
    columns: Mapping[str, str] | None = None,
    on_bad_rows: OnBadRows = "stop",
    prompts: bool = False,
    wanted: Sequence[str] = (),
    check: Callable[[Record], None] | None = None,
) -> Reading:
    """Records of the files (JSONL, JSON, CSV, TSV, Parquet, text), in the form given or detected by the columns."""
    return Reading(
        paths, form=form, columns=columns, on_bad_rows=on_bad_rows, prompts=prompts, wanted=wanted, check=check
    )
