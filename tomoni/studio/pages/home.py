"""Home: where things stand, the one thing to do next, what the model cannot do yet."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request
from starlette.responses import Response

from tomoni.studio.access import Caller, Routes, Rule, Visit
from tomoni.studio.opening import pretrained_only
from tomoni.studio.overview import look
from tomoni.studio.pages.entrance import entered
from tomoni.studio.showing import page, tagged
from tomoni.studio.teaching import ENOUGH, ENOUGH_CORRECTIONS, Press, Tally

router = Routes()


@dataclass(frozen=True, slots=True)
class Step:
    """The one thing to do next: `key` of its words, and where."""

    key: str
    href: str


@router.get("/", rule=Rule.ANYONE, may=(303,))
def home(request: Request, caller: Caller, token: str | None = None) -> Response:
    if token is not None:
        return entered(caller, token)
    if caller.person is None:
        from tomoni.studio.faults import Fault

        raise Fault("signed_out", 401)
    house = caller.house
    found, latest, current = look(house.store), house.teaching.latest(), house.registry.current()
    tally = house.teaching.tally(latest) if latest is not None and latest.result else None
    return page(
        caller,
        "home",
        words=("home", "model", "learn"),
        facts={"gathered": state(caller)},
        step=next_step(caller, latest, tally),
        current=current,
        untuned=current is not None and pretrained_only(current),
        status=house.answering.status,
        gathered=house.teaching.gathered(),
        enough=ENOUGH,
        enough_corrections=ENOUGH_CORRECTIONS,
        found=found,
        latest=latest,
        tally=tally,
        versions=len(house.registry.versions()),
    )


def next_step(caller: Visit, latest: Press | None, tally: Tally | None) -> Step:
    """By what is missing, from the bottom: a model, prompts, judgements, a press of Learn, people's verdict on it."""
    house = caller.house
    current = house.registry.current()
    if current is None:
        return Step("model", "/runs" if caller.owner else "/models")
    if latest is not None and latest.going:
        return Step("watch", f"/learn/{latest.number}")
    round_ = house.rounds.latest()
    if round_ is not None and round_.asks and round_.left:
        return Step("gate", "/judge")
    if latest is not None and latest.result:
        if house.teaching.left(latest.number, caller.somebody.id):
            return Step("trial", f"/learn/{latest.number}")
        worse = tally is not None and tally.told == "worse"
        offered = latest.result.get("version") != current.id and not worse
        if caller.owner and offered and not _left_behind(caller):
            return Step("decide", f"/learn/{latest.number}")
    if pretrained_only(current) and caller.owner:
        return Step("tune", "/runs")
    if not house.store.prompts(status="active", held_out=False, limit=1):
        return Step("prompts", "/prompts")
    return Step("learn", "/learn") if house.teaching.gathered().enough else Step("judge", "/judge")


def _left_behind(caller: Visit) -> bool:
    """Whether people have gone on to say more since: then its decision is no longer what comes first."""
    return caller.house.teaching.gathered().comparisons > 0


@router.get("/api/state", rule=Rule.PERSON, may=(304,))
def live(request: Request, caller: Caller) -> Response:
    return tagged(state(caller), caller.lang, request.headers.get("if-none-match"))


def state(caller: Visit) -> dict[str, object]:
    house = caller.house
    gathered, status = house.teaching.gathered(), house.answering.status
    going = house.teaching.going()
    return {
        "comparisons": gathered.comparisons,
        "corrections": gathered.corrections,
        "share": round(gathered.share, 4),
        "enough": gathered.enough,
        "model": status.state,
        "version": status.version,
        "learning": None if going is None else going.number,
    }
