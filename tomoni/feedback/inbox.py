"""The inbox: what `serve` writes, for the store to take in. One file (segment) a process, one JSON object a line. No torch.

    AnswerEvent    a completion that was served, with its features
    FeedbackEvent  what an application's user said of one: becomes judgements of a person "api:<who>"
    PromptEvent    a prompt from traffic, without an answer
    PairEvent      two answers to put before people: what a round asks, whoever writes the store

`append` returns when the lines are on the disk. Whoever writes a segment holds a lock on it, so that the store knows
which are still being written to.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from tomoni import locking
from tomoni.durable import sync
from tomoni.errors import DiskError
from tomoni.feedback.entries import Purpose, message_from, plain_message
from tomoni.feedback.schema import dumps
from tomoni.feedback.workspace import naming, now
from tomoni.records import Message

FOLDER = "inbox"
SUFFIX = ".jsonl"
LONGEST_SEGMENT = 8 << 20  # bytes; then the next one is begun, so that what is taken in can be removed


def _new_id() -> str:
    return secrets.token_hex(12)


@dataclass(frozen=True, slots=True, eq=False)
class AnswerEvent:
    id: str  # of the completion, as the application knows it
    messages: tuple[Message, ...]  # the prompt
    version: str
    version_hash: str
    text: str
    features: NDArray[np.float32] | None = None  # [D]
    logprob: float | None = None
    tokens: int = 0
    how: Mapping[str, Any] = field(default_factory=dict)
    by: str | None = None  # who asked: the key's name or the request's user
    event: str = field(default_factory=_new_id)
    at: str = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class FeedbackEvent:
    """Any of up, stars, correction, comment, flags may be given; `tags` go along with each."""

    completion: str
    person: str  # the key's name or the request's user; the store puts "api:" before it
    up: bool | None = None
    stars: int | None = None  # 1 to 5
    correction: str | None = None  # the answer as it should have been
    comment: str = ""
    flags: tuple[str, ...] = ()  # of harmful, private, untrue
    tags: tuple[str, ...] = ()
    event: str = field(default_factory=_new_id)  # the same event twice counts once
    at: str = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class PromptEvent:
    messages: tuple[Message, ...]
    by: str | None = None
    event: str = field(default_factory=_new_id)
    at: str = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class PairAnswer:
    id: str
    version: str
    version_hash: str
    text: str
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class PairEvent:
    """`id` is the pair's; the same one twice counts once. Its prompt is held out from training."""

    id: str
    messages: tuple[Message, ...]
    answers: tuple[PairAnswer, PairAnswer]
    purpose: Purpose = "gate"
    selected_by: str = "random"
    topic: str = ""
    event: str = field(default_factory=_new_id)
    at: str = field(default_factory=now)


Event = AnswerEvent | FeedbackEvent | PromptEvent | PairEvent


def line_of(event: Event) -> bytes:
    match event:
        case AnswerEvent():
            body: dict[str, Any] = {
                "type": "answer", "event": event.event, "at": event.at, "id": event.id,
                "messages": [plain_message(message) for message in event.messages],
                "version": event.version, "version_hash": event.version_hash, "text": event.text,
                "features": encode_features(event.features), "logprob": event.logprob, "tokens": event.tokens,
                "how": dict(event.how), "by": event.by,
            }  # fmt: skip
        case FeedbackEvent():
            body = {
                "type": "feedback", "event": event.event, "at": event.at, "completion": event.completion,
                "person": event.person, "up": event.up, "stars": event.stars, "correction": event.correction,
                "comment": event.comment, "flags": list(event.flags), "tags": list(event.tags),
            }  # fmt: skip
        case PromptEvent():
            messages = [plain_message(message) for message in event.messages]
            body = {"type": "prompt", "event": event.event, "at": event.at, "messages": messages, "by": event.by}
        case PairEvent():
            messages = [plain_message(message) for message in event.messages]
            body = {
                "type": "pair", "event": event.event, "at": event.at, "id": event.id, "messages": messages,
                "answers": [asdict(answer) for answer in event.answers], "purpose": event.purpose,
                "selected_by": event.selected_by, "topic": event.topic,
            }  # fmt: skip
    return dumps(body).encode("utf-8") + b"\n"


