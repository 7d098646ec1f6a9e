"""From a request to its stream of answers: what is served, how it is drawn, whether there is room, and for how long."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tomoni.engine.sampler import Sampling
from tomoni.errors import UserError
from tomoni.records import Message
from tomoni.serve.bodies import Sampled
from tomoni.serve.ids import Ids
from tomoni.serve.recorder import Recorder
from tomoni.serve.refusals import Refusal, too_busy
from tomoni.serve.streams import Ask, Part, Stream
from tomoni.serve.versions import Loaded, Versions
from tomoni.serve.worker import Worker

LONG_TEXT = 20_000  # characters from which on text is not made tokens on the event loop
REMEMBERED = 10_000  # Idempotency-Keys
Result = TypeVar("Result")
_SEEDS = random.Random()  # seeded by the system; for answers whose seed nobody chose


@dataclass(frozen=True)
class Limits:
    """`running` answers at once, `waiting` ones behind them; seconds until a first token, and for a whole request."""

    running: int = 64
    waiting: int = 128
    queue_seconds: float = 60.0
    request_seconds: float = 600.0
    body_bytes: int = 4 << 20


class Load:
    """How many answers are not finished, and how fast they come. Belongs to the event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.unfinished = 0
        self._seconds = 1.0  # that an answer holds its place, a moving average

    @property
    def running(self) -> int:
        return min(self.unfinished, self._limits.running)

    @property
    def waiting(self) -> int:
        return self.unfinished - self.running

    def take(self, answers: int) -> None:
        """Places for so many; raises Refusal where there are none."""
        if answers > self._limits.running + self._limits.waiting - self.unfinished:
            raise too_busy(self.wait(), f"The queue is full ({self.waiting} answers wait).")
        self.unfinished += answers

    def wait(self) -> int:
        """Seconds until places are likely to be free."""
        return max(1, min(60, math.ceil(self._seconds * max(1, self.waiting) / self._limits.running)))

    def give_back(self, answers: int, seconds: float) -> None:
        self.unfinished -= answers
        self._seconds += 0.1 * (seconds - self._seconds)


@dataclass
class Service:
    """All that the routes need; one event loop's."""

    versions: Versions
    worker: Worker
    recorder: Recorder
    ids: Ids
    limits: Limits = field(default_factory=Limits)
    said: dict[str, bytes] = field(default_factory=dict)  # event ids of Idempotency-Keys -> digests of what was sent

    def __post_init__(self) -> None:
        self.load = Load(self.limits)

    # -- prompts ---------------------------------------------------------------------------------------------------

    async def chat_prompt(self, loaded: Loaded, messages: Sequence[Message]) -> tuple[int, ...]:
        """The conversation's tokens; control tokens come from the template alone. Raises Refusal."""
        size = sum(len(message.content) for message in messages)
        tokens = await _aside(size, lambda: loaded.subject.renderer.prompt(messages))
        return self._fitting(loaded, tuple(tokens.tolist()), "messages")

    async def text_prompt(self, loaded: Loaded, text: str, param: str = "prompt") -> tuple[int, ...]:
        """A text's tokens, with what the tokenizer puts in front; control tokens spelt in it are plain text."""
        encoder = loaded.subject.renderer.encoder
        plain = await _aside(len(text), lambda: encoder.plain(text))
        tokens = (*encoder.bos, *plain)
        if not tokens and encoder.eos is not None:
            tokens = (encoder.eos,)  # the beginning of any text
        return self._fitting(loaded, tokens, param)

    def _fitting(self, loaded: Loaded, tokens: tuple[int, ...], param: str) -> tuple[int, ...]:
        if loaded.sampler.room(tokens) > 0:
            return tokens
        context = loaded.sampler.context
        raise Refusal(
            400,
            f"This model's context is {context} tokens, and the {param} take {len(tokens)}: no room for an answer. "
            "Shorten them.",
            code="context_length_exceeded",
            param=param,
        )

    # -- answers ---------------------------------------------------------------------------------------------------

    def sampling(
        self, loaded: Loaded, body: Sampled, *, longest: int | None, stop: Sequence[str] = (), likeliest: int = 0
    ) -> Sampling:
        """What is left out is as the model's own generation config says, else the likeliest tokens."""
        own = loaded.subject.model.generation_config
        drawn = bool(getattr(own, "do_sample", False))
        return Sampling(
            max_new_tokens=longest or 2**31,
            temperature=_first(body.temperature, own.temperature if drawn else None, 1.0 if drawn else 0.0),
            top_p=_first(body.top_p, own.top_p if drawn else None, 1.0),
            top_k=int(_first(body.top_k, own.top_k if drawn else None, 0)),
            min_p=_first(body.min_p, getattr(own, "min_p", None) if drawn else None, 0.0),
            presence_penalty=body.presence_penalty or 0.0,
            repetition_penalty=_first(body.repetition_penalty, own.repetition_penalty, 1.0),
            stop=tuple(stop),
            seed=_SEEDS.getrandbits(31) if body.seed is None else body.seed,
            top_logprobs=likeliest,
        )

    def open(self, ask: Ask, loaded: Loaded) -> Stream:
        """Queue it. Raises Refusal where the queue is full."""
        self.load.take(ask.choices)
        loop = asyncio.get_running_loop()
        stream = Stream(ask, loaded, loop)
        begun = time.monotonic()
        timers = [
            loop.call_later(self.limits.queue_seconds, self._not_begun, stream),
            loop.call_later(self.limits.request_seconds, self._too_long, stream),
        ]

        def ended() -> None:
            for timer in timers:
                timer.cancel()
            self.load.give_back(ask.choices, time.monotonic() - begun)

        stream.on_end(ended)
        self.worker.submit(stream)
        return stream

    def close(self, stream: Stream) -> None:
        """Nobody listens any more: its places are free at the next step."""
        if not stream.done:
            self.worker.cancel(stream)

    async def finished(self, stream: Stream, gone: Callable[[], Awaitable[None]]) -> list[Part]:
        """All of it, at its end; where the client leaves first (`gone` returns), cancel it and raise Refusal."""
        whole = asyncio.ensure_future(stream.whole())
        leaving = asyncio.ensure_future(gone())
        try:
            await asyncio.wait({whole, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not whole.done():
                raise Refusal(408, "The client left.", code="client_left")
            return await whole
        finally:
            whole.cancel()
            leaving.cancel()
            self.close(stream)

    def _not_begun(self, stream: Stream) -> None:
        if not (stream.started or stream.done):
            self._stop(stream, too_busy(self.load.wait(), f"No place was free for {self.limits.queue_seconds:g} s."))

    def _too_long(self, stream: Stream) -> None:
        if not stream.done:
            seconds = f"{self.limits.request_seconds:g}"
            self._stop(stream, Refusal(408, f"The answer was not finished after {seconds} s.", code="timeout"))

    def _stop(self, stream: Stream, refusal: Refusal) -> None:
        self.worker.cancel(stream)
        stream.deliver([], done=True, failure=refusal)


async def _aside(size: int, work: Callable[[], Result]) -> Result:
    """Short work here, long work on a thread."""
    try:
        return work() if size < LONG_TEXT else await asyncio.to_thread(work)
    except UserError as error:
        raise Refusal(400, error.what, code="invalid_messages", param="messages") from error


def _first(*values: Any) -> float:
    return float(next(value for value in values if value is not None))
