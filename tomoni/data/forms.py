"""Forms: how the columns of a row become a record. Each form is one function that raises BadValue. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from tomoni.data import taskforms
from tomoni.data.badrows import BadValue
from tomoni.data.made import Made, kind_of_value, list_of, text_of
from tomoni.records import Chat, Comparison, Message, Prompt, Rated, Role, Source, Text, Verdict

ROLES: tuple[str, ...] = get_args(Role)
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_call": "assistant",
}
LARGEST = 1e9  # of a weight or margin
# keys of a message that are not the template's
OWN_KEYS = ("role", "content", "train", "weight")


@dataclass(frozen=True, slots=True)
class Form:
    needs: tuple[str, ...]  # columns that must be there; they are also how the form is detected
    may: tuple[str, ...]  # columns it reads where they are there
    make: Callable[[Mapping[str, Any], Source, Mapping[str, Any]], Made]

    @property
    def columns(self) -> tuple[str, ...]:
        return self.needs + self.may


def content_id(content: Any) -> str:
    """16 hex digits of the SHA-256 of the content as canonical JSON."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _optional_text(row: Mapping[str, Any], column: str) -> str:
    """An optional text; absent, null and empty all mean that there is none."""
    value = row.get(column)
    return "" if value is None else text_of(value, column, empty=True)


def message_of(value: Any, place: str) -> Message:
    """A message in OpenAI's form; `train` (or OpenAI's `weight`) says whether it is learnt."""
    if not isinstance(value, dict):
        raise BadValue("wrong_value", f"{place} is {kind_of_value(value)}, not an object with role and content")
    for key in ("role", "content"):
        if key not in value and not (key == "content" and value.get("tool_calls")):
            raise BadValue("missing_column", f"{place}.{key}")
    role = value["role"]
    if role not in ROLES:
        raise BadValue("wrong_role", f"{place}.role is {str(role)[:40]!r}; possible: {', '.join(ROLES)}")
    # Parquet fills keys that other rows have with null
    extra = {key: part for key, part in value.items() if key not in OWN_KEYS and part is not None}
    content = value.get("content")
    if content is None and extra.get("tool_calls"):
        content = ""
    content = text_of(content, f"{place}.content", empty=bool(extra.get("tool_calls")))
    return Message(role, content, _train(value, place), extra)


def _train(value: Mapping[str, Any], place: str) -> bool | None:
    train = value.get("train", value.get("weight"))
    if train is None:
        return None
    if train not in (0, 1):
        raise BadValue("wrong_value", f"{place}.train is {str(train)[:40]}; possible: true, false")
    return bool(train)


def messages_of(value: Any, column: str) -> tuple[Message, ...]:
    parts = list_of(value, column)
    if not parts:
        raise BadValue("empty", column)
    return tuple(message_of(part, f"{column}[{index}]") for index, part in enumerate(parts))


def check_conversation(messages: tuple[Message, ...], *, answered: bool = True) -> None:
    systems = [index for index, message in enumerate(messages) if message.role == "system"]
    if len(systems) > 1:
        raise BadValue("two_systems", f"messages {systems[0] + 1} and {systems[1] + 1}")
    if systems and systems[0] != 0:
        raise BadValue("late_system", f"message {systems[0] + 1}")
    if not answered:
        return
    if not any(message.role == "assistant" for message in messages):
        raise BadValue("no_answer")
    if messages[-1].role != "assistant":
        raise BadValue("ends_with_user", f"the last message is of the {messages[-1].role}")


