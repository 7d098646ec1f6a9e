"""One request's answers on their way from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tomoni.engine.draw import Likeliest
from tomoni.engine.sampler import Sampling
from tomoni.rows import Float32
from tomoni.serve.ids import answer_id

if TYPE_CHECKING:
    from tomoni.serve.versions import Loaded

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Token:
    id: int
    logprob: float
    likeliest: Likeliest = ()


@dataclass(frozen=True, slots=True)
class Part:
    """What became certain of one choice since its last part."""

    choice: int
    text: str
    tokens: tuple[Token, ...]
    finish: Finish | None


@dataclass(slots=True)
class Choice:
    """One answer, as the engine's thread fills it. `tokens` has the end token where the model gave one; `logprob` is
    summed over them, in nats."""

    index: int
    tokens: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    logprob: float = 0.0
    finish: Finish | None = None
    features: Float32 | None = None
    # not yet sent
    new_texts: list[str] = field(default_factory=list)
    new_tokens: list[Token] = field(default_factory=list)
    end_sent: bool = False

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def has_news(self) -> bool:
        return bool(self.new_texts or self.new_tokens or (self.finish and not self.end_sent))

    def part(self) -> Part:
        made = Part(self.index, "".join(self.new_texts), tuple(self.new_tokens), self.finish)
        self.new_texts.clear()
        self.new_tokens.clear()
        self.end_sent = self.finish is not None
        return made


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of a model: a prompt's tokens, how each choice is drawn, and whether parts are wanted as they come.

    `tells_tokens`: each token is told, with its log-probability. `messages` and `form` are for the record."""

    id: str
    prompt: tuple[int, ...]
    how: Sampling
    choices: int
    streams: bool = False
    tells_tokens: bool = False
    messages: tuple[tuple[str, str], ...] = ()
    form: Literal["chat", "text"] = "chat"
    user: str | None = None
    asked_by: Literal["api", "studio"] = "api"
    kept: bool = True  # written to the inbox
    with_features: bool = False  # which the client waits for
    offset: int = 0  # of its choices among those of the completion, where that has several prompts

    def name(self, choice: int) -> str:
        """Of an answer, wherever it is spoken of."""
        return answer_id(self.id, self.offset + choice)


class Stream:
    """The answers to one `Ask`, all by one loaded model. `choices` belong to the engine's thread until `done`; what the
    event loop reads before comes through `next`."""

    def __init__(self, ask: Ask, loaded: Loaded, loop: asyncio.AbstractEventLoop) -> None:
        self.ask = ask
        self.loaded = loaded
        self.loop = loop
        self.choices = [Choice(index) for index in range(ask.choices)]
        self.begun = time.monotonic()
        self.started = False  # its first token is there
        self.told = False  # something of it was sent
        self.done = False  # as the event loop knows it
        self.settled: Future[None] = Future()  # features are computed, where they are, and the record is on its way
        self._parts: list[Part] = []
        self._failure: Exception | None = None
        self._something = asyncio.Event()
        self._at_end: Callable[[], None] | None = None

    # on the event loop

    def on_end(self, call: Callable[[], None]) -> None:
        """`call` is called once, when the last part is delivered, or the failure."""
        self._at_end = call

    def deliver(self, parts: Sequence[Part], *, done: bool, failure: Exception | None = None) -> None:
        if self.done:
            return
        self._parts += parts
        self.done = done
        self._failure = failure
        self._something.set()
        if done and self._at_end is not None:
            self._at_end()

    async def next(self) -> list[Part]:
        """The parts since the last call; waits for one. Raises what the engine or a time limit said against it."""
        await self._something.wait()
        self._something.clear()
        if self._failure is not None:
            raise self._failure
        parts, self._parts = self._parts, []
        return parts

    @property
    def told_all(self) -> bool:
        """There is nothing more for `next` to give or to raise."""
        return self.done and not self._parts and self._failure is None

    async def whole(self) -> list[Part]:
        """Everything, at the end of every choice."""
        parts: list[Part] = []
        while not self.told_all:
            parts += await self.next()
        return parts
