"""Records: what stands on disk, one line of a data file after parsing. No torch.

Every record knows where it came from (`source`: file and 1-based line or row) and has an `id` by which it is named in
messages, in the sample ledger and in every random draw. The id is the file's own `id` column where there is one, else
a hash of the content, so that the same line has the same id in every run. `extra` keeps the columns that the form
does not name: reward functions and reports may read them; nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Source:
    file: str
    line: int  # 1-based; for Parquet and top-level JSON arrays the 1-based row

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str
    train: bool | None = None  # a message's own say about the loss; None leaves it to the config
    extra: Mapping[str, Any] = field(default_factory=dict)  # tool_calls, name, tool_call_id …: given to the template


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text to continue (language modelling)."""

    id: str
    source: Source
    text: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation whose assistant turns are learnt; prompt/completion, Alpaca and ShareGPT rows become this."""

    id: str
    source: Source
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt alone: for sampling, and for reinforcement learning."""

    id: str
    source: Source
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


class Verdict(Enum):
    """What people decided about two answers. Matched exhaustively, so that a tie can never become a vote."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"
    BOTH_BAD = "both_bad"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers to one prompt and the verdict on them; a preference row is one with FIRST = chosen."""

    id: str
    source: Source
    prompt: tuple[Message, ...]
    first: tuple[Message, ...]
    second: tuple[Message, ...]
    verdict: Verdict
    weight: float = 1.0
    margin: float = 0.0
    noise: float = 0.0
    tools: tuple[Mapping[str, Any], ...] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rated:
    """One answer and a thumb (KTO's unpaired form)."""

    id: str
    source: Source
    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    good: bool
    extra: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text with a class, several classes, or a number."""

    id: str
    source: Source
    text: str
    label: str | float | tuple[str, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextPair:
    """Two texts as two segments, with a class or a number (inference, similarity)."""

    id: str
    source: Source
    first: str
    second: str
    label: str | float
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, end) of the text, and their type."""

    start: int
    end: int
    type: str


@dataclass(frozen=True, slots=True)
class Tagged:
    """A text with typed character spans (named entities)."""

    id: str
    source: Source
    text: str
    spans: tuple[Span, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """A question whose answers are spans of a context; no answers means unanswerable (SQuAD form)."""

    id: str
    source: Source
    question: str
    context: str
    answers: tuple[tuple[int, str], ...]  # (first character in the context, text)
    extra: Mapping[str, Any] = field(default_factory=dict)


class Kind(Enum):
    """What one person can say about a pair or an answer."""

    COMPARISON = "comparison"
    RATING = "rating"
    CORRECTION = "correction"
    THUMB = "thumb"
    FLAG = "flag"
    COMMENT = "comment"
    UNDO = "undo"  # takes back the judgement that `replaces` names; what that one had replaced counts again


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one person said once. Append-only: a correction of it is a new one that names it in `replaces`."""

    id: str
    person: str
    prompt: tuple[Message, ...]
    answers: tuple[str, ...]  # as stored; `order` says how they were shown
    order: tuple[int, ...]
    kind: Kind
    value: Any
    model_versions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    comment: str = ""
    seconds: float | None = None
    replaces: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


Record = Text | Chat | Prompt | Comparison | Rated | Labelled | TextPair | Tagged | Question


_KINDS: dict[type, str] = {
    Text: "plain text",
    Chat: "conversations",
    Prompt: "prompts without answers",
    Comparison: "preferences (chosen and rejected)",
    Rated: "answers with a thumb",
    Labelled: "texts with labels",
    TextPair: "pairs of texts",
    Tagged: "texts with marked spans",
    Question: "questions about a text",
}


def kind_of(record: Record) -> str:
    """What people call records like this one."""
    return _KINDS.get(type(record), type(record).__name__)


def as_dicts(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages in the form that chat templates read."""
    return [{"role": message.role, "content": message.content, **message.extra} for message in messages]
