"""Learn: press, watch, judge before and after blind, and see what came of it."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, Response

from tomoni.records import Verdict
from tomoni.studio import charts
from tomoni.studio.access import Caller, Routes, Rule, Visit
from tomoni.studio.asking import plain
from tomoni.studio.faults import Fault
from tomoni.studio.pages.entrance import Body
from tomoni.studio.pages.home import state
from tomoni.studio.pages.judge import Trial
from tomoni.studio.showing import page, tagged
from tomoni.studio.teaching import ENOUGH, ENOUGH_CORRECTIONS, Press

router = Routes()


class Nothing(Body):
    pass


@router.get("/learn", rule=Rule.PERSON)
def learn_page(caller: Caller) -> Response:
    teaching = caller.house.teaching
    presses = teaching.presses()
    return page(
        caller,
        "learn",
        words=("learn", "home", "model"),
        facts={"gathered": state(caller), "number": None},
        gathered=teaching.gathered(),
        enough=ENOUGH,
        enough_corrections=ENOUGH_CORRECTIONS,
        presses=[(press, teaching.tally(press)) for press in presses[:20]],
        going=teaching.going(),
        failed=teaching.failed_to_start(),
        usual=teaching.usual_seconds(),
        current=caller.house.registry.current(),
        trace=charts.win_rates(caller.words, [(p.number, teaching.tally(p)) for p in reversed(presses) if p.result]),
    )


@router.post("/api/learn", rule=Rule.PERSON, may=(409,))
def press(caller: Caller, body: Nothing) -> Response:
    if caller.house.rounds.going():
        raise Fault("round_already", 409)
    caller.house.teaching.start()
    return JSONResponse({"started": True})


@router.get("/api/learn", rule=Rule.PERSON, may=(304,))
def going(request: Request, caller: Caller) -> Response:
    """The press that is going on, before and after it has a number."""
    teaching = caller.house.teaching
    press = teaching.going()
    failed = "" if press else teaching.failed_to_start()
    body = {"number": (press.number or None) if press else None, "going": press is not None, "failed": failed}
    return tagged(body, caller.lang, request.headers.get("if-none-match"))


@router.post("/api/learn/stop", rule=Rule.PERSON, may=(409,))
def stop(caller: Caller, body: Nothing) -> Response:
    caller.house.teaching.stop()
    return JSONResponse({"stopped": True})


@router.get("/learn/{number}", rule=Rule.PERSON, may=(404,))
def press_page(caller: Caller, number: Trial, show: bool = False) -> Response:
    teaching = caller.house.teaching
    press = teaching.press(number)
    left = len(teaching.left(number, caller.somebody.id)) if press.result else 0
    told = press.result is not None and (left == 0 or show)
    return page(
        caller,
        "press",
        words=("learn", "stage"),
        facts={"number": number, "going": press.going, "press": view(press)},
        press=press,
        left=left,
        told=told,
        trials=trials(caller, press) if told else [],
        tally=teaching.tally(press) if press.result else None,
        mine=len(teaching.verdicts(number, caller.somebody.id)),
        current=caller.house.registry.current(),
        promoted=(press.result or {}).get("version") == getattr(caller.house.registry.current(), "id", None),
    )


@router.get("/api/learn/{number}", rule=Rule.PERSON, may=(304, 404))
def look(request: Request, caller: Caller, number: Trial) -> Response:
    """How it goes; what came of it is for the page, so that nobody sees the answers before judging them."""
    return tagged(view(caller.house.teaching.press(number)), caller.lang, request.headers.get("if-none-match"))


def view(press: Press) -> dict[str, Any]:
    return {
        "state": press.state,
        "stage": press.stage,
        "done": round(press.done, 3),
        "seconds": round(press.seconds, 1),
        "left": None if press.left is None else round(press.left, 1),
        "stages": list(press.stages),
        "error": press.error,
    }


def trials(caller: Visit, press: Press) -> list[dict[str, Any]]:
    """Before and after, with what this person said of it."""
    said = caller.house.teaching.verdicts(press.number, caller.somebody.id)
    found = []
    for place, trial in enumerate(press.trials):
        verdicts = said.get(f"learn-{press.number}-{place}")
        verdict = verdicts[-1] if verdicts else None
        same = plain(trial["before"]) == plain(trial["after"])
        found.append(
            {
                "question": trial["prompt"][-1]["content"],
                "before": trial["before"],
                "after": trial["after"],
                "same": same,
                "said": "same" if same else _side(verdict),
            }
        )
    return found


def _side(verdict: Verdict | None) -> str | None:
    match verdict:
        case None:
            return None
        case Verdict.FIRST:
            return "before"
        case Verdict.SECOND:
            return "after"
        case Verdict.TIE | Verdict.BOTH_BAD:
            return "neither"
