"""Who may do what, said at each route: a route without a rule cannot be made.

    router = Routes()

    @router.get("/judge", rule=Rule.PERSON)
    def page(caller: Caller) -> …

The rule is a dependency of the route, so it runs before the route's own code and whatever the path looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute

from tomoni.studio.faults import Fault
from tomoni.studio.words import Lang, Words, chosen

if TYPE_CHECKING:
    from fastapi import FastAPI

    from tomoni.feedback.entries import Person
    from tomoni.studio.house import House


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
    asked = [person.lang if person else None, request.cookies.get("tomoni-lang"), house.lang]
    lang = chosen([*asked, request.headers.get("accept-language")])
    found = Visit(house, person, lang, Words(lang))
    request.state.visit = found
    return found


def visit_or_stranger(request: Request) -> Visit:
    """For pages of errors: what went wrong may be that the store cannot be asked who comes."""
    try:
        return visit(request)
    except Exception:
        house: House = request.app.state.house
        lang = chosen([request.cookies.get("tomoni-lang"), house.lang, request.headers.get("accept-language")])
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


Caller = Annotated[Visit, Depends(visit)]


class Routes(APIRouter):
    """A router whose routes cannot be written without a rule."""

    def get(self, path: str, *, rule: Rule, **more: Any) -> Callable[..., Any]:  # type: ignore[override]
        return super().get(path, dependencies=[Depends(guard(rule))], response_model=None, **more)

    def post(self, path: str, *, rule: Rule, **more: Any) -> Callable[..., Any]:  # type: ignore[override]
        return super().post(path, dependencies=[Depends(guard(rule))], response_model=None, **more)


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
