"""Runs: start a fine-tuning in plain words, watch it, see before and after; it goes on without the browser."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import StringConstraints
from starlette.responses import JSONResponse, Response

from tomoni.studio import charts
from tomoni.studio.access import Caller, Routes, Rule
from tomoni.studio.faults import Fault
from tomoni.studio.holding import TOWN
from tomoni.studio.opening import knows_the_world, pretrained_only
from tomoni.studio.pages.chat import VersionName
from tomoni.studio.pages.data import DataId
from tomoni.studio.pages.entrance import Body
from tomoni.studio.showing import page, tagged
from tomoni.studio.training import METHOD_OF

router = Routes()

RunName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]


class Start(Body):
    name: RunName
    data: DataId
    version: VersionName | None = None
    amount: Literal["all", "part"] = "all"
    effort: Literal["short", "usual", "long"] = "usual"
    use: bool = False  # serve it as soon as it is finished


class Named(Body):
    name: RunName


class First(Body):
    """A model for a workspace that has none."""

    model: Literal["bundled:small", "bundled:large"]


@router.get("/runs", rule=Rule.OWNER)
def runs_page(caller: Caller) -> Response:
    house = caller.house
    current = house.registry.current()
    held = house.holding.all()
    town = knows_the_world(house.registry, current) and all(one.id != TOWN for one in held)
    names = house.training.names()
    return page(
        caller,
        "runs",
        words=("runs", "run"),
        facts={"going": house.training.going()},
        current=current,
        untuned=current is not None and pretrained_only(current),
        versions=list(reversed(house.registry.versions())),
        held=[one for one in held if one.form.split(", ")[0] in METHOD_OF],
        town=town,
        runs=house.training.runs(),
        going=house.training.going(),
        free=next(f"run{n}" for n in range(1, 10_000) if f"run{n}" not in names),
        methods=METHOD_OF,
    )


@router.post("/api/runs/first", rule=Rule.OWNER)
def first(caller: Caller, body: First) -> Response:
    from tomoni.studio.opening import first_probes, first_prompts

    house = caller.house
    version = house.registry.register(body.model)
    house.registry.promote(version.id, by=caller.somebody.name)
    if first_prompts(house.store, house.registry):
        first_probes(house.workspace, house.registry)
    house.answering.start()
    house.asking.wake()
    return JSONResponse({"version": version.id})


@router.post("/api/runs/start", rule=Rule.OWNER, may=(404, 409))
def start(caller: Caller, body: Start) -> Response:
    house = caller.house
    current = house.registry.current()
    version = body.version or (current.id if current else None)
    if version is None or version not in {one.id for one in house.registry.versions()}:
        raise Fault("no_model", 409)
    if body.data == TOWN and all(one.id != TOWN for one in house.holding.all()):
        house.holding.keep_town()
    held = house.holding.get(body.data)
    if house.teaching.going() is not None:
        raise Fault("learning_already", 409)
    if house.rounds.going():
        raise Fault("round_already", 409)
    form = held.form.split(", ")[0]
    path = house.holding.path(body.data)
    house.training.start(body.name, version=version, file=path, form=form, amount=body.amount, effort=body.effort)
    house.steward.await_run(body.name, base=version, use=body.use)
    return JSONResponse({"name": body.name})


@router.get("/runs/{name}", rule=Rule.OWNER, may=(404,))
def run_page(caller: Caller, name: RunName) -> Response:
    run = caller.house.training.run(name)
    return page(
        caller,
        "run",
        words=("run", "runs"),
        facts={"name": name, "going": run.going},
        run=run,
        chart=charts.losses(caller.words, run),
        figures=run.report.get("figures") or [],
        answers=run.report.get("answers") or [],
        current=caller.house.registry.current(),
    )


@router.get("/api/runs/{name}", rule=Rule.OWNER, may=(304, 404))
def look(request: Request, caller: Caller, name: RunName) -> Response:
    run = caller.house.training.run(name)
    body: dict[str, Any] = {
        key: value for key, value in asdict(run).items() if key not in ("losses", "held_out", "report")
    }
    body |= {"done": run.done, "loss": run.losses[-1][1] if run.losses else None}
    body["points"] = charts.points_of_losses(run)
    return tagged(body, caller.lang, request.headers.get("if-none-match"))


@router.post("/api/runs/stop", rule=Rule.OWNER, may=(404, 409))
def stop(caller: Caller, body: Named) -> Response:
    caller.house.training.stop(body.name)
    return JSONResponse({"stopped": True})


@router.post("/api/runs/again", rule=Rule.OWNER, may=(404, 409))
def again(caller: Caller, body: Named) -> Response:
    caller.house.training.again(body.name)
    return JSONResponse({"started": True})


@router.post("/api/runs/use", rule=Rule.OWNER, may=(404, 409))
def use(caller: Caller, body: Named) -> Response:
    """Register a finished run, if it is not yet, and serve it."""
    version = caller.house.steward.register(body.name)
    caller.house.registry.promote(version, reason=f"run {body.name}", by=caller.somebody.name)
    caller.house.answering.start()
    caller.house.answering.look()
    return JSONResponse({"version": version})
