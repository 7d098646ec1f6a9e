"""Data: look into a file before anything is kept, with bad rows named and personal data hidden."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import StringConstraints
from starlette.responses import JSONResponse, Response

from tomoni.studio.access import Caller, Routes, Rule, Visit
from tomoni.studio.holding import ENDINGS, Look
from tomoni.studio.opening import knows_the_world
from tomoni.studio.pages.entrance import Body
from tomoni.studio.showing import page

router = Routes()

FORMS = ("jsonl", "trl", "argilla", "labelstudio")  # of what people said, taken in
WRITTEN = (*FORMS, "csv")  # and written

FileName = Annotated[str, StringConstraints(min_length=1, max_length=300)]
Content = Annotated[str, StringConstraints(max_length=48 * 1024 * 1024)]
DataId = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{12}|town)$")]


class File(Body):
    name: FileName
    content: Content  # base64


class Import(File):
    without_bad: bool = False


class One(Body):
    id: DataId


@router.get("/data", rule=Rule.OWNER)
def data_page(caller: Caller) -> Response:
    holding = caller.house.holding
    current = caller.house.registry.current()
    return page(
        caller,
        "data",
        words=("data", "bad", "form", "who", "masked", "said"),
        facts={"endings": list(ENDINGS)},
        held=[(held, holding.examples(held.id)) for held in holding.all()],
        town=knows_the_world(caller.house.registry, current),
        endings=ENDINGS,
        forms=FORMS,
        written_forms=WRITTEN,
    )


@router.post("/api/data/look", rule=Rule.OWNER)
def look(caller: Caller, body: File) -> Response:
    return JSONResponse(view(caller, caller.house.holding.look(body.name, body.content)))


@router.post("/api/data/import", rule=Rule.OWNER, may=(409,))
def take(caller: Caller, body: Import) -> Response:
    held = caller.house.holding.keep(body.name, body.content, without_bad=body.without_bad)
    return JSONResponse({"saved": True, "id": held.id, "rows": held.rows})


@router.post("/api/data/town", rule=Rule.OWNER)
def town(caller: Caller) -> Response:
    return JSONResponse({"saved": True, "id": caller.house.holding.keep_town().id})


@router.post("/api/data/remove", rule=Rule.OWNER, may=(404,))
def remove(caller: Caller, body: One) -> Response:
    caller.house.holding.remove(body.id)
    return JSONResponse({"removed": True})


def view(caller: Visit, found: Look) -> dict[str, Any]:
    body = asdict(found)
    body["bad"] = [
        {"line": line, "reason": caller.words.known(f"bad.{reason}", reason), "detail": detail, "excerpt": excerpt}
        for line, reason, detail, excerpt in found.bad
    ]
    return body
