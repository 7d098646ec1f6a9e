"""The one thread that computes: it steps the samplers, tells the event loop what they say, and pools features.

What a step says is sent at once where it is a first token or an end, and otherwise gathered for `GATHER` seconds: a
small model makes a token faster than a socket and an event loop wake up for one.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch

from tomoni.engine.sampler import Increment
from tomoni.serve.refusals import refusal_of
from tomoni.serve.streams import Choice, Part, Stream, Token

if TYPE_CHECKING:
    from tomoni.serve.versions import Loaded

GATHER = 0.03  # seconds
BACKLOG = 16  # finished answers that wait for their features while others run
Result = TypeVar("Result")
Delivery = tuple[Stream, list[Part], bool, Exception | None]

log = logging.getLogger("tomoni.serve")


class Worker:
    """`kept` gets each finished stream after its features were computed, on the worker's thread."""

    def __init__(self, *, threads: int | None, kept: Callable[[Stream], None], gather: float = GATHER) -> None:
        self._threads = threads
        self._kept = kept
        self._gather = gather
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._answers: dict[str, tuple[Stream, Choice]] = {}
        self._active: dict[Loaded, int] = {}  # models with running answers, and how many
        self._fresh: dict[Stream, None] = {}  # streams with parts that are not sent yet
        self._backlog: list[Stream] = []
        self._sent = 0.0
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # -- from any thread -------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float = 30.0) -> None:
        """End after what runs, and after the features of all that ran."""
        self._commands.put(self._end)
        self._thread.join(seconds)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, stream: Stream) -> None:
        self._commands.put(lambda: self._add(stream))

    def cancel(self, stream: Stream) -> None:
        """Its places are free at the next step."""
        self._commands.put(lambda: self._cancel(stream))

    def settle(self) -> Future[None]:
        """Compute the features of what has finished now, and not when there is time. Done when they are kept."""
        return self.call(self._settle)

    def call(self, work: Callable[[], Result]) -> Future[Result]:
        """Run something between two steps: the model is nobody else's meanwhile."""
        done: Future[Result] = Future()

        def run() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(work())
            except Exception as error:  # whoever asked is told
                done.set_exception(error)

        self._commands.put(run)
        return done

    # -- on the worker's thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        if self._threads:
            torch.set_num_threads(self._threads)  # which counts for the thread that says it
        while True:
            self._obey()
            for loaded in list(self._active):
                self._step(loaded)
            self._send()
            if len(self._backlog) >= (BACKLOG if self._active else 1):
                self._settle()
            if self._ending and not (self._active or self._backlog):
                return

    def _obey(self) -> None:
        """What was asked since the last step; waits where nothing else is to be done."""
        waits = not (self._active or self._backlog or self._ending)
        with contextlib.suppress(queue.Empty):
            command = self._commands.get(block=waits)
            while True:
                command()
                command = self._commands.get_nowait()

    def _end(self) -> None:
        self._ending = True

    def _add(self, stream: Stream) -> None:
        ask, sampler = stream.ask, stream.loaded.sampler
        try:
            for choice in stream.choices:
                name = ask.name(choice.index)
                how = replace(ask.how, logprobs=True)  # of the answer as a whole it is kept
                sampler.add(ask.prompt, how, name, draws=str(choice.index))
                self._answers[name] = (stream, choice)
                self._active[stream.loaded] = self._active.get(stream.loaded, 0) + 1
        except Exception as error:
            self._cancel(stream)
            self._fail(stream, error)

    def _cancel(self, stream: Stream) -> None:
        for choice in stream.choices:
            name = stream.ask.name(choice.index)
            if name in self._answers:
                stream.loaded.sampler.cancel(name)

    def _step(self, loaded: Loaded) -> None:
        try:
            increments = loaded.sampler.step()
        except Exception as error:  # a damaged model: its answers fail, the others go on
            self._fail_all(loaded, error)
            return
        for increment in increments:
            self._take(increment)

    def _take(self, increment: Increment) -> None:
        known = self._answers.get(increment.id)
        if known is None:  # it failed before; the sampler says that it was cancelled
            return
        stream, choice = known
        if increment.token is not None:
            choice.tokens.append(increment.token)
            choice.logprob += increment.logprob or 0.0
            if stream.ask.tells_tokens:
                choice.new_tokens.append(Token(increment.token, increment.logprob or 0.0, increment.likeliest))
        if increment.text:
            choice.texts.append(increment.text)
            choice.new_texts.append(increment.text)
        if increment.finished:
            choice.finish = increment.finished
            self._leave(increment.id, stream)
        if stream.ask.streams:
            self._fresh[stream] = None
        stream.started = True

    def _leave(self, name: str, stream: Stream) -> None:
        self._forget(name, stream)
        if all(choice.finish for choice in stream.choices):
            self._fresh[stream] = None
            self._backlog.append(stream)
            if stream.ask.with_features:
                self._settle()

    def _forget(self, name: str, stream: Stream) -> None:
        if self._answers.pop(name, None) is None:
            return
        self._active[stream.loaded] -= 1
        if not self._active[stream.loaded]:
            del self._active[stream.loaded]

    def _send(self) -> None:
        """Ends and beginnings at once; all else when enough time has passed."""
        if not self._fresh:
            return
        now = time.monotonic()
        everything = now - self._sent >= self._gather or not self._active
        ready: list[Delivery] = []
        for stream in list(self._fresh):
            done = all(choice.finish for choice in stream.choices)
            first = not stream.told
            if not (done or first or everything):
                continue
            parts = [choice.part() for choice in stream.choices if choice.has_news]
            stream.told = stream.told or bool(parts)
            del self._fresh[stream]
            if parts or done:
                ready.append((stream, parts, done, None))
        if everything:
            self._sent = now
        if ready:
            _deliver(ready)

    def _settle(self) -> None:
        backlog, self._backlog = self._backlog, []
        wanted = [stream for stream in backlog if stream.ask.kept or stream.ask.with_features]
        for loaded in {stream.loaded for stream in wanted}:
            _pool(loaded, [stream for stream in wanted if stream.loaded is loaded])
        for stream in backlog:
            try:
                if stream.ask.kept:
                    self._kept(stream)
            finally:
                stream.settled.set_result(None)

    def _fail(self, stream: Stream, error: Exception) -> None:
        for choice in stream.choices:
            self._forget(stream.ask.name(choice.index), stream)
        self._fresh.pop(stream, None)
        _deliver([(stream, [], True, refusal_of(error))])
        if not stream.settled.done():
            stream.settled.set_result(None)

    def _fail_all(self, loaded: Loaded, error: Exception) -> None:
        loaded.renew_sampler()
        for stream in {stream for stream, _ in self._answers.values() if stream.loaded is loaded}:
            self._fail(stream, error)


def _pool(loaded: Loaded, streams: Sequence[Stream]) -> None:
    """The features of all their answers, in one go; answers without them where the model cannot give any."""
    pairs = [(stream, choice) for stream in streams for choice in stream.choices if choice.tokens]
    ends = loaded.sampler.eos_ids
    said = [choice.tokens[:-1] if choice.tokens[-1] in ends else choice.tokens for _, choice in pairs]
    try:
        found = loaded.pooled.answers(
            [stream.ask.prompt for stream, _ in pairs],
            [tokens or choice.tokens for tokens, (_, choice) in zip(said, pairs, strict=True)],
        )
    except Exception as error:
        refusal_of(error)  # which logs it
        return
    for (_, choice), vector in zip(pairs, found, strict=True):
        choice.features = vector


def _deliver(ready: Sequence[Delivery]) -> None:
    """One wake-up of the event loop for all of them."""

    def on_loop() -> None:
        for stream, parts, done, failure in ready:
            stream.deliver(parts, done=done, failure=failure)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
        ready[0][0].loop.call_soon_threadsafe(on_loop)
