"""Prompts to compare two forms of a model on: the user's own where there are some, else a few in two languages."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal

from tomoni import records as kinds
from tomoni.errors import DataError
from tomoni.export.answers import Prompt
from tomoni.records import Chat, Comparison, Message, Rated, Record, Text

OPENING: Final = 80  # characters of a plain text that are given to be continued
QUESTIONS: Final = (
    "Hello! Who are you?",
    "こんにちは。自己紹介をしてください。",
    "List three things to take on a walk in the rain.",
    "雨の日の散歩に持っていくものを三つ挙げてください。",
    "What is 12 + 30? Answer with the number only.",
    "「ｶﾀｶﾅ」と「カタカナ」は何が違いますか？🙂",
    "Write one short sentence about the sea at night.",
    "明日の朝は七時に起きます。英語にしてください。",
)
SYSTEMS: Final = ("", "", "Answer in one sentence.", "一文で答えてください。")
BEGINNINGS: Final = (
    "Once upon a time, in a small town by the sea,",
    "昔々、海辺の小さな町に、",
    "The three most important things to know about bread are",
    "この町でいちばん有名な店は、",
    "In 1998, the population was 12,345 and",
    "ｶﾀｶﾅと漢字、そして🙂。次に",
)


def built_in(*, chats: bool) -> list[Prompt]:
    """Conversations (two of them with a system message, one of two turns), or beginnings of plain texts."""
    if not chats:
        return [Prompt(f"text {number}", text=text) for number, text in enumerate(BEGINNINGS, start=1)]
    made = []
    for number, question in enumerate(QUESTIONS):
        system = SYSTEMS[number % len(SYSTEMS)]
        opening = (Message("system", system),) if system else ()
        made.append(Prompt(f"question {number + 1}", (*opening, Message("user", question))))
    turns = Message("user", QUESTIONS[0]), Message("assistant", "はい、元気です。"), Message("user", QUESTIONS[1])
    return [*made, Prompt("two turns", turns)]


def of_records(records: Iterable[Record], most: int) -> list[Prompt]:
    """Everything before the last answer of conversations, prompts with or without judged answers, beginnings of texts;
    at most `most`, evenly spread."""
    found = []
    for record in records:
        match record:
            case Chat():
                last = max((at for at, turn in enumerate(record.messages) if turn.role == "assistant"), default=0)
                if last > 0 and not record.tools and not any(turn.extra for turn in record.messages[:last]):
                    found.append(Prompt(record.id, record.messages[:last]))
            case kinds.Prompt() | Comparison() | Rated() if not getattr(record, "tools", ()):
                messages = record.prompt if isinstance(record, Comparison | Rated) else record.messages
                found.append(Prompt(record.id, messages))
            case Text() if len(record.text) > OPENING:
                found.append(Prompt(record.id, text=record.text[:OPENING]))
    step = max(1, len(found) // most)
    return found[::step][:most]


def from_file(path: Path, most: int) -> list[Prompt]:
    """One prompt a line: plain text is what a user says; a JSON object has `messages` or `prompt`. Raises DataError
    naming the line that is neither."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the prompts in {path}: {error}", next_step="give a UTF-8 text file") from error
    found = [_of_line(line, f"{path} line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise DataError(f"{path} has no prompts", next_step="write one prompt a line")
    return found[:most]


def _of_line(line: str, where: str) -> Prompt:
    if not line.lstrip().startswith("{"):
        return Prompt(where, (Message("user", line.strip()),))
    try:
        turns = _turns(json.loads(line))
        messages = tuple(Message(_role(turn["role"]), str(turn["content"])) for turn in turns)
        if not messages:
            raise ValueError("no messages")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{where} is not a prompt: {error}",
            choices=("a line of text", '{"prompt": "…"}', '{"messages": [{"role": "user", "content": "…"}]}'),
        ) from error
    while messages and messages[-1].role == "assistant":
        messages = messages[:-1]  # what is asked for is the answer
    if not messages:
        raise DataError(f"{where} has an answer and no question", next_step="give what the user said before it")
    return Prompt(where, messages)


def _role(word: Any) -> Literal["system", "user", "assistant"]:
    match word:
        case "system" | "user" | "assistant":
            return word  # type: ignore[no-any-return]
        case _:
            raise ValueError(f"the role {word!r} is none of system, user, assistant")


def _turns(record: Any) -> list[Any]:
    for key in ("messages", "conversation", "prompt"):
        if key in record:
            value = record[key]
            return [{"role": "user", "content": value}] if isinstance(value, str) else list(value)
    raise ValueError("it has no messages and no prompt")
