"""The studio's application: routes, each with its rule; faults told in the visitor's language; the guard around it."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import Scope

from tomoni.errors import DiskError, UserError
from tomoni.studio import access
from tomoni.studio.faults import Fault
from tomoni.studio.guard import Guard
from tomoni.studio.house import House
from tomoni.studio.pages import ROUTERS
from tomoni.studio.showing import page

log = logging.getLogger("tomoni.studio")


def create(house: House) -> FastAPI:
    """All pages and their API, without the guard (`guarded`). RuntimeError where a route has no rule."""
    app = FastAPI(title="tomoni studio", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.house = house
    for router in ROUTERS:
        app.router.routes.extend(router.routes)  # not include_router, which hides the routes and so their rules
    app.add_exception_handler(Fault, _fault)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)
    access.require_rules(app)
    return app


def guarded(app: FastAPI, *, hosts: Iterable[str], scheme: str = "http") -> Guard:
    def owner(scope: Scope) -> bool:
        return access.visit_or_stranger(Request({**scope, "app": app})).owner

    return Guard(app, hosts=hosts, owner=owner, scheme=scheme)


def _fault(request: Request, error: Exception) -> Response:
    if not isinstance(error, Fault):
        raise error
    answer = told(request, error.status, error.code, **error.values)
    if error.status == 429:
        answer.headers["retry-after"] = str(error.values["seconds"])
    return answer


def _user_error(request: Request, error: Exception) -> Response:
    """What the layers below say, which is in English; the heading and what to do are in the visitor's language."""
    if not isinstance(error, UserError):
        raise error
    status, code = (507, "disk") if isinstance(error, DiskError) else (400, "below")
    return told(request, status, code, detail=error.text())


def _invalid(request: Request, error: Exception) -> Response:
    return told(request, 422, "invalid")


def _http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 400
    code = {404: "not_found", 405: "method"}.get(status, "invalid")
    return told(request, status, code)


def _unexpected(request: Request, error: Exception) -> Response:
    request.state.logged = True
    # neither texts nor secrets: what a person wrote may stand in an exception's message
    route = getattr(request.scope.get("route"), "path", "no route")
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames))
    log.error("unexpected %s in %s at %s", type(error).__name__, route, places)
    return told(request, 500, "unexpected")


def told(request: Request, status: int, code: str, **values: Any) -> Response:
    """JSON for scripts, a page for people; who is not signed in is led to where they can."""
    visit = access.visit_or_stranger(request)
    message = visit.words(f"fault.{code}", **values)
    next_step = visit.words.known(f"fault.{code}.next", "").format(**values)
    if request.scope["path"].startswith("/api/"):
        body = {"error": {"code": code, "message": message, "next": next_step}}
        return JSONResponse(body, status_code=status)
    if code == "signed_out":
        return RedirectResponse("/sign-in", status_code=303)
    return page(visit, "fault", code=status, message=message, next_step=next_step)
