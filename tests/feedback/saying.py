"""Judgements to test with."""

from __future__ import annotations

from typing import Any

from tomoni.feedback.entries import Answer, NewPrompt, Pair, Person
from tomoni.feedback.store import Store
from tomoni.records import Judgement, Kind, Message

ASKED = (Message("system", "丁寧に答えてください。"), Message("user", "日本の首都は？"))
VALUES: dict[Kind, dict[str, Any]] = {
    Kind.COMPARISON: {"verdict": "first", "strength": 2},
    Kind.RATING: {"answer": 0, "stars": 4},
    Kind.CORRECTION: {"answer": 1, "text": "東京です。"},
    Kind.THUMB: {"answer": 0, "up": True},
    Kind.FLAG: {"answer": 1, "harmful": False, "private": False, "untrue": True},
    Kind.COMMENT: {},
    Kind.UNDO: {},
}


def judgement(
    id: str,
    person: str,
    kind: Kind = Kind.COMPARISON,
    value: dict[str, Any] | None = None,
    *,
    answers: tuple[str, ...] = ("東京です。", "京都だよ👘"),
    prompt: tuple[Message, ...] = ASKED,
    **more: Any,
) -> Judgement:
    if kind is Kind.COMMENT:
        more.setdefault("comment", "どちらも短い")
    order = tuple(range(len(answers)))[::-1]
    return Judgement(id, person, prompt, answers, order, kind, VALUES[kind] if value is None else value, **more)


def hanako(store: Store) -> Person:
    return store.person_named("花子") or store.add_person("花子", role="owner")


def with_pair(store: Store, id: str = "p1", **more: Any) -> Pair:
    """A pair and what it needs."""
    (prompt,) = store.add_prompts([NewPrompt(ASKED, "typed")])
    sides = [Answer(f"{id}-{side}", prompt.id, "v1", "ab" * 32, f"{side} の答え") for side in ("a", "b")]
    store.add_answers(sides)
    pair = Pair(id, prompt.id, sides[0].id, sides[1].id, **more)
    store.add_pairs([pair])
    return store.pair(id)
