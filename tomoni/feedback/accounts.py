"""People who judge, and their sessions, in the database. Functions of an open connection. No torch."""

from __future__ import annotations

import secrets
import time
import unicodedata
from collections.abc import Sequence
from typing import Any, get_args

from sqlalchemy import Connection, Row, bindparam, delete, insert, or_, select, update

from tomoni.errors import UserError
from tomoni.feedback.entries import Person, PersonRole
from tomoni.feedback.events import note
from tomoni.feedback.schema import persons, sessions
from tomoni.feedback.workspace import now

ROLES: tuple[str, ...] = get_args(PersonRole)
LONGEST_NAME = 100
CHANGEABLE = ("name", "role", "lang", "password_hash", "active")
WITH_ID = select(persons).where(persons.c.id == bindparam("its_id"))
OF_SESSION = (
    select(sessions.c.expires, sessions.c.seconds, persons)
    .join(persons, persons.c.id == sessions.c.person)
    .where(sessions.c.token_hash == bindparam("its_hash"))
)
API = "api:"  # begins the id of a person who is known only by what an application says


def _person(row: Row[Any]) -> Person:
    return Person(row.id, row.name, row.role, row.lang, row.password_hash, bool(row.active), row.created)


def add(
    connection: Connection,
    name: str,
    *,
    role: str,
    lang: str,
    password_hash: str | None,
    id: str | None = None,
    active: bool = True,
    created: str | None = None,
) -> Person:
    _check(role=role, name=name)
    if named(connection, name) is not None:
        raise UserError(f"there is someone called {name!r} already", next_step="choose another name")
    made = id or secrets.token_hex(8)
    values = {"id": made, "name": name, "role": role, "lang": lang, "password_hash": password_hash}
    connection.execute(insert(persons).values(**values, active=active, created=created or now()))
    note(connection, "person", made)
    return get(connection, made)


def _check(**values: Any) -> None:
    if "role" in values and values["role"] not in ROLES:
        raise UserError(f"role {values['role']!r} is not known", choices=ROLES)
    if "name" in values:
        name = values["name"]
        bad = not isinstance(name, str) or not name.strip() or name != name.strip() or len(name) > LONGEST_NAME
        if bad or any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name):
            raise UserError(
                f"{str(name)[:LONGEST_NAME]!r} cannot be a name",
                next_step=f"choose 1 to {LONGEST_NAME} characters without line breaks, not beginning or ending with a space",
            )


def everyone(connection: Connection) -> list[Person]:
    return [_person(row) for row in connection.execute(select(persons).order_by(persons.c.created, persons.c.id))]


def get(connection: Connection, id: str) -> Person:
    row = connection.execute(WITH_ID, {"its_id": id}).one_or_none()
    if row is None:
        raise UserError(f"there is no person {id!r}", next_step="`tomoni feedback people` lists them")
    return _person(row)


def named(connection: Connection, name: str) -> Person | None:
    row = connection.execute(select(persons).where(persons.c.name == name)).one_or_none()
    return None if row is None else _person(row)


def change(connection: Connection, id: str, changes: dict[str, Any]) -> Person:
    for key in changes:
        if key not in CHANGEABLE:
            raise UserError(f"a person has no {key!r} to change", choices=CHANGEABLE)
    _check(**changes)
    get(connection, id)
    if "name" in changes and (other := named(connection, changes["name"])) is not None and other.id != id:
        raise UserError(f"there is someone called {changes['name']!r} already", next_step="choose another name")
    if changes:
        connection.execute(update(persons).where(persons.c.id == id).values(**changes))
    if changes.get("active") is False:
        end_all(connection, id)
    note(connection, "person", id)
    return get(connection, id)


# -- sessions --------------------------------------------------------------------------------------------------------


def begin(connection: Connection, person: str, token_hash: str, seconds: float, ended: Sequence[str] = ()) -> None:
    """`ended` are sessions that are over; they are forgotten."""
    get(connection, person)
    over = or_(sessions.c.expires < time.time() - 86_400, sessions.c.token_hash.in_(ended[:500]))
    connection.execute(delete(sessions).where(over))
    values = {"token_hash": token_hash, "person": person, "seconds": seconds, "expires": time.time() + seconds}
    connection.execute(insert(sessions).values(**values))


def of_session(connection: Connection, token_hash: str) -> tuple[Person, float] | None:
    """The person, and the seconds that are left by the clock: never more than the session was begun with."""
    row = connection.execute(OF_SESSION, {"its_hash": token_hash}).one_or_none()
    if row is None or not row.active:
        return None
    return _person(row), min(row.expires - time.time(), row.seconds)


def end(connection: Connection, token_hash: str) -> None:
    connection.execute(delete(sessions).where(sessions.c.token_hash == token_hash))


def end_all(connection: Connection, person: str) -> None:
    connection.execute(delete(sessions).where(sessions.c.person == person))
