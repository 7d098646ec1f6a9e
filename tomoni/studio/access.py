"""Who may do what, said at each route: a route without a rule cannot be made.

    router = Routes()

    @router.get("/judge", rule=Rule.PERSON)
    def page(caller: Caller) -> …

The rule is a dependency of the route, so it runs before the route's own code and whatever the path looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tomoni.studio.faults import Fault
from tomoni.studio.words import Lang, Words, chosen

if TYPE_CHECKING:
    from fastapi import FastAPI

    from tomoni.feedback.entries import Person
    from tomoni.studio.house import House


CHOICE = "tomoni-lang"  # the cookie: the language that was chosen in this browser


class Rule(Enum):
    """Who may."""

    ANYONE = "anyone"  # signing in, and what a page needs for it
    PERSON = "person"  # whoever is signed in
    OWNER = "owner"


@dataclass(frozen=True, slots=True)
class Visit:
    """Who asks, and in which language they are answered."""

    house: House
    person: Person | None
    lang: Lang
    words: Words

    @property
    def somebody(self) -> Person:
        """The person of a route whose rule is PERSON or OWNER."""
        if self.person is None:
            raise Fault("signed_out", 401)
        return self.person

    @property
    def owner(self) -> bool:
        return self.person is not None and self.person.role == "owner"


def visit(request: Request) -> Visit:
    """Found once a request; kept for pages of errors."""
    known: Visit | None = getattr(request.state, "visit", None)
    if known is not None:
        return known
    house: House = request.app.state.house
    person = house.doors.person(request.cookies.get(house.doors.cookie))
    asked = [person.lang if person else None, request.cookies.get(CHOICE), house.lang]
    lang = chosen([*asked, request.headers.get("accept-language")])
    if person is not None:
        house.asking.reads(person.id, lang)
    found = Visit(house, person, lang, Words(lang))
    request.state.visit = found
    return found


def visit_or_stranger(request: Request) -> Visit:
    """For pages of errors: what went wrong may be that the store cannot be asked who comes."""
    try:
        return visit(request)
    except Exception:
        house: House = request.app.state.house
        lang = chosen([request.cookies.get(CHOICE), house.lang, request.headers.get("accept-language")])
        return Visit(house, None, lang, Words(lang))


def guard(rule: Rule) -> Callable[[Request], None]:
    def allowed(request: Request) -> None:
        here = visit(request)
        if rule is Rule.ANYONE:
            return
        if here.person is None:
            raise Fault("signed_out", 401)
        if rule is Rule.OWNER and not here.owner:
            raise Fault("owner_only", 403)

    allowed.rule = rule  # type: ignore[attr-defined]
    return allowed


async def visitor(request: Request) -> Visit:
    """The visit that the route's guard has found, which runs before: no thread is asked again."""
    known: Visit | None = getattr(request.state, "visit", None)
    return known if known is not None else await run_in_threadpool(visit, request)


Caller = Annotated[Visit, Depends(visitor)]


class Routes(APIRouter):
    """A router whose routes cannot be written without a rule. `may` are the statuses that a route answers with besides
    those that all of its kind do; `kind` is what it sends when all is well."""

    def get(  # type: ignore[override]
        self, path: str, *, rule: Rule, may: Sequence[int] = (), kind: str | None = None, **more: Any
    ) -> Callable[..., Any]:
        api = path.startswith("/api/")
        kind = kind or ("application/json" if api else "text/html")
        usual = [*OF_ALL, *OF_RULE[rule], *(() if api or rule is Rule.ANYONE else (303,))]
        return super().get(path, **_told(rule, [*usual, *may], api, kind), **more)

    def post(  # type: ignore[override]
        self, path: str, *, rule: Rule, may: Sequence[int] = (), kind: str = "application/json", **more: Any
    ) -> Callable[..., Any]:
        return super().post(path, **_told(rule, [*OF_ALL, *OF_RULE[rule], *OF_POST, *may], True, kind), **more)


OF_ALL = (403, 421, 422)  # another site, another host, what no route takes
OF_RULE: Mapping[Rule, tuple[int, ...]] = {Rule.ANYONE: (), Rule.PERSON: (401,), Rule.OWNER: (401,)}
OF_POST = (400, 408, 413, 415, 507)  # what the layers below refuse, slow, too large, no JSON, a disk that takes no more
WITHOUT_BODY = (303, 304)
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {name: {"type": "string"} for name in ("code", "message", "next")},
        }
    },
}
MEANING = {
    303: "To the page for signing in",
    304: "As it was",
    400: "It cannot be done as asked; the message says why",
    401: "Not signed in",
    403: "Not for this person, or asked by another site",
    404: "There is none",
    408: "It took too long to arrive",
    409: "Not as things stand",
    413: "Too large",
    415: "Only JSON is taken",
    421: "Another address than the studio's",
    422: "Not of the form that is taken",
    429: "Too many in a short time; Retry-After says in how many seconds again",
    502: "The model refused",
    503: "The model is not there, or busy",
    507: "The disk takes no more; nothing was stored",
}


def _told(rule: Rule, statuses: Iterable[int], api: bool, kind: str) -> dict[str, Any]:
    """What FastAPI is told of a route: its guard, and its answers for the document."""
    error: dict[str, Any] = {"application/json": {"schema": ERROR}}
    if not api:
        error["text/html"] = {"schema": {"type": "string"}}
    answers: dict[int | str, dict[str, Any]] = {
        status: {"description": MEANING[status], **({} if status in WITHOUT_BODY else {"content": error})}
        for status in sorted(set(statuses))
    }

    if kind == "*/*":  # a file, which may be JSON of any shape
        schema = {"type": ["string", "array", "object"]}
        answers[200] = {"description": "The file", "content": {kind: {"schema": schema}}}

    class Kind(JSONResponse if kind == "application/json" else Response):  # type: ignore[misc]
        media_type = kind

    return {
        "dependencies": [Depends(guard(rule))],
        "response_model": None,
        "response_class": Kind,
        "responses": answers,
    }


def rules_of(routes: Iterable[Any]) -> dict[tuple[str, str], Rule | None]:
    """(method, path) of every route, and its rule; None where it has none."""
    found: dict[tuple[str, str], Rule | None] = {}
    for route in routes:
        rules = [dependency.dependency for dependency in route.dependencies] if isinstance(route, APIRoute) else []
        rule = next((one for each in rules if (one := getattr(each, "rule", None)) is not None), None)
        for method in getattr(route, "methods", None) or {"*"}:
            found[method, getattr(route, "path", str(route))] = rule
    return found


def require_rules(app: FastAPI) -> None:
    """At start: a route that nobody thought about is a fault of ours, and is not served."""
    without = [where for where, rule in rules_of(app.routes).items() if rule is None]
    if without:
        raise RuntimeError(f"routes without a rule: {without}")
