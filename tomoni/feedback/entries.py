"""What the store gives and takes, besides `records.Judgement`: people, prompts, answers, pairs, rules. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tomoni.data.forms import content_id
from tomoni.records import Judgement, Kind, Message, Verdict

PersonRole = Literal["owner", "annotator"]
Provenance = Literal["traffic", "import", "typed", "world"]
PromptStatus = Literal["active", "proposed", "retired"]
Purpose = Literal["train", "gold", "overlap", "repeat", "gate", "learn", "review"]
RuleStatus = Literal["active", "proposed", "retired"]


@dataclass(frozen=True, slots=True)
class Person:
    id: str
    name: str
    role: PersonRole
    lang: str
    password_hash: str | None
    active: bool
    created: str  # ISO time; for show, never for order


@dataclass(frozen=True, slots=True)
class NewPrompt:
    messages: tuple[Message, ...]
    provenance: Provenance
    by: str | None = None  # a person's id
    topic: str = ""
    status: PromptStatus = "active"
    held_out: bool = False  # for the gate and for measuring; never trained on


@dataclass(frozen=True, slots=True)
class PromptRow:
    messages: tuple[Message, ...]
    provenance: Provenance
    by: str | None
    topic: str
    status: PromptStatus
    held_out: bool
    id: str
    created: str


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    id: str
    prompt: str  # a prompt's id
    version: str  # of the model, as the registry names it
    version_hash: str
    text: str
    features: NDArray[np.float32] | None = None  # [D] of the version named, None where they were not asked for
    logprob: float | None = None  # nats, summed over the answer's tokens
    tokens: int = 0
    how: Mapping[str, Any] = field(default_factory=dict)  # temperature, seed …
    created: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    id: str
    prompt: str
    first: str  # an answer's id
    second: str
    purpose: Purpose = "train"
    selected_by: str = "random"
    person: str | None = None  # whom it is meant for; None: anyone
    expected: Verdict | None = None  # of a gold pair
    created: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the guideline."""

    id: str
    text: str
    by: str | None
    status: RuleStatus
    examples: tuple[str, ...]
    created: str


@dataclass(frozen=True, slots=True)
class Ack:
    """A judgement is on the disk. `duplicate`: it was there before, sent with the same key."""

    sequence: int
    id: str
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    sequence: int  # the order of what was said; clocks have no part in it
    judgement: Judgement
    received: str  # ISO time; for show


@dataclass(frozen=True, slots=True)
class Erased:
    """What is left of a person's data: nothing in the store. `versions` of the model have learnt from it."""

    judgements: int
    snapshots: tuple[str, ...]  # removed, for they held what the person said
    versions: tuple[str, ...]


def prompt_id(messages: Sequence[Message]) -> str:
    """The same content has the same id, wherever it came from; held-out prompts are kept apart by it."""
    return content_id([plain_message(message) for message in messages])


def plain_message(message: Message) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.train is not None:
        plain["train"] = message.train
    if message.extra:
        plain["extra"] = dict(message.extra)
    return plain


def message_from(plain: Mapping[str, Any]) -> Message:
    return Message(plain["role"], plain["content"], plain.get("train"), plain.get("extra", {}))


def plain_judgement(judgement: Judgement) -> dict[str, Any]:
    """As JSON has it; `judgement_from` is its inverse."""
    return {
        "id": judgement.id,
        "person": judgement.person,
        "prompt": [plain_message(message) for message in judgement.prompt],
        "answers": list(judgement.answers),
        "order": list(judgement.order),
        "kind": judgement.kind.value,
        "value": judgement.value,
        "model_versions": list(judgement.model_versions),
        "tags": list(judgement.tags),
        "comment": judgement.comment,
        "seconds": judgement.seconds,
        "replaces": judgement.replaces,
        "extra": dict(judgement.extra),
    }


def judgement_from(plain: Mapping[str, Any]) -> Judgement:
    """Raises KeyError, TypeError or ValueError where it is none."""
    return Judgement(
        id=plain["id"],
        person=plain["person"],
        prompt=tuple(message_from(message) for message in plain["prompt"]),
        answers=tuple(plain["answers"]),
        order=tuple(plain["order"]),
        kind=Kind(plain["kind"]),
        value=plain["value"],
        model_versions=tuple(plain["model_versions"]),
        tags=tuple(plain["tags"]),
        comment=plain["comment"],
        seconds=plain["seconds"],
        replaces=plain["replaces"],
        extra=plain["extra"],
    )
