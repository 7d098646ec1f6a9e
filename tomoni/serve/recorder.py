"""What is said goes to the workspace's inbox: completions in the background, feedback before it is acknowledged."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from tomoni.errors import DiskError
from tomoni.feedback.inbox import AnswerEvent, Event
from tomoni.records import Message
from tomoni.serve.streams import Choice, Stream

log = logging.getLogger("tomoni.serve")


class Box(Protocol):
    """`feedback.inbox.Inbox`: what is appended is on the disk when `append` returns."""

    def append(self, events: Sequence[Event], /) -> None: ...
    def close(self) -> None: ...


class Recorder:
    """One thread that writes, many events at a time. Without a box nothing is kept. `lost` counts completions that the
    disk did not take."""

    def __init__(self, box: Box | None) -> None:
        self._box = box
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inbox")
        self._waiting: list[Event] = []
        self._lock = threading.Lock()
        self.lost = 0

    @property
    def keeps(self) -> bool:
        return self._box is not None

    def keep(self, stream: Stream) -> None:
        """A finished stream's answers; returns at once."""
        if self._box is None:
            return
        events = [event_of(stream, choice) for choice in stream.choices if choice.tokens]
        with self._lock:
            self._waiting += events
        self._pool.submit(self._drain)

    def write(self, event: Event) -> Future[None]:
        """Done when the event is on the disk, after all that came before it; else with the DiskError."""
        return self._pool.submit(self._write, event)

    def close(self) -> None:
        """After all that came before is written."""
        self._pool.shutdown(wait=True)
        if self._box is not None:
            self._box.close()

    def _write(self, event: Event) -> None:
        self._drain()
        if self._box is not None:
            self._box.append([event])

    def _drain(self) -> None:
        with self._lock:
            events, self._waiting = self._waiting, []
        if not events or self._box is None:
            return
        try:
            self._box.append(events)
        except DiskError as error:
            self.lost += len(events)
            log.error("%d completions are not kept: %s", len(events), error.what)


def event_of(stream: Stream, choice: Choice) -> AnswerEvent:
    ask, how = stream.ask, stream.ask.how
    return AnswerEvent(
        id=ask.name(choice.index),
        messages=tuple(Message(role, content) for role, content in ask.messages),  # type: ignore[arg-type]
        version=stream.loaded.version,
        version_hash=stream.loaded.hash,
        text=choice.text,
        features=choice.features,
        logprob=choice.logprob,
        tokens=len(choice.tokens),
        how={
            "temperature": how.temperature,
            "top_p": how.top_p,
            "top_k": how.top_k,
            "min_p": how.min_p,
            "max_tokens": how.max_new_tokens,
            "seed": how.seed,
            "choice": choice.index,
            "stop": list(how.stop),
            "presence_penalty": how.presence_penalty,
            "repetition_penalty": how.repetition_penalty,
            "finish": choice.finish,
            "prompt_tokens": len(ask.prompt),
            "form": ask.form,
            "asked_by": ask.asked_by,
        },
        by=ask.user,
    )
