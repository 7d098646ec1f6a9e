"""Rounds: begin one, judge its pairs, see the evidence grow, read what was decided and why."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Request
from pydantic import StringConstraints
from starlette.responses import JSONResponse, Response

from tomoni.studio.access import Caller, Routes, Rule
from tomoni.studio.faults import Fault
from tomoni.studio.guard import REPORT
from tomoni.studio.pages.entrance import Body
from tomoni.studio.rounding import LOOK_AFTER, MANY, STAGES, WHENS, Seen, When
from tomoni.studio.showing import page, tagged
from tomoni.studio.teaching import ENOUGH, ENOUGH_CORRECTIONS

router = Routes()
Number = Annotated[str, StringConstraints(pattern=r"^[0-9]{4,9}$")]


class Nothing(Body):
    pass


class Timed(Body):
    when: When


@router.get("/rounds", rule=Rule.PERSON)
def rounds_page(caller: Caller) -> Response:
    house = caller.house
    latest = house.rounds.latest()
    return page(
        caller,
        "rounds",
        words=("rounds",),
        facts={"round": view(latest)},
        latest=latest,
        ended=latest is None or latest.ended,
        past=house.rounds.all(),
        reasons=house.rounds.reasons(latest, caller.lang) if latest is not None else [],
        topics=house.rounds.reasons(latest, caller.lang, of_topics=True) if latest is not None else [],
        gathered=house.rounds.gathered(),
        enough=ENOUGH,
        enough_corrections=ENOUGH_CORRECTIONS,
        failed=house.rounds.failed_to_start(),
        current=house.registry.current(),
        when=house.rounds.when,
        whens=WHENS,
        many=MANY,
        look_after=LOOK_AFTER,
        stages=STAGES,
    )


@router.get("/api/rounds", rule=Rule.PERSON, may=(304,))
def look(request: Request, caller: Caller) -> Response:
    body = {"round": view(caller.house.rounds.latest()), "failed": bool(caller.house.rounds.failed_to_start())}
    return tagged(body, caller.lang, request.headers.get("if-none-match"))


@router.post("/api/rounds/start", rule=Rule.OWNER, may=(409,))
def start(caller: Caller, body: Nothing) -> Response:
    house = caller.house
    if house.teaching.going() is not None:
        raise Fault("learning_already", 409)
    if house.training.going():
        raise Fault("training_already", 409)
    house.rounds.start()
    return JSONResponse({"started": True})


@router.post("/api/rounds/stop", rule=Rule.OWNER, may=(409,))
def stop(caller: Caller, body: Nothing) -> Response:
    caller.house.rounds.stop()
    return JSONResponse({"stopped": True})


@router.post("/api/rounds/close", rule=Rule.OWNER, may=(404,))
def close(caller: Caller, body: Nothing) -> Response:
    caller.house.rounds.close()
    return JSONResponse({"closed": True})


@router.post("/api/rounds/when", rule=Rule.OWNER)
def set_when(caller: Caller, body: Timed) -> Response:
    caller.house.rounds.set_when(body.when)
    return JSONResponse({"when": body.when})


@router.get("/rounds/{number}", rule=Rule.PERSON, may=(404,))
def report(caller: Caller, number: Number) -> Response:
    """The report as the file has it: without scripts, with a style of its own, and so with a policy of its own."""
    content = caller.house.rounds.page(number, owner=caller.owner)
    return Response(content, media_type="text/html; charset=utf-8", headers={"content-security-policy": REPORT})


def view(seen: Seen | None) -> dict[str, Any] | None:
    if seen is None:
        return None
    return {
        "number": seen.number,
        "state": seen.state,
        "stage": seen.stage,
        "judged": seen.judged,
        "left": seen.left,
        "said": seen.decision.get("said"),
        "evidence": round(seen.evidence, 3),
    }
