"""Models: the versions, where each comes from, two of them side by side; the owner decides which is served."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Request
from pydantic import Field, StringConstraints
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tomoni.studio.access import Caller, Routes, Rule
from tomoni.studio.faults import Fault
from tomoni.studio.opening import pretrained_only
from tomoni.studio.pages.chat import HEAT, LONGEST, TOP_P, Turns, VersionName, require_not_judged
from tomoni.studio.pages.entrance import Body
from tomoni.studio.showing import page

router = Routes()


class Promote(Body):
    version: VersionName
    reason: Annotated[str, StringConstraints(max_length=400)] = ""


class Rollback(Body):
    reason: Annotated[str, StringConstraints(max_length=400)] = ""


class Both(Body):
    messages: Turns
    versions: Annotated[list[VersionName], Field(min_length=2, max_length=2)]


@router.get("/models", rule=Rule.PERSON)
def models_page(caller: Caller) -> Response:
    registry = caller.house.registry
    versions = list(reversed(registry.versions()))
    current, history = registry.current(), registry.history()
    return page(
        caller,
        "models",
        words=("models", "model"),
        facts={"versions": [version.id for version in versions], "current": current.id if current else None},
        versions=versions,
        current=current,
        history=list(reversed(history))[:20],
        previous=_previous(history),
        status=caller.house.answering.status,
        pretrained=pretrained_only,
        line=lineage(versions),
    )


def _previous(history: list[Any]) -> str | None:
    """What a rollback would serve: what was promoted before the version of now, without what was taken back since."""
    stack: list[str] = []
    for move in history:
        if move.kind == "promote":
            stack.append(move.version)
        elif len(stack) > 1:
            stack.pop()
    return stack[-2] if len(stack) > 1 else None


def lineage(versions: list[Any]) -> dict[str, int]:
    """How deep each version is in its family, for its place in the drawing."""
    depth: dict[str, int] = {}
    for version in reversed(versions):
        depth[version.id] = depth.get(version.base, -1) + 1 if version.base else 0
    return depth


@router.post("/api/models/promote", rule=Rule.OWNER, may=(404,))
def promote(caller: Caller, body: Promote) -> Response:
    house = caller.house
    if body.version not in {version.id for version in house.registry.versions()}:
        raise Fault("no_version", 404, version=body.version)
    house.registry.promote(body.version, reason=body.reason, by=caller.somebody.name)
    house.answering.start()
    house.answering.look()
    house.asking.wake()
    return JSONResponse({"version": body.version})


@router.post("/api/models/rollback", rule=Rule.OWNER)
def rollback(caller: Caller, body: Rollback) -> Response:
    version = caller.house.registry.rollback(reason=body.reason, by=caller.somebody.name)
    caller.house.answering.look()
    return JSONResponse({"version": version.id})


@router.post("/api/models/both", rule=Rule.PERSON, may=(403, 404, 429, 502, 503))
async def both(caller: Caller, body: Both) -> Response:
    """One answer of each of two versions to the same prompt, one after the other."""
    require_not_judged(caller, *body.versions)
    messages = [turn.model_dump() for turn in body.messages]
    answering = caller.house.answering
    answering.require()
    caller.house.ask(caller.somebody.id, len(body.versions))

    def ask(version: str) -> dict[str, Any]:
        answer = answering.sample(
            messages, temperature=HEAT, top_p=TOP_P, max_tokens=LONGEST, seed=1, version=version, features=False
        )[0]
        return {"version": version, "text": answer.text, "tokens": answer.tokens}

    return JSONResponse({"answers": [await run_in_threadpool(ask, version) for version in body.versions]})


@router.post("/api/models/start", rule=Rule.OWNER)
def start(request: Request, caller: Caller) -> Response:
    """Try again to start a model that would not."""
    caller.house.answering.start()
    return JSONResponse({"started": True})
