"""TRL's data files: preference, unpaired preference, prompt-completion. No torch.

Written from a snapshot (what would be trained on), as message lists; read by the reader of data files. A row of prompt
and completion says what the answer should be: a correction of an answer that nobody has seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tomoni.data.badrows import BadValue
from tomoni.data.files import RawRow
from tomoni.data.forms import FORMS
from tomoni.data.read import detect, mapped
from tomoni.errors import DataError
from tomoni.feedback.forms.said import Said, plain_prompt
from tomoni.feedback.snapshot import Snapshot
from tomoni.records import Chat, Comparison, Kind, Message, Rated, Source, Verdict

READ = ("preference", "unpaired", "prompt_completion", "messages")


def files_of(snapshot: Snapshot) -> dict[str, list[dict[str, Any]]]:
    """Rows by the name of their file."""
    preference = []
    for comparison in snapshot.comparisons:
        match comparison.verdict:
            case Verdict.FIRST:
                chosen, rejected = comparison.first, comparison.second
            case Verdict.SECOND:
                chosen, rejected = comparison.second, comparison.first
            case Verdict.TIE | Verdict.BOTH_BAD:
                continue  # TRL has no row for them
        row = {"prompt": plain_prompt(comparison.prompt), "chosen": plain_prompt(chosen)}
        preference.append(row | {"rejected": plain_prompt(rejected), "margin": comparison.margin})
    completions = [
        {"prompt": plain_prompt(chat.messages[:-1]), "completion": plain_prompt(chat.messages[-1:])}
        for chat in snapshot.corrections
    ]
    unpaired = [
        {"prompt": plain_prompt(rated.prompt), "completion": plain_prompt(rated.completion), "label": rated.good}
        for rated in snapshot.thumbs
    ]
    named: dict[str, list[dict[str, Any]]] = {
        "preference": preference,
        "prompt_completion": completions,
        "unpaired": unpaired,
    }
    return {f"{name}.jsonl": rows for name, rows in named.items()}


def read(raw: RawRow, columns: Mapping[str, str]) -> Iterator[Said]:
    row = mapped(raw, columns)
    try:
        form = detect(row, raw.file)
    except DataError as error:
        raise BadValue("missing_column", error.what) from None
    if form not in READ:
        raise BadValue("wrong_value", f"the form {form} says nothing about answers; possible: {', '.join(READ)}")
    missing = [column for column in FORMS[form].needs if column not in row]
    if missing:
        raise BadValue("missing_column", missing[0])
    record = FORMS[form].make(row, Source(raw.file, raw.line), {}).build("row")
    ref = str(row["id"]) if isinstance(row.get("id"), str | int) else ""
    match record:
        case Comparison():
            yield _comparison(record, ref)
        case Rated():
            answers = (_one(record.completion),)
            yield Said(record.prompt, answers, Kind.THUMB, {"answer": 0, "up": record.good}, ref=ref)
        case Chat():
            prompt = tuple(Message(m.role, m.content, None, m.extra) for m in record.messages[:-1])
            text = _one(record.messages[-1:])
            yield Said(prompt, ("",), Kind.CORRECTION, {"answer": 0, "text": text}, ref=ref)
        case _:
            raise BadValue("wrong_value", f"the form {form} says nothing about answers")


def _comparison(record: Comparison, ref: str) -> Said:
    """In an order that does not tell which is better: files have the better one first."""
    chosen, rejected = _one(record.first), _one(record.second)
    first, second = sorted((chosen, rejected))
    verdict = Verdict.FIRST if chosen == first else Verdict.SECOND
    extra = {"margin": record.margin} if record.margin else {}
    value = {"verdict": verdict.value, "strength": 0}
    return Said(record.prompt, (first, second), Kind.COMPARISON, value, extra=extra, ref=ref)


def _one(messages: tuple[Message, ...]) -> str:
    if len(messages) != 1 or messages[0].extra:
        raise BadValue("wrong_value", "an answer of several messages, or with tool calls, cannot be judged here")
    return messages[0].content
