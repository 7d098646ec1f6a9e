"""Judge: two answers blind, side by side; what is said goes into the store before it is acknowledged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Request
from pydantic import Field, StringConstraints
from starlette.responses import JSONResponse, Response

from tomoni.feedback.entries import Answer, Pair, PromptRow
from tomoni.studio import coaching, judging
from tomoni.studio.access import Caller, Routes, Rule, Visit
from tomoni.studio.asking import language_of
from tomoni.studio.faults import Fault
from tomoni.studio.pages.entrance import Body
from tomoni.studio.showing import page, tagged
from tomoni.studio.teaching import ENOUGH

if TYPE_CHECKING:
    from sqlalchemy import Connection

router = Routes()

Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{8,80}$")]
Id = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Text = Annotated[str, StringConstraints(max_length=20_000)]
Side = Literal["left", "right"]
Reason = Literal["accurate", "complete", "clear", "polite", "concise", "natural"]
Problem = Literal["harmful", "private", "untrue"]
Trial = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]


class Next(Body):
    without: Annotated[list[Id], Field(max_length=200, default_factory=list)]
    n: Annotated[int, Field(ge=1, le=8)] = 2
    trial: Trial | None = None


class Said(Body):
    key: Key
    pair: Id
    verdict: Literal["left", "right", "tie", "both_bad"]
    strength: Annotated[int, Field(ge=0, le=3)] = 0
    reasons: Annotated[list[Reason], Field(max_length=6, default_factory=list)]
    flags: Annotated[dict[Side, Annotated[list[Problem], Field(max_length=3)]], Field(default_factory=dict)]
    comment: Annotated[str, StringConstraints(max_length=4_000)] = ""
    edits: Annotated[dict[Side, Text], Field(default_factory=dict)]
    seconds: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None


class Skip(Body):
    key: Key
    pair: Id


class Undo(Body):
    key: Key
    of: Key


@router.get("/judge", rule=Rule.PERSON)
def judge_page(caller: Caller) -> Response:
    return shown(caller, None)


@router.get("/learn/{trial}/judge", rule=Rule.PERSON, may=(404,))
def trial_page(caller: Caller, trial: Trial) -> Response:
    return shown(caller, trial)


def shown(caller: Visit, trial: str | None) -> Response:
    pairs = upcoming(caller, Next(without=[], n=3, trial=trial))
    goal = len(caller.house.teaching.pairs(trial)) if trial else ENOUGH
    facts = {
        "pairs": pairs,
        "done": count(caller, trial),
        "goal": goal,
        "enough": ENOUGH,
        "trial": trial,
        "batch": coaching.BATCH,
    }
    words = ("judge", "none", "who", "coach", "people", "useful", "watch")
    return page(caller, "judge", words=words, facts=facts, trial=trial, reasons=judging.REASONS, flags=judging.FLAGS)


@router.post("/api/judge/next", rule=Rule.PERSON, may=(404,))
def next_pairs(caller: Caller, body: Next) -> Response:
    return JSONResponse({"pairs": upcoming(caller, body)})


@router.get("/api/judge/state", rule=Rule.PERSON)
def why_none(caller: Caller) -> Response:
    """Why there is nothing to judge, and where to go."""
    house = caller.house
    model = house.answering.status.state
    if model in ("off", "failed"):
        return JSONResponse({"state": f"model_{model}", "link": "/models"})
    if model != "ready":
        return JSONResponse({"state": "loading", "link": None})
    if not house.store.prompts(status="active", held_out=False, limit=1):
        return JSONResponse({"state": "prompts", "link": "/prompts"})
    return JSONResponse({"state": "making", "link": None})


@router.post("/api/judge", rule=Rule.PERSON, may=(404,))
def judge(caller: Caller, body: Said) -> Response:
    """Acknowledged once it is on the disk; the same key again is acknowledged again and stored once."""
    store, person = caller.house.store, caller.somebody
    pair, prompt, answers = whole_pair(caller, body.pair)
    opinion = judging.Opinion(
        verdict=body.verdict,
        strength=body.strength,
        reasons=tuple(dict.fromkeys(body.reasons)),
        flags={side: tuple(names) for side, names in body.flags.items()},
        comment=body.comment.strip(),
        edits=dict(body.edits),
        seconds=body.seconds,
    )
    order = caller.house.order(person.id, pair.id)
    said = judging.judgements_of(
        opinion, key=body.key, person=person, pair=pair, prompt=prompt, answers=answers, order=order
    )
    guess = coaching.guess(caller.house, person, pair, answers, judging.verdict_of(body.verdict, order), order)
    acks = judging.save_once(store, said, pair.id)
    caller.house.asking.wake()
    trial = caller.house.teaching.trial_of(pair)
    told = coaching.said(caller.house.insight, person.id)
    body_of = {"done": count(caller, trial), "said": told, "guess": guess}
    return JSONResponse({"saved": True, "again": acks[0].duplicate, **body_of})


@router.get("/api/judge/coaching", rule=Rule.PERSON)
def told_after_ten(request: Request, caller: Caller) -> Response:
    """Of this person's own judgements; as everything here it waits for no fit."""
    return tagged(coaching.card(caller.house, caller.somebody), caller.lang, request.headers.get("if-none-match"))


