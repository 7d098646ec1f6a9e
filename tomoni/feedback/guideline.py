"""The guideline's rules and the workspace's settings, in the database. Functions of an open connection. No torch.

A rule that is changed keeps its history: each change is a line of its own.
"""

from __future__ import annotations

import secrets
from typing import Any, get_args

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update

from tomoni.errors import UserError
from tomoni.feedback.entries import Rule, RuleStatus
from tomoni.feedback.events import note
from tomoni.feedback.schema import rules, settings, storable
from tomoni.feedback.workspace import now

STATUSES: tuple[str, ...] = get_args(RuleStatus)
SETTING = select(settings.c.value).where(settings.c.key == bindparam("its_key"))
CHANGEABLE = ("text", "status", "examples", "by")


def add(connection: Connection, values: dict[str, Any]) -> Rule:
    return _write(connection, {"id": secrets.token_hex(8), **values})


def change(connection: Connection, id: str, changes: dict[str, Any]) -> Rule:
    for key in changes:
        if key not in CHANGEABLE:
            raise UserError(f"a rule has no {key!r} to change", choices=CHANGEABLE)
    row = connection.execute(select(rules).where(rules.c.id == id, rules.c.last)).one_or_none()
    if row is None:
        raise UserError(f"there is no rule {id!r}", next_step="look at the guideline for those there are")
    old = {"id": id, "text": row.text, "by": row.by, "status": row.status, "examples": row.examples}
    return _write(connection, old | changes)


def _write(connection: Connection, values: dict[str, Any]) -> Rule:
    if values["status"] not in STATUSES:
        raise UserError(f"status {values['status']!r} is not known", choices=STATUSES)
    if not isinstance(values["text"], str) or not values["text"].strip():
        raise UserError("a rule without text", next_step="write what makes an answer good or bad")
    storable([values["text"], list(values["examples"])], "a rule")
    connection.execute(update(rules).where(rules.c.id == values["id"]).values(last=False))
    number = (connection.execute(select(func.max(rules.c.number))).scalar() or 0) + 1
    row = {**values, "examples": list(values["examples"]), "number": number, "created": now(), "last": True}
    connection.execute(insert(rules).values(**row))
    note(connection, "rules", values["id"])
    return _rule(connection.execute(select(rules).where(rules.c.number == number)).one())


def _rule(row: Row[Any]) -> Rule:
    return Rule(row.id, row.text, row.by, row.status, tuple(row.examples), row.created)


def every(connection: Connection, *, history: bool) -> list[Rule]:
    """In the order of their first lines; with history, each rule's changes too, in the order they were made."""
    wanted = select(rules).order_by(rules.c.number)
    rows = connection.execute(wanted).all()
    place: dict[str, int] = {}
    for row in rows:
        place.setdefault(row.id, len(place))
    shown = rows if history else sorted((row for row in rows if row.last), key=lambda row: place[row.id])
    return [_rule(row) for row in shown]


def get_setting(connection: Connection, key: str, default: Any) -> Any:
    row = connection.execute(SETTING, {"its_key": key}).one_or_none()
    return default if row is None else row.value["value"]


def set_setting(connection: Connection, key: str, value: Any) -> None:
    if not 0 < len(key) <= 200 or "\0" in key:
        raise UserError(f"a setting has the key {key[:40]!r}", choices=["1 to 200 characters"])
    storable(value, f"the setting {key!r}")
    connection.execute(delete(settings).where(settings.c.key == key))
    connection.execute(insert(settings).values(key=key, value={"value": value}))
    note(connection, "settings", key)
