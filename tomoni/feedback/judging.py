"""Judgements in the database: events that are only ever added, and which of them count now. No torch.

Judgements that replace each other are a chain, known by the first one's id. The last that is neither replaced nor
undone counts. Whoever replaces or undoes an older one of the chain, from a page that was left open, means the chain.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, insert, select, update

from tomoni.errors import UserError
from tomoni.feedback import accounts
from tomoni.feedback.checks import check, digest, is_skip, purpose_of, wrong
from tomoni.feedback.entries import Ack, Stored, judgement_from, plain_judgement
from tomoni.feedback.events import note
from tomoni.feedback.schema import judgements
from tomoni.feedback.workspace import now
from tomoni.records import Judgement, Kind

LONGEST_KEY = 200
LIVE, REPLACED, UNDONE, UNDO = "live", "replaced", "undone", "undo"
J = judgements.c
# for what is asked of each pair: not by the index of states, which SQLite would choose, and look through all there are
IS_LIVE = J.state + "" == LIVE
# made once: to build a statement takes longer than to run it
WITH_KEY = select(J.sequence, J.id, J.digest).where(J.key == bindparam("its_key"))
WITH_ID = select(J.sequence, J.body, J.received).where(J.id == bindparam("its_id"))
REPLACED_ONE = select(J.chain, J.person, J.kind).where(J.id == bindparam("its_id"))
NO_MORE_LIVE = update(judgements).where(J.chain == bindparam("its_chain"), IS_LIVE)
ONE_MORE = insert(judgements)
COMPARED = select(J.id).where(
    J.pair == bindparam("its_pair"),
    J.person == bindparam("its_person"),
    IS_LIVE,
    J.kind == Kind.COMPARISON.value,
)


def judge(connection: Connection, judgement: Judgement, key: str, *, received: str | None = None) -> Ack:
    if not key or len(key) > LONGEST_KEY or "\0" in key:
        raise wrong(f"the key {key[:40]!r}", f"1 to {LONGEST_KEY} characters, another for each judgement")
    check(judgement)
    said = digest(judgement)
    if (known := connection.execute(WITH_KEY, {"its_key": key}).one_or_none()) is not None:
        if known.digest != said:
            raise UserError(
                f"the key {key!r} has been used for another judgement",
                next_step="make a new key for each judgement, and use it again only to send that one again",
            )
        return Ack(known.sequence, known.id, duplicate=True)
    accounts.get(connection, judgement.person)
    if connection.execute(WITH_ID, {"its_id": judgement.id}).first() is not None:
        raise UserError(
            f"there is a judgement {judgement.id!r} already",
            next_step="give a new one a new id and name the old one in replaces",
        )
    chain, state = _follow(connection, judgement)
    number = note(connection, "judgement", judgement.id)
    row = {
        "sequence": number,
        "id": judgement.id,
        "key": key,
        "digest": said,
        "person": judgement.person,
        "kind": judgement.kind.value,
        "purpose": purpose_of(judgement),
        "pair": judgement.extra.get("pair"),
        "skipped": is_skip(judgement),
        "chain": chain,
        "state": state,
        "received": received or now(),
        "body": plain_judgement(judgement),
    }
    connection.execute(ONE_MORE, row)
    return Ack(number, judgement.id)


def _follow(connection: Connection, judgement: Judgement) -> tuple[str, str]:
    """The chain and the state of a new judgement; those of the chain before it change theirs."""
    if judgement.replaces is None:
        return judgement.id, LIVE
    old = connection.execute(REPLACED_ONE, {"its_id": judgement.replaces}).one_or_none()
    if old is None:
        raise wrong(f"it replaces {judgement.replaces!r}", "the id of a judgement that is stored")
    if old.person != judgement.person:
        raise UserError(
            "people can replace and undo only what they said themselves", next_step="say it in a judgement of your own"
        )
    if old.kind == Kind.UNDO.value:
        raise UserError("an undo cannot be undone", next_step="judge again")
    after = UNDONE if judgement.kind is Kind.UNDO else REPLACED
    connection.execute(NO_MORE_LIVE, {"its_chain": old.chain, "state": after})
    if judgement.kind is not Kind.UNDO:
        return old.chain, LIVE
    before = select(func.max(J.sequence)).where(J.chain == old.chain, J.state == REPLACED)
    if (number := connection.execute(before).scalar()) is not None:
        connection.execute(update(judgements).where(J.sequence == number).values(state=LIVE))
    return old.chain, UNDO


def stored(
    connection: Connection,
    *,
    after: int = 0,
    person: str | None = None,
    kinds: Iterable[Kind] | None = None,
    purpose: str | None = None,
    live: bool = True,
) -> list[Stored]:
    wanted = _chosen(select(J.sequence, J.body, J.received), after, person, kinds, purpose, live)
    return [_stored(row) for row in connection.execute(wanted.order_by(J.sequence))]


def count(
    connection: Connection,
    *,
    after: int = 0,
    person: str | None = None,
    kinds: Iterable[Kind] | None = None,
    purpose: str | None = None,
    live: bool = True,
) -> int:
    wanted = _chosen(select(func.count()).select_from(judgements), after, person, kinds, purpose, live)
    return int(connection.execute(wanted).scalar_one())


def get(connection: Connection, id: str) -> Stored:
    row = connection.execute(WITH_ID, {"its_id": id}).one_or_none()
    if row is None:
        raise UserError(f"there is no judgement {id!r}", next_step="`tomoni feedback W export` lists them")
    return _stored(row)


def compared(connection: Connection, person: str, pair: str) -> str | None:
    """This person's comparison of the pair that counts now; None where there is none."""
    found = connection.execute(COMPARED, {"its_person": person, "its_pair": pair}).first()
    return None if found is None else str(found.id)


def _chosen(
    wanted: Select[Any],
    after: int,
    person: str | None,
    kinds: Iterable[Kind] | None,
    purpose: str | None,
    live: bool,
) -> Select[Any]:
    wanted = wanted.where(J.sequence > after)
    if person is not None:
        wanted = wanted.where(J.person == person)
    if kinds is not None:
        wanted = wanted.where(J.kind.in_([kind.value for kind in kinds]))
    if purpose is not None:
        wanted = wanted.where(J.purpose == purpose)
    return wanted.where(J.state == LIVE) if live else wanted


def _stored(row: Any) -> Stored:
    return Stored(row.sequence, judgement_from(row.body), row.received)
