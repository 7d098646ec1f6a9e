"""Coming in and going out: the printed link, signing in, invitations, languages; and the static files."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import HTMLResponse, JSONResponse, Response

from tomoni.studio.access import CHOICE, Caller, Routes, Rule
from tomoni.studio.doors import LONGEST_PASSWORD, TRIES_OF_ADDRESS
from tomoni.studio.faults import Fault
from tomoni.studio.showing import edition, files, page
from tomoni.studio.words import LANGS

router = Routes()

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60)]
Password = Annotated[str, StringConstraints(max_length=LONGEST_PASSWORD)]
Token = Annotated[str, StringConstraints(min_length=10, max_length=100)]


class Body(BaseModel):
    """Of a request: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SignIn(Body):
    name: Name
    password: Password


class Acceptance(Body):
    token: Token
    name: Name
    password: Password


class Language(Body):
    lang: Literal["ja", "en"]


class NewPassword(Body):
    name: Name
    password: Annotated[str, Field(max_length=LONGEST_PASSWORD)]


@router.get("/static/{mark}/{name}", rule=Rule.ANYONE, may=(404,), kind="*/*")
def static_file(mark: str, name: str) -> Response:
    found = files().get(name)
    if found is None or mark != edition():
        raise Fault("not_found", 404)
    content, kind = found
    return Response(content, media_type=kind, headers={"cache-control": "public, max-age=31536000, immutable"})


@router.get("/sign-in", rule=Rule.ANYONE)
def sign_in_page(caller: Caller) -> Response:
    accounts = any(person.password_hash for person in caller.house.store.people())
    return page(caller, "sign-in", accounts=accounts)


@router.post("/api/sign-in", rule=Rule.ANYONE, may=(429,))
def sign_in(request: Request, caller: Caller, body: SignIn) -> Response:
    doors = caller.house.doors
    person = doors.sign_in(body.name, body.password, doors.address(request))
    response = JSONResponse({"to": "/"})
    doors.end(request.cookies.get(doors.cookie), response)
    doors.begin(person.id, response)
    return response


@router.post("/api/sign-out", rule=Rule.ANYONE)
def sign_out(request: Request, caller: Caller) -> Response:
    response = JSONResponse({"to": "/sign-in"})
    doors = caller.house.doors
    doors.end(request.cookies.get(doors.cookie), response)
    return response


@router.get("/join", rule=Rule.ANYONE)
def join_page(caller: Caller, token: str = "") -> Response:
    found = caller.house.doors.invitation(token) if token else None
    if found is None:
        raise Fault("invitation_spent", 403)
    return page(caller, "join", invitation=found, facts={"token": token})


@router.post("/api/join", rule=Rule.ANYONE, may=(409, 429))
def join(request: Request, caller: Caller, body: Acceptance) -> Response:
    doors = caller.house.doors
    doors.count("address", doors.address(request), TRIES_OF_ADDRESS)
    # what was chosen, not what the browser says: that is asked again at each visit until they choose
    person = doors.accept(body.token, body.name, body.password, chosen_in(request))
    response = JSONResponse({"to": "/"})
    doors.begin(person.id, response)
    return response


@router.post("/api/language", rule=Rule.ANYONE)
def language(caller: Caller, body: Language) -> Response:
    if caller.person is not None:
        caller.house.store.change_person(caller.person.id, lang=body.lang)
    response = JSONResponse({"lang": body.lang})
    year, secure = 365 * 24 * 3600, caller.house.doors.secure
    response.set_cookie(CHOICE, body.lang, max_age=year, samesite="strict", httponly=True, secure=secure)
    return response


@router.get("/account", rule=Rule.PERSON)
def account_page(caller: Caller) -> Response:
    return page(caller, "account")


@router.post("/api/account/password", rule=Rule.PERSON, may=(409,))
def set_password(request: Request, caller: Caller, body: NewPassword) -> Response:
    """A new password ends every other session of the person."""
    doors, store, person = caller.house.doors, caller.house.store, caller.somebody
    other = store.person_named(body.name)
    if other is not None and other.id != person.id:
        raise Fault("name_taken", 409, name=body.name)
    doors.change_password(person.id, body.name, body.password)
    response = JSONResponse({"saved": True})
    doors.begin(person.id, response)
    return response


def chosen_in(request: Request) -> str:
    """The language chosen in this browser; empty where none was."""
    choice = request.cookies.get(CHOICE, "")
    return choice if choice in LANGS else ""


def entered(caller: Caller, token: str) -> HTMLResponse:
    """Exchange the token for a session. A page that leads on, not a redirect: a cookie that is SameSite=Strict comes
    along on a way that begins here, wherever the link was clicked."""
    person = caller.house.doors.use(token)
    if person is None:
        if caller.person is not None:  # the same link again, from the same browser
            return page(caller, "entered")
        raise Fault("link_spent", 403)
    response = page(caller, "entered")
    caller.house.doors.begin(person, response)
    return response
