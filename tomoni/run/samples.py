"""A few prompts from the data, and the model's answers to them before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tomoni.data.render import Renderer
from tomoni.engine.sampler import Sampling
from tomoni.errors import UserError
from tomoni.records import Chat, Comparison, Message, Prompt, Rated, Record, Text
from tomoni.rows import Int32
from tomoni.run.job import Tokenizer
from tomoni.run.outcome import Answer

if TYPE_CHECKING:
    from tomoni.engine.engine import Engine

MAX_NEW_TOKENS = 128
BEGINNING = 32  # tokens of a text that are given; the model continues


@dataclass(frozen=True)
class Sample:
    """`shown` holds the prompt as people read it and the desired answer."""

    tokens: Int32
    shown: Answer


def samples(
    records: Sequence[Record], render: Renderer, tokenizer: Tokenizer, *, count: int, context: int | None
) -> list[Sample]:
    """The first `count` of the records that can be asked: the template takes them, and the answer has room."""
    found: list[Sample] = []
    for record in records:
        if len(found) == count:
            break
        try:
            sample = _sample(record, render, tokenizer)
        except UserError:
            continue
        if sample is not None and (context is None or len(sample.tokens) + MAX_NEW_TOKENS <= context):
            found.append(sample)
    return found


def answers(engine: Engine, tokenizer: Tokenizer, render: Renderer, asked: Sequence[Sample]) -> Callable[[], list[str]]:
    """A function that asks the model as it is when called: greedily, so that before and after can be compared."""

    def ask() -> list[str]:
        sampler = engine.sampler(tokenizer, eos_ids=render.stop_tokens or None)
        how = Sampling(max_new_tokens=MAX_NEW_TOKENS, temperature=0.0)
        return [completion.text for completion in sampler.sample([sample.tokens for sample in asked], how)]

    return ask


def _sample(record: Record, render: Renderer, tokenizer: Tokenizer) -> Sample | None:
    match record:
        case Chat(messages=messages):
            last = max((index for index, message in enumerate(messages) if message.role == "assistant"), default=0)
            if last == 0:
                return None
            tokens = render.prompt(messages[:last], record.tools, record.template_kwargs)
            shown = Answer(_readable(messages[:last]), messages[last].content, asked=messages[last - 1].content)
            return Sample(tokens, shown)
        case Prompt(messages=messages) | Comparison(prompt=messages):
            desired = record.first[-1].content if isinstance(record, Comparison) else ""
            tokens = render.prompt(messages, record.tools, record.template_kwargs)
            return Sample(tokens, Answer(_readable(messages), desired, asked=messages[-1].content))
        case Rated(prompt=messages):
            tokens = render.prompt(messages)
            desired = record.completion[-1].content if record.good else ""
            return Sample(tokens, Answer(_readable(messages), desired, asked=messages[-1].content))
        case Text():
            tokens = render.text(record)[0].tokens
            begin = tokens[: min(BEGINNING, max(1, len(tokens) // 2))]
            rest = tokens[len(begin) : len(begin) + MAX_NEW_TOKENS]
            return Sample(begin, Answer(_decode(tokenizer, begin), _decode(tokenizer, rest)))
        case _:
            return None


def _readable(messages: Sequence[Message]) -> str:
    if len(messages) == 1:
        return messages[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in messages)


def _decode(tokenizer: Tokenizer, tokens: Int32) -> str:
    return str(tokenizer.decode(tokens.tolist(), skip_special_tokens=True))
