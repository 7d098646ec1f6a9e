"""The guideline: what makes an answer good. The owner edits, anyone proposes; disagreements lead here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import StringConstraints
from starlette.responses import JSONResponse, Response

from tomoni.errors import UserError
from tomoni.studio.access import Caller, Routes, Rule, Visit
from tomoni.studio.faults import Fault
from tomoni.studio.pages.entrance import Body
from tomoni.studio.showing import page

router = Routes()

SHOWN = 8
RuleId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4_000)]


class New(Body):
    text: Words


class Change(Body):
    id: RuleId
    text: Words | None = None
    status: Literal["active", "retired"] | None = None


@router.get("/guideline", rule=Rule.PERSON)
def guideline_page(caller: Caller) -> Response:
    store = caller.house.store
    rules = store.rules()
    return page(
        caller,
        "guideline",
        words=("guideline",),
        active=[rule for rule in rules if rule.status == "active"],
        proposed=[rule for rule in rules if rule.status == "proposed"],
        names={person.id: person.name for person in store.people()},
        disagreements=disagreements(caller),
    )


def disagreements(caller: Visit) -> list[dict[str, Any]]:
    """Pairs on which people said different things, the least decided first."""
    from tomoni.feedback import coach

    fitted = caller.house.insight.fitted()
    if fitted is None:
        return []
    found = []
    for item in coach.team(fitted.judged, fitted.people).unresolved[:SHOWN]:
        entries = [entry for entry, one in zip(fitted.stored, fitted.judged, strict=True) if one.item == item]
        first = entries[0].judgement
        said = [entry.judgement.value["verdict"] for entry in entries]
        found.append(
            {
                "question": first.prompt[-1].content,
                "answers": [
                    (first.answers[0], said.count("first")),
                    (first.answers[1], said.count("second")),
                ],
                "neither": len(said) - said.count("first") - said.count("second"),
                "tags": sorted({tag for entry in entries for tag in entry.judgement.tags}),
            }
        )
    return found


@router.post("/api/guideline/add", rule=Rule.PERSON)
def add(caller: Caller, body: New) -> Response:
    status: Literal["active", "proposed"] = "active" if caller.owner else "proposed"
    rule = caller.house.store.add_rule(body.text, by=caller.somebody.id, status=status)
    return JSONResponse({"saved": True, "id": rule.id, "status": rule.status})


@router.post("/api/guideline/change", rule=Rule.OWNER, may=(404,))
def change(caller: Caller, body: Change) -> Response:
    changes: dict[str, Any] = {"by": caller.somebody.id}
    if body.text is not None:
        changes["text"] = body.text
    if body.status is not None:
        changes["status"] = body.status
    try:
        caller.house.store.change_rule(body.id, **changes)
    except UserError:
        raise Fault("no_rule", 404) from None
    return JSONResponse({"saved": True})
