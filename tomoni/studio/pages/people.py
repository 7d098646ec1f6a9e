"""People: how sure their judgement is, what leans show, what would help; and who may come in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import StringConstraints
from starlette.responses import JSONResponse, Response

from tomoni.errors import UserError
from tomoni.feedback.entries import Person
from tomoni.studio import golden
from tomoni.studio.access import Caller, Routes, Rule, Visit
from tomoni.studio.coaching import GROUND, KNOWN_FROM, coaching
from tomoni.studio.faults import Fault
from tomoni.studio.insight import FEW, Fitted
from tomoni.studio.overview import by_person
from tomoni.studio.pages.entrance import Body
from tomoni.studio.showing import page

router = Routes()

PersonId = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Invite(Body):
    role: Literal["owner", "annotator"] = "annotator"
    name: Annotated[str, StringConstraints(strip_whitespace=True, max_length=60)] = ""


class Change(Body):
    person: PersonId
    active: bool


class Erase(Body):
    person: PersonId
    name: Annotated[str, StringConstraints(max_length=100)]  # typed again, so that nobody is erased by a slip


class Gold(Body):
    pair: PersonId
    known: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A person with what is known about their judgement; None while too little is."""

    person: Person
    said: int
    reliability: Any
    lean: Any
    flags: tuple[Any, ...]


@router.get("/people", rule=Rule.PERSON)
def people_page(caller: Caller) -> Response:
    house, me = caller.house, caller.somebody
    fitted = house.insight.fitted()
    counts = by_person(house.store.judgements())
    shown = [person for person in house.store.people() if caller.owner or person.id == me.id]
    from tomoni.feedback import coach

    return page(
        caller,
        "people",
        words=("people",),
        rows=[row_of(person, counts.get(person.id, 0), fitted) for person in shown],
        team=coach.team(fitted.judged, fitted.people) if fitted else None,
        coaching=coaching(fitted, me),
        computing=house.insight.computing and fitted is None,
        said=counts.get(me.id, 0),
        few=FEW,
        known_from=KNOWN_FROM,
        ground=GROUND,
        everyone=len(house.store.people()),
        proposals=golden.proposals(house.store, fitted) if caller.owner else [],
        known=golden.confirmed(house.store) if caller.owner else [],
    )


def row_of(person: Person, said: int, fitted: Fitted | None) -> Row:
    from tomoni.feedback.flags import lean, review

    if fitted is None or fitted.people.of(person.id).n < KNOWN_FROM:
        return Row(person, said, None, None, ())
    flags = tuple(flag for flag in review(fitted.judged, fitted.people) if flag.person == person.id)
    return Row(person, said, fitted.people.of(person.id), lean(fitted.judged, fitted.people, person.id), flags)


@router.post("/api/people/gold", rule=Rule.OWNER, may=(404,))
def gold(caller: Caller, body: Gold) -> Response:
    """A pair whose answer is known: confirmed, or not to be one."""
    house = caller.house
    if body.known:
        golden.confirm(house.store, house.insight.fitted(), body.pair)
    else:
        golden.put_out(house.store, body.pair)
    return JSONResponse({"saved": True})


@router.post("/api/people/invite", rule=Rule.OWNER)
def invite(caller: Caller, body: Invite) -> Response:
    return JSONResponse({"path": f"/join?token={caller.house.doors.invite(body.role, body.name)}"})


@router.post("/api/people/change", rule=Rule.OWNER, may=(404, 409))
def change(caller: Caller, body: Change) -> Response:
    """Whoever is no longer active is signed out at once; nobody shuts the last owner out."""
    if body.person == caller.somebody.id:
        raise Fault("not_yourself", 409)
    person_of(caller, body.person)
    caller.house.store.change_person(body.person, active=body.active)
    return JSONResponse({"saved": True})


@router.post("/api/people/erase", rule=Rule.OWNER, may=(404, 409))
def erase(caller: Caller, body: Erase) -> Response:
    """Everything the person said goes; the versions that have learnt from it are named."""
    person = person_of(caller, body.person)
    if person.id == caller.somebody.id:
        raise Fault("not_yourself", 409)
    if body.name.strip() != person.name:
        raise Fault("name_differs", 400)
    gone = caller.house.store.erase_person(person.id)
    return JSONResponse({"judgements": gone.judgements, "versions": list(gone.versions)})


def person_of(caller: Visit, id: str) -> Person:
    try:
        return caller.house.store.person(id)
    except UserError:
        raise Fault("no_person", 404) from None