def event_of(line: bytes) -> Event:
    """Raises ValueError, KeyError or TypeError where the line is damaged."""
    body = json.loads(line.decode("utf-8"))
    kind = body["type"]
    if kind == "prompt":
        return PromptEvent(_messages(body), body.get("by"), _text(body, "event"), _text(body, "at"))
    if kind == "feedback":
        return FeedbackEvent(
            _text(body, "completion"), _text(body, "person"), body.get("up"), body.get("stars"),
            body.get("correction"), body.get("comment") or "", tuple(body.get("flags") or ()),
            tuple(body.get("tags") or ()), _text(body, "event"), _text(body, "at"),
        )  # fmt: skip
    if kind == "pair":
        first, second = (PairAnswer(**answer) for answer in body["answers"])
        if (purpose := _text(body, "purpose")) not in get_args(Purpose):
            raise ValueError(f"the purpose {purpose!r} is not known")
        return PairEvent(
            _text(body, "id"), _messages(body), (first, second), cast(Purpose, purpose), _text(body, "selected_by"),
            _text(body, "topic"), _text(body, "event"), _text(body, "at"),
        )  # fmt: skip
    if kind != "answer":
        raise ValueError(f"the type {kind!r} is not known")
    return AnswerEvent(
        _text(body, "id"), _messages(body), _text(body, "version"), _text(body, "version_hash"), _text(body, "text"),
        decode_features(body.get("features")), body.get("logprob"), int(body.get("tokens") or 0),
        body.get("how") or {}, body.get("by"), _text(body, "event"), _text(body, "at"),
    )  # fmt: skip


def _text(body: Mapping[str, Any], key: str) -> str:
    if not isinstance(body[key], str):
        raise TypeError(f"{key} is no text")
    return str(body[key])


def _messages(body: Mapping[str, Any]) -> tuple[Message, ...]:
    return tuple(message_from(message) for message in body["messages"])


def encode_features(features: NDArray[np.float32] | None) -> str | None:
    """Base64 of float32, little end first."""
    if features is None:
        return None
    return base64.b64encode(np.ascontiguousarray(features, dtype="<f4").tobytes()).decode("ascii")


def decode_features(text: str | None) -> NDArray[np.float32] | None:
    if text is None:
        return None
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float32)


class Inbox:
    """This process's end of the inbox; any thread may append. Makes nothing on the disk before the first event."""

    def __init__(self, workspace: str | Path) -> None:
        self.folder = Path(workspace).expanduser() / FOLDER
        self._lock = threading.Lock()
        self._handle = -1
        self._size = 0
        self._failed: DiskError | None = None

    def append(self, events: Sequence[Event]) -> None:
        """On the disk when this returns; DiskError where that cannot be said. After an fsync that failed nothing more
        is taken."""
        lines = b"".join(line_of(event) for event in events)
        if not lines:
            return
        with self._lock:
            if self._failed is not None:
                raise self._failed
            with naming(self.folder):
                if self._handle < 0 or self._size + len(lines) > LONGEST_SEGMENT:
                    self._begin()
                self._write(lines)

    def _begin(self) -> None:
        self._close()
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        # locked before it has the name by which the store finds it
        aside = self.folder / f".{name}"
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        locking.keep(handle)
        os.rename(aside, self.folder / name)
        sync(self.folder)
        sync(self.folder.parent)
        self._handle, self._size = handle, 0

    def _write(self, lines: bytes) -> None:
        try:
            view = memoryview(lines)
            while view:
                view = view[os.write(self._handle, view) :]
        except OSError:
            # what was written of these lines was not acknowledged; whoever comes next writes behind it, on a new line
            os.ftruncate(self._handle, self._size)
            raise
        try:
            os.fsync(self._handle)
        except OSError as error:
            self._failed = DiskError(
                f"{self.folder} could not be written ({error.strerror}); nothing of this was stored",
                next_step="check the disk, then start again",
            )
            raise self._failed from error
        self._size += len(lines)

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1
