"""Chat: answers as they are written; a thumb, a corrected answer or a flag becomes a judgement."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints
from starlette.responses import JSONResponse, Response, StreamingResponse

from tomoni.errors import UserError
from tomoni.feedback.entries import NewPrompt
from tomoni.records import Judgement, Kind, Message
from tomoni.studio import judging
from tomoni.studio.access import Caller, Routes, Rule, Visit
from tomoni.studio.faults import Fault
from tomoni.studio.opening import knows_the_world, opening_of
from tomoni.studio.pages.entrance import Body
from tomoni.studio.pages.judge import Id, Key, Problem
from tomoni.studio.showing import page
from tomoni.studio.teaching import ENOUGH_CORRECTIONS

router = Routes()

VersionName = Annotated[str, StringConstraints(pattern=r"^v[1-9][0-9]{0,8}$")]
LONGEST = 400  # tokens of an answer
HEAT, TOP_P = 0.7, 0.95


class Turn(Body):
    role: Literal["user", "assistant", "system"]
    content: Annotated[str, StringConstraints(max_length=20_000)]


Turns = Annotated[list[Turn], Field(min_length=1, max_length=100)]


class Ask(Body):
    messages: Turns
    version: VersionName | None = None


class Opinion(Body):
    """Of one answer in a conversation; `messages` are the turns before it."""

    key: Key
    kind: Literal["thumb", "correction", "flag"]
    answer: Id
    text: Annotated[str, StringConstraints(max_length=50_000)]
    version: Annotated[str, StringConstraints(max_length=40)] = ""
    messages: Turns
    up: bool = False
    corrected: Annotated[str, StringConstraints(max_length=50_000)] = ""
    flags: Annotated[list[Problem], Field(max_length=3, default_factory=list)]
    replaces: Key | None = None


@router.get("/chat", rule=Rule.PERSON)
def chat_page(caller: Caller) -> Response:
    current = caller.house.registry.current()
    about, questions = opening(caller)
    state = caller.house.answering.status.state
    facts = {"version": current.id if current else None, "model": state, "about": about, "questions": questions}
    return page(
        caller,
        "chat",
        words=("chat", "flag", "model", "judge", "learn"),
        facts=facts,
        current=current,
        state=state,
        flags=judging.FLAGS,
    )


def opening(caller: Visit) -> tuple[str, list[str]]:
    """What the model is about, and questions to try."""
    version = caller.house.registry.current()
    if version is None:
        return "", []
    if knows_the_world(caller.house.registry, version):
        from tomoni.world import bundled_world, example_questions, what_it_knows

        world = bundled_world()
        return what_it_knows(world, caller.lang), example_questions(world, caller.lang, 4, seed=1)
    told = opening_of(caller.house.registry, version)
    questions = [str(question)[:300] for question in told.get("questions", [])[:6]]
    return str(told.get("chat_opening", ""))[:2000], questions


@router.post("/api/chat", rule=Rule.PERSON, may=(403, 429, 502, 503), kind="application/x-ndjson")
async def answer(caller: Caller, body: Ask) -> Response:
    """Lines of JSON: {"text": …} as it comes, then {"end": {…}}, or {"error": {…}}. Leaving ends the answer."""
    wanted = {
        "model": body.version or "tomoni",
        "messages": [turn.model_dump() for turn in body.messages],
        "stream": True,
        "temperature": HEAT,
        "top_p": TOP_P,
        "max_tokens": LONGEST,
    }
    require_not_judged(caller, body.version)
    caller.house.answering.require()
    caller.house.ask(caller.somebody.id, 1)
    return StreamingResponse(_lines(caller, wanted), media_type="application/x-ndjson")


def require_not_judged(caller: Visit, *versions: str | None) -> None:
    """The owner may look; who does has seen behind the curtain, and knows it."""
    if caller.owner or not any(versions):
        return
    candidate = caller.house.rounds.under_judgement()
    if candidate in versions:
        raise Fault("under_judgement", 403, version=candidate)


async def _lines(caller: Visit, wanted: dict[str, Any]) -> AsyncIterator[str]:
    finish, id, version = None, "", ""
    try:
        async for line in caller.house.answering.stream(wanted):
            if not line.startswith("data:") or line == "data: [DONE]":
                continue
            chunk = json.loads(line[5:])
            if "error" in chunk:
                raise Fault("model_refused", 502)
            id, version = chunk.get("id", id), chunk.get("model", version)
            for choice in chunk.get("choices", []):
                if text := (choice.get("delta") or {}).get("content"):
                    yield _line({"text": text})
                finish = choice.get("finish_reason") or finish
    except Fault as fault:
        said = {"code": fault.code, "message": caller.words(f"fault.{fault.code}", **fault.values)}
        yield _line({"error": {**said, "next": caller.words.known(f"fault.{fault.code}.next", "")}})
        return
    yield _line({"end": {"id": f"{id}-0" if id else "", "version": version, "finish": finish}})


def _line(body: dict[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False) + "\n"


@router.post("/api/chat/opinion", rule=Rule.PERSON)
def opinion(caller: Caller, body: Opinion) -> Response:
    store, person = caller.house.store, caller.somebody
    text, version = answered(caller, body)
    messages = tuple(Message(turn.role, turn.content) for turn in body.messages)
    row = store.add_prompts([NewPrompt(messages, "traffic", by=person.id)])[0]
    judgement = Judgement(
        id=judging.id_of(person.id, body.key, 0),
        person=person.id,
        prompt=messages,
        answers=(text,),
        order=(0,),
        kind=Kind(body.kind),
        value=value_of(body),
        model_versions=(version,) if version else (),
        replaces=None if body.replaces is None else judging.id_of(person.id, body.replaces, 0),
        extra={"pair": None, "prompt": row.id, "answers": [body.answer], "purpose": "train"},
    )
    ack = store.judge(judgement, key=f"{person.id}:{body.key}:0")
    gathered = caller.house.teaching.gathered()
    body_of = {"corrections": gathered.corrections, "needed": ENOUGH_CORRECTIONS, "enough": gathered.enough}
    return JSONResponse({"saved": True, "again": ack.duplicate, **body_of})


def answered(caller: Visit, body: Opinion) -> tuple[str, str]:
    """The answer as the server wrote it down; what the page says where it has not come in yet."""
    store = caller.house.store
    try:
        return store.answer(body.answer).text, store.answer(body.answer).version
    except UserError:
        return body.text, body.version


def value_of(body: Opinion) -> dict[str, Any]:
    match body.kind:
        case "thumb":
            return {"answer": 0, "up": body.up}
        case "correction":
            if not body.corrected.strip():
                raise Fault("empty_correction", 400)
            return {"answer": 0, "text": body.corrected}
        case "flag":
            return {"answer": 0, **{name: name in body.flags for name in judging.FLAGS}}