@router.post("/api/judge/skip", rule=Rule.PERSON, may=(404,))
def skip(caller: Caller, body: Skip) -> Response:
    pair, prompt, answers = whole_pair(caller, body.pair)
    judgement = judging.skip_of(key=body.key, person=caller.somebody, pair=pair, prompt=prompt, answers=answers)
    judging.save(caller.house.store, [(judgement, f"{body.key}:0")])
    return JSONResponse({"saved": True})


@router.post("/api/judge/undo", rule=Rule.PERSON, may=(404,))
def undo(caller: Caller, body: Undo) -> Response:
    pair = judging.take_back(caller.house.store, caller.somebody, body.of, body.key)
    trial = caller.house.teaching.trial_of(pair_of(caller, pair)) if pair else None
    return JSONResponse({"saved": True, "done": count(caller, trial)})


def pair_of(caller: Visit, id: str) -> Pair:
    """Fault 404 where there is none for this person."""
    from tomoni.errors import UserError

    try:
        pair = caller.house.store.pair(id)
    except UserError:
        raise Fault("no_pair", 404) from None
    return theirs(caller, pair)


def theirs(caller: Visit, pair: Pair) -> Pair:
    if pair.person is not None and pair.person != caller.somebody.id:
        raise Fault("no_pair", 404)
    return pair


def whole_pair(caller: Visit, id: str) -> tuple[Pair, PromptRow, list[Answer]]:
    """With its prompt and its stored first and second answer, looked up at once. Fault 404 as `pair_of`."""
    from tomoni.errors import UserError
    from tomoni.feedback import pool

    def look(connection: Connection) -> tuple[Pair, PromptRow, list[Answer]]:
        pair = pool.get_pair(connection, id)
        answers = [pool.get_answer(connection, answer) for answer in (pair.first, pair.second)]
        return pair, pool.get_prompt(connection, pair.prompt), answers

    try:
        pair, prompt, answers = caller.house.store.look(look)
    except UserError:
        raise Fault("no_pair", 404) from None
    return theirs(caller, pair), prompt, answers


def upcoming(caller: Visit, wanted: Next) -> list[dict[str, Any]]:
    """As the page shows them: nothing in it tells which model answered, or why this pair is asked."""
    house, person = caller.house, caller.somebody
    if wanted.trial:
        pairs = house.teaching.left(wanted.trial, person.id, without=wanted.without)[: wanted.n]
    else:
        pairs = house.asking.ready(person.id, caller.lang, without=wanted.without, n=wanted.n)
    return [view(caller, pair) for pair in pairs]


def view(caller: Visit, pair: Pair) -> dict[str, Any]:
    _, prompt, answers = whole_pair(caller, pair.id)
    texts = [answer.text for answer in answers]
    order = caller.house.order(caller.somebody.id, pair.id)
    return {
        "id": pair.id,
        "prompt": judging.as_values(prompt.messages),
        "left": texts[order[0]],
        "right": texts[order[1]],
        "lang": language_of(prompt),
    }


def count(caller: Visit, trial: str | None) -> int:
    """Comparisons that count now: of a trial this person's, else those since the last press of Learn, of everybody."""
    house = caller.house
    if trial:
        return len(house.teaching.pairs(trial)) - len(house.teaching.left(trial, caller.somebody.id))
    return house.teaching.gathered().comparisons
