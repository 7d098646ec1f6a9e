"""What a row of another tool's file says, before it is a judgement; and the parts that all forms share. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tomoni.data.badrows import BadValue
from tomoni.data.forms import check_conversation, content_id, messages_of
from tomoni.data.made import text_of
from tomoni.errors import did_you_mean
from tomoni.feedback.entries import Stored, plain_message, prompt_id
from tomoni.records import Judgement, Kind, Message

PROMPT_NAMES = ("messages", "prompt", "input", "instruction", "question")
PAIR_NAMES = (
    ("first", "second"),
    ("answer1", "answer2"),
    ("answer_1", "answer_2"),
    ("response_1", "response_2"),
    ("response1", "response2"),
    ("text1", "text2"),
    ("output_1", "output_2"),
)
ANSWER_NAMES = ("answer", "response", "completion", "output", "text")


@dataclass(frozen=True, slots=True)
class Said:
    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    kind: Kind
    value: Mapping[str, Any]
    who: str = ""  # as the other tool names the person
    comment: str = ""
    tags: tuple[str, ...] = ()
    seconds: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    ref: str = ""  # the other tool's id of the row

    @property
    def key(self) -> str:
        """The same for the same row, so that a file that is read twice counts once."""
        prompt = [plain_message(message) for message in self.prompt]
        content = [prompt, list(self.answers), self.kind.value, dict(self.value), self.who, self.comment, self.ref]
        return content_id([*content, list(self.tags)])


def prompt_of(row: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[Message, ...]:
    """The prompt of a row: a text, or a list of messages."""
    name = named(row, "prompt", PROMPT_NAMES, columns)
    value = row[name]
    if isinstance(value, str):
        return (Message("user", text_of(value, name)),)
    messages = messages_of(value, name)
    check_conversation(messages, answered=False)
    return messages


def answers_of(row: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[str, ...]:
    """The one or two answers of a row."""
    for pair in ((columns.get("first", ""), columns.get("second", "")), *PAIR_NAMES):
        if all(name in row for name in pair):
            return tuple(text_of(row[name], name) for name in pair)
    name = named(row, "answer", ANSWER_NAMES, columns)
    return (text_of(row[name], name),)


def named(row: Mapping[str, Any], what: str, names: Sequence[str], columns: Mapping[str, str]) -> str:
    if what in columns:
        if columns[what] not in row:
            raise BadValue("missing_column", f"{columns[what]} (for {what}){did_you_mean(columns[what], list(row))}")
        return columns[what]
    for name in names:
        if name in row:
            return name
    raise BadValue("missing_column", f"{what}; the row has {', '.join(map(str, list(row)[:20]))}")


def object_of(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadValue("wrong_value", f"{name} is no object")
    return value


def list_of(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadValue("not_a_list", name)
    return value


def plain_prompt(prompt: Iterable[Message]) -> list[dict[str, Any]]:
    return [{**message.extra, "role": message.role, "content": message.content} for message in prompt]


def by_question(stored: Iterable[Stored]) -> list[list[Judgement]]:
    """Judgements that are about the same prompt and the same answers, together, in the order of the first."""
    groups: dict[Any, list[Judgement]] = {}
    for one in stored:
        judgement = one.judgement
        groups.setdefault((prompt_id(judgement.prompt), judgement.answers), []).append(judgement)
    return list(groups.values())


def question_id(judgement: Judgement) -> str:
    return content_id([prompt_id(judgement.prompt), list(judgement.answers)])