def _tools(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    value = row.get("tools")
    if isinstance(value, str):  # as LLaMA-Factory and Parquet files have them
        if not value.strip():
            return ()
        try:
            value = json.loads(value)
        except ValueError:
            raise BadValue("broken_json", "tools") from None
    if value is None:
        return ()
    if not all(isinstance(tool, dict) for tool in list_of(value, "tools")):
        raise BadValue("wrong_value", "tools must be objects")
    return tuple(value)


def _template_kwargs(row: Mapping[str, Any]) -> Mapping[str, Any]:
    value = row.get("chat_template_kwargs")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadValue("wrong_value", f"chat_template_kwargs is {kind_of_value(value)}")
    return value


def _plain(messages: tuple[Message, ...]) -> list[Any]:
    return [[message.role, message.content, message.train, dict(message.extra)] for message in messages]


def _chat(messages: tuple[Message, ...], row: Mapping[str, Any], source: Source, extra: Mapping[str, Any]) -> Made:
    check_conversation(messages)
    tools, kwargs = _tools(row), _template_kwargs(row)
    return Made(
        [_plain(messages), list(tools), dict(kwargs)], lambda id: Chat(id, source, messages, tools, kwargs, extra)
    )


def _text(row: Mapping[str, Any], source: Source, extra: Mapping[str, Any]) -> Made:
    text = text_of(row["text"], "text")
    return Made(text, lambda id: Text(id, source, text, extra))


def _messages(row: Mapping[str, Any], source: Source, extra: Mapping[str, Any]) -> Made:
    return _chat(messages_of(row["messages"], "messages"), row, source, extra)


def _side(value: Any, column: str, role: Role) -> tuple[Message, ...]:
    """A prompt or an answer: one string, a message, or a message list."""
    if isinstance(value, str):
        return (Message(role, text_of(value, column)),)
    if not isinstance(value, dict | list):
        raise BadValue("not_text", f"{column} is {kind_of_value(value)}")
    return messages_of([value] if isinstance(value, dict) else value, column)


def _prompt_completion(row: Mapping[str, Any], source: Source, extra: Mapping[str, Any]) -> Made:
    prompt = _side(row["prompt"], "prompt", "user")
    completion = _side(row["completion"], "completion", "assistant")
    if not any(message.role == "assistant" for message in completion):
        raise BadValue("no_answer", "completion has no assistant turn")
    # only the completion is learnt, whatever turns the prompt has
    prompt = tuple(
        Message(message.role, message.content, bool(message.train), message.extra)
        if message.role == "assistant"
        else message
        for message in prompt
    )
    return _chat(prompt + completion, row, source, extra)


def _alpaca(row: Mapping[str, Any], source: Source, extra: Mapping[str, Any]) -> Made:
    """system, then history's turns, then instruction and input (joined by an empty line), then output."""
    messages: list[Message] = []
    if system := _optional_text(row, "system"):
        messages.append(Message("system", system))
    for index, turn in enumerate(list_of(row.get("history") or [], "history")):
        if not isinstance(turn, list) or len(turn) != 2:
            raise BadValue("wrong_value", f"history[{index}] is not a pair of question and answer")
        messages.append(Message("user", text_of(turn[0], f"history[{index}][0]")))
        messages.append(Message("assistant", text_of(turn[1], f"history[{index}][1]")))
    question = text_of(row["instruction"], "instruction")
    if given := _optional_text(row, "input"):
        question = f"{question}\n\n{given}"
    messages.append(Message("user", question))
    messages.append(Message("assistant", text_of(row["output"], "output")))
    return _chat(tuple(messages), row, source, extra)


def _sharegpt(row: Mapping[str, Any], source: Source, extra: Mapping[str, Any]) -> Made:
    parts = list_of(row["conversations"], "conversations")
    if not parts:
        raise BadValue("empty", "conversations")
    messages = [_sharegpt_turn(part, f"conversations[{index}]") for index, part in enumerate(parts)]
    if (system := _optional_text(row, "system")) and messages[0].role != "system":
        messages.insert(0, Message("system", system))
    elif system:
        raise BadValue("two_systems", "a system column and a system turn")
    return _chat(tuple(messages), row, source, extra)


def _sharegpt_turn(part: Any, place: str) -> Message:
    if not isinstance(part, dict):
        raise BadValue("wrong_value", f"{place} is {kind_of_value(part)}, not an object with from and value")
    if "role" in part:  # OpenAI's keys under ShareGPT's column
        return message_of(part, place)
    for key in ("from", "value"):
        if key not in part:
            raise BadValue("missing_column", f"{place}.{key}")
    if part["from"] not in SHAREGPT_ROLES:
        raise BadValue(
            "wrong_role", f"{place}.from is {str(part['from'])[:40]!r}; possible: {', '.join(SHAREGPT_ROLES)}"
        )
    value = text_of(part["value"], f"{place}.value")
    role: Role = SHAREGPT_ROLES[part["from"]]  # type: ignore[assignment]
    if part["from"] != "function_call":
        return Message(role, value, _train(part, place))
    try:
        call = json.loads(value)
    except ValueError:
        raise BadValue("broken_json", f"{place}.value of a function_call") from None
    return Message(role, "", _train(part, place), {"tool_calls": [{"type": "function", "function": call}]})


def _preference(row: Mapping[str, Any], source: Source, extra: Mapping[str, Any]) -> Made:
    chosen, rejected = row["chosen"], row["rejected"]
    prompt: tuple[Message, ...] = ()
    if row.get("prompt") is not None:
        prompt = _side(row["prompt"], "prompt", "user")
    elif isinstance(chosen, str):
        raise BadValue("hh_rlhf" if chosen.startswith("\n\nHuman:") else "no_prompt")
    first, second = _side(chosen, "chosen", "assistant"), _side(rejected, "rejected", "assistant")
    if not prompt:
        common = _common(first, second)
        prompt, first, second = first[:common], first[common:], second[common:]
        if first == second:
            raise BadValue("same_answers")
        if not prompt:
            raise BadValue("no_prompt")
    elif first[: len(prompt)] == prompt and second[: len(prompt)] == prompt:
        first, second = first[len(prompt) :], second[len(prompt) :]  # some files repeat the prompt in both answers
    if first == second:
        raise BadValue("same_answers")
    for answer in (first, second):
        check_conversation(prompt + answer)
    gap, noise = _number(row, "margin", 0.0), _number(row, "noise", 0.0)
    if not 0 <= noise < 0.5:
        raise BadValue("wrong_value", f"noise is {noise}; possible: 0 to under 0.5")
    weight, tools, kwargs = _weight(row), _tools(row), _template_kwargs(row)
    judged = [] if (weight, noise) == (1.0, 0.0) else [[weight, noise]]
    return Made(
        [_plain(prompt), _plain(first), _plain(second), gap, list(tools), dict(kwargs), *judged],
        lambda id: Comparison(
            id,
            source,
            prompt,
            first,
            second,
            Verdict.FIRST,
            weight=weight,
            margin=gap,
            noise=noise,
            tools=tools,
            template_kwargs=kwargs,
            extra=extra,
        ),
    )


def _number(row: Mapping[str, Any], column: str, default: float) -> float:
    value = row.get(column)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadValue("wrong_value", f"{column} is {kind_of_value(value)}")
    if not -LARGEST <= value <= LARGEST:
        said = f"{value:g}" if isinstance(value, float) else f"an integer of {value.bit_length()} bits"
        raise BadValue("wrong_value", f"{column} is {said}; possible: up to {LARGEST:g}")
    return float(value)


def _weight(row: Mapping[str, Any]) -> float:
    """How much the row counts."""
    weight = _number(row, "weight", 1.0)
    if weight <= 0:
        raise BadValue("wrong_value", f"weight is {weight}; possible: a number over 0")
    return weight


def _common(first: tuple[Message, ...], second: tuple[Message, ...]) -> int:
    """Messages that both answers begin with; at least the last message of each is an answer."""
    count = 0
    while count < min(len(first), len(second)) and first[count] == second[count]:
        count += 1
    return count


def _unpaired(row: Mapping[str, Any], source: Source, extra: Mapping[str, Any]) -> Made:
    prompt, completion = _side(row["prompt"], "prompt", "user"), _side(row["completion"], "completion", "assistant")
    check_conversation(prompt + completion)
    label = row["label"]
    if label not in (True, False):  # 1 and 0 as well
        raise BadValue("wrong_value", f"label is {str(label)[:40]!r}; possible: true, false")
    good, weight = bool(label), _weight(row)
    return Made(
        [_plain(prompt), _plain(completion), good, *([] if weight == 1.0 else [weight])],
        lambda id: Rated(id, source, prompt, completion, good, extra, weight),
    )


def _prompt(row: Mapping[str, Any], source: Source, extra: Mapping[str, Any]) -> Made:
    messages = _side(row["prompt"], "prompt", "user")
    check_conversation(messages, answered=False)
    tools, kwargs = _tools(row), _template_kwargs(row)
    return Made(
        [_plain(messages), list(tools), dict(kwargs)], lambda id: Prompt(id, source, messages, tools, kwargs, extra)
    )


_CHAT_OPTIONS = ("tools", "chat_template_kwargs")
FORMS: dict[str, Form] = {
    "text": Form(("text",), (), _text),
    "messages": Form(("messages",), _CHAT_OPTIONS, _messages),
    "unpaired": Form(("prompt", "completion", "label"), ("weight",), _unpaired),
    "prompt_completion": Form(("prompt", "completion"), _CHAT_OPTIONS, _prompt_completion),
    "alpaca": Form(("instruction", "output"), ("input", "system", "history", *_CHAT_OPTIONS), _alpaca),
    "sharegpt": Form(("conversations",), ("system", *_CHAT_OPTIONS), _sharegpt),
    "preference": Form(("chosen", "rejected"), ("prompt", "margin", "weight", "noise", *_CHAT_OPTIONS), _preference),
    "prompt": Form(("prompt",), _CHAT_OPTIONS, _prompt),
    "labelled": Form(("text", "label"), (), taskforms.labelled),
    "text_pair": Form(("sentence1", "sentence2", "label"), (), taskforms.text_pair),
    "spans": Form(("text", "spans"), (), taskforms.tagged),
    "tokens": Form(("tokens", "ner_tags"), (), taskforms.tokens),
    "squad": Form(("question", "context", "answers"), ("is_impossible",), taskforms.question),
}
# "prompt" is for methods that need no answers: elsewhere a file that lost its answers must not pass for one
DETECTED = tuple(name for name in FORMS if name != "prompt")
