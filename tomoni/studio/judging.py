"""From what a page sends to judgements: left and right become first and second again here, and nowhere else. No torch.

Ids follow from the person and the key that the page made, so that the same request sent twice is stored once, and can be
taken back by its key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from tomoni.feedback.entries import Ack, Answer, Pair, Person, PromptRow
from tomoni.records import Judgement, Kind, Verdict
from tomoni.studio.faults import Fault

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tomoni.feedback.store import Store

Seen = Literal["left", "right", "tie", "both_bad"]
Side = Literal["left", "right"]
REASONS = ("accurate", "complete", "clear", "polite", "concise", "natural")  # why one is better
FLAGS = ("harmful", "private", "untrue")


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a person said about a pair, as they saw it."""

    verdict: Seen
    strength: int = 0  # 0: not said; 1 slightly, 2 clearly, 3 much
    reasons: tuple[str, ...] = ()
    flags: Mapping[Side, tuple[str, ...]] | None = None
    comment: str = ""
    edits: Mapping[Side, str] | None = None
    seconds: float | None = None


def judgements_of(
    opinion: Opinion, *, key: str, person: Person, pair: Pair, prompt: PromptRow, answers: Sequence[Answer],
    order: tuple[int, int],
) -> list[tuple[Judgement, str]]:  # fmt: skip
    """The comparison, and a judgement for each flagged and each edited answer, each with its key. `answers` are the
    stored first and second; `order[0]` is the one that was shown left."""
    place: dict[Side, int] = {"left": order[0], "right": order[1]}
    base = Judgement(
        id="",
        person=person.id,
        prompt=prompt.messages,
        answers=tuple(answer.text for answer in answers),
        order=order,
        kind=Kind.COMPARISON,
        value={},
        model_versions=tuple(answer.version for answer in answers),
        extra={
            "pair": pair.id,
            "prompt": prompt.id,
            "answers": [answer.id for answer in answers],
            "purpose": pair.purpose,
            "selected_by": pair.selected_by,
            "edited": bool(opinion.edits),
        },
    )
    verdict = verdict_of(opinion.verdict, order)
    decided = verdict in (Verdict.FIRST, Verdict.SECOND)
    said = [
        replace(
            base,
            value={"verdict": verdict.value, "strength": opinion.strength if decided else 0},
            tags=opinion.reasons,
            comment=opinion.comment,
            seconds=opinion.seconds,
        )
    ]
    for side, names in sorted((opinion.flags or {}).items()):
        if names:
            value = {"answer": place[side], **{name: name in names for name in FLAGS}}
            said.append(replace(base, kind=Kind.FLAG, value=value))
    for side, text in sorted((opinion.edits or {}).items()):
        if text.strip() and text != base.answers[place[side]]:
            said.append(replace(base, kind=Kind.CORRECTION, value={"answer": place[side], "text": text}))
    return [
        (replace(judgement, id=id_of(person.id, key, number)), f"{key}:{number}")
        for number, judgement in enumerate(said)
    ]


def verdict_of(seen: Seen, order: tuple[int, int]) -> Verdict:
    match seen:
        case "left":
            return (Verdict.FIRST, Verdict.SECOND)[order[0]]
        case "right":
            return (Verdict.FIRST, Verdict.SECOND)[order[1]]
        case "tie":
            return Verdict.TIE
        case "both_bad":
            return Verdict.BOTH_BAD


def skip_of(*, key: str, person: Person, pair: Pair, prompt: PromptRow, answers: Sequence[Answer]) -> Judgement:
    """A pair passed over, so that it does not come back to this person."""
    return Judgement(
        id=id_of(person.id, key, 0),
        person=person.id,
        prompt=prompt.messages,
        answers=tuple(answer.text for answer in answers),
        order=(0, 1),
        kind=Kind.COMMENT,
        value={},
        model_versions=tuple(answer.version for answer in answers),
        extra={"pair": pair.id, "prompt": prompt.id, "purpose": pair.purpose, "skipped": True},
    )


def save_once(store: Store, said: Sequence[tuple[Judgement, str]], pair: str) -> list[Ack]:
    """As `save`; of two comparisons of one pair by one person, from two tabs, the later one counts."""
    (first, key), *rest = said

    def all_of_it(connection: Connection) -> list[Ack]:
        before = _replaces(connection, first.id, first.person, pair)
        return _save(connection, [(replace(first, replaces=before), key), *rest])

    return store.together(all_of_it)


def save(store: Store, said: Sequence[tuple[Judgement, str]]) -> list[Ack]:
    """On the disk when it returns, all or nothing; whatever of it was there already is not stored again."""
    return store.together(lambda connection: _save(connection, said))


def _save(connection: Connection, said: Sequence[tuple[Judgement, str]]) -> list[Ack]:
    from tomoni.feedback.judging import judge

    return [judge(connection, judgement, f"{judgement.person}:{key}") for judgement, key in said]


def _replaces(connection: Connection, id: str, person: str, pair: str) -> str | None:
    """What the judgement `id` replaced when it was stored; where it is not there yet, this person's comparison of the pair
    that counts now, as from another tab."""
    from tomoni.feedback.judging import WITH_ID, compared

    stored = connection.execute(WITH_ID, {"its_id": id}).first()
    if stored is not None:
        before: str | None = stored.body.get("replaces")
        return before
    return compared(connection, person, pair)


def take_back(store: Store, person: Person, of: str, key: str) -> str | None:
    """Undo everything that was said under the key `of`; the pair it was said of, where it was one. Fault 404 where there
    is nothing."""
    undone, pair = 0, None
    while (found := known(store, target := id_of(person.id, of, undone))) is not None:
        pair = found.extra.get("pair")
        store.undo(target, person=person.id, key=f"{person.id}:{key}:{undone}")
        undone += 1
    if not undone:
        raise Fault("nothing_to_undo", 404)
    return None if pair is None else str(pair)


def known(store: Store, id: str) -> Judgement | None:
    from tomoni.errors import UserError

    try:
        return store.judgement(id).judgement
    except UserError:
        return None


def id_of(person: str, key: str, number: int) -> str:
    return "j" + hashlib.sha256(f"{person}\n{key}\n{number}".encode()).hexdigest()[:24]


def as_values(messages: Sequence[Any]) -> list[dict[str, str]]:
    """Role and content, for a page."""
    return [{"role": message.role, "content": message.content} for message in messages]
