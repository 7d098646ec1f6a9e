"""The count of everything that happens: what live pages ask, and what judgements are ordered by. No torch."""

from __future__ import annotations

from sqlalchemy import Connection, func, insert, select

from tomoni.feedback.schema import events
from tomoni.feedback.workspace import now

# made once: to build a statement takes longer than to run it
LAST = select(func.max(events.c.sequence))
ONE_MORE = insert(events)


def last(connection: Connection) -> int:
    return connection.execute(LAST).scalar() or 0


def note(connection: Connection, what: str, ref: str) -> int:
    """One more event; its number. Only the one writer calls this, so numbers are in the order of the commits."""
    number = last(connection) + 1
    connection.execute(ONE_MORE, {"sequence": number, "what": what, "ref": ref[:200], "at": now()})
    return number
