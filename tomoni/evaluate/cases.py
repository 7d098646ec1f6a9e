"""What several models are asked alike: texts with one right answer each, out of labelled texts or conversations. No torch."""

from __future__ import annotations

import json
import string
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tomoni.data.badrows import BadValue
from tomoni.data.taskforms import class_name
from tomoni.errors import ConfigError, DataError
from tomoni.evaluate.metrics import same_answer
from tomoni.records import Chat, Labelled, Message, Record, TextPair, kind_of

FORMS = ("labelled", "text_pair", "messages", "prompt_completion", "alpaca", "sharegpt")
PROMPT = """Classify the text. Answer with exactly one of these, and nothing else: {labels}

Text: {text}"""
QUOTES = " \t\"'`*「」『』.。、,:："


@dataclass(frozen=True, slots=True)
class Case:
    """`texts` (one, or a pair) are what a classifier reads, `prompt` is what a generative model is asked, and `desired` the
    right class or answer. `prompt` is empty of labelled texts: see `asked`."""

    id: str
    texts: tuple[str, ...]
    desired: str
    prompt: tuple[tuple[str, str], ...] = ()  # role, content


@dataclass(frozen=True)
class Cases:
    """`classes` are those of labelled texts, empty of conversations, whose answers are free."""

    cases: tuple[Case, ...]
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cases)

    def save(self, path: Path) -> None:
        body = {"classes": self.classes, "cases": [asdict(case) for case in self.cases]}
        path.write_text(json.dumps(body, ensure_ascii=False), encoding="utf-8")

    @staticmethod
    def load(path: Path) -> Cases:
        body = json.loads(path.read_text(encoding="utf-8"))
        cases = (
            Case(one["id"], tuple(one["texts"]), one["desired"], tuple((role, text) for role, text in one["prompt"]))
            for one in body["cases"]
        )
        return Cases(tuple(cases), tuple(body["classes"]))


def cases_of(records: Iterable[Record]) -> Cases:
    """Raises DataError for records of which one answer is not simply right: several labels, spans, numbers in between."""
    found: list[Case] = []
    classes: set[str] = set()
    for record in records:
        match record:
            case Labelled(text=text, label=label):
                found.append(Case(record.id, (text,), _class(label, record)))
            case TextPair(first=first, second=second, label=label):
                found.append(Case(record.id, (first, second), _class(label, record)))
            case Chat(messages=messages):
                last = max((at for at, message in enumerate(messages) if message.role == "assistant"), default=0)
                if last:
                    prompt = tuple((message.role, message.content) for message in messages[:last])
                    found.append(Case(record.id, (messages[last - 1].content,), messages[last].content, prompt))
            case _:
                raise _unfit(record)
        if found and not found[-1].prompt:
            classes.add(found[-1].desired)
    if not found:
        raise DataError("nothing in the data can be asked", next_step="see `tomoni check` for what the rows are")
    if len({bool(case.prompt) for case in found}) > 1:
        raise DataError("labelled texts and conversations are mixed", next_step="compare on one kind at a time")
    return Cases(tuple(found), tuple(sorted(classes)))


def _class(label: str | float | tuple[str, ...], record: Record) -> str:
    if isinstance(label, tuple):
        raise _unfit(record)
    try:
        return label if isinstance(label, str) else class_name(label)
    except BadValue as error:
        raise _unfit(record, "numbers that are no classes") from error


def _unfit(record: Record, what: str = "") -> DataError:
    what = what or ("several labels" if isinstance(record, Labelled) else kind_of(record))
    return DataError(
        f"{record.source}: compare needs one right class or answer for each row, not {what}",
        choices=FORMS,
        next_step="measure models for other tasks one by one with `tomoni evaluate`",
    )


# -- generative models -------------------------------------------------------------------------------------------------


def messages_of(case: Case, classes: Sequence[str], prompt: str, examples: Sequence[Case] = ()) -> tuple[Message, ...]:
    """A conversation as it stands; a labelled text put into the prompt, after `examples` with their answers."""
    if case.prompt:
        return tuple(Message(role, text) for role, text in case.prompt)  # type: ignore[arg-type]
    turns: list[Message] = []
    for one in (*examples, case):
        turns += [Message("user", _filled(prompt, one, classes)), Message("assistant", one.desired)]
    return tuple(turns[:-1])


def check_prompt(prompt: str) -> None:
    """ConfigError for a prompt in which the text has no place."""
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(prompt) if name is not None}
    except ValueError as error:
        raise ConfigError(f"--prompt: {error}", next_step="write { as {{ and } as }}") from error
    if "text" not in names or names - {"text", "labels"}:
        unknown = ", ".join(sorted(names - {"text", "labels"}))
        raise ConfigError(
            f"--prompt has unknown places: {unknown}" if unknown else "--prompt has no place for the text",
            choices=("{text}", "{labels}"),
            next_step="write {text} where the text is to stand, and {labels} for the classes",
        )


def _filled(prompt: str, case: Case, classes: Sequence[str]) -> str:
    return prompt.format(text="\n".join(case.texts), labels=", ".join(classes))


def is_right(case: Case, answer: str) -> bool:
    """Of a conversation: the desired answer, as `tomoni evaluate` has it. Of a class: its name, alone on the answer's first
    line, in any case and with or without quotes and a full stop."""
    if case.prompt:
        return same_answer(answer, case.desired)
    lines = [line for line in answer.splitlines() if line.strip()]
    return bool(lines) and _bare(lines[0]) == _bare(case.desired)


def _bare(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().strip(QUOTES).split())
