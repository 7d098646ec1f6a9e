"""What is compared between two programs that run the same model: prompts, and greedy answers with their logprobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from tomoni.records import Message
from tomoni.rows import Float32, Int32

KEPT = 256  # of the likeliest tokens at each place; together they hold nearly all of the probability


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that asks for an answer, or a plain `text` to continue (then `messages` is empty)."""

    id: str
    messages: tuple[Message, ...] = ()
    text: str | None = None

    @property
    def shown(self) -> str:
        return self.text if self.text is not None else self.messages[-1].content


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """`tokens` int32 [T], the end token included. At each of these places: `ids` [T, K] the likeliest tokens, and
    `logprobs` [T, K] theirs, in nats; -1 and -inf where the program does not tell them."""

    tokens: Int32
    finish: Literal["stop", "length"]
    ids: Int32
    logprobs: Float32


class Reader(Protocol):
    """A program that runs an exported model. `text` is None where it has no template engine of its own."""

    name: str

    def text(self, prompt: Prompt) -> str | None: ...

    def tokens(self, prompt: Prompt) -> Int32: ...

    def answers(self, prompts: Sequence[Int32], most: int) -> list[Answer]: ...

    def ends_at(self, token: int, tokens: Int32) -> bool: ...


def likeliest(logits_V: Float32) -> tuple[Int32, Float32]:
    """Of logits [V]: the likeliest tokens [K] and their logprobs [K], the likeliest first."""
    values = logits_V.astype(np.float64)
    top = values.max()
    values = values - (top + np.log(np.exp(values - top).sum()))
    kept = min(KEPT, len(values))
    best = np.argpartition(-values, kept - 1)[:kept]
    best = best[np.argsort(-values[best], kind="stable")]
    return best.astype(np.int32), values[best].astype(np.float32)
