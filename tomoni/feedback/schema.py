"""The tables of the store. What makes them is `migrations`; a test holds that both say the same. No torch.

Order is by `sequence`, which one writer counts up; times are for show. Free text stands in JSON columns, so that every
character (NUL too, which PostgreSQL has no place for in text) is kept.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator

from tomoni.errors import UserError


def dumps(value: Any) -> str:
    """Compact JSON that any database can keep; Japanese stays readable. ValueError or TypeError for what JSON or
    Unicode does not have (NaN, half of a surrogate pair, a set)."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"U+{ord(text[error.start]):04X} is half of a character (a lone surrogate)") from None
    return text


def storable(value: Any, what: str) -> None:
    """UserError where the value cannot be kept as it is."""
    try:
        dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{what} cannot be stored: {error}", choices=["text, numbers, true, false, null, lists, objects"]
        ) from error


class Json(TypeDecorator[Any]):
    """Any JSON value as text: the same bytes in every database."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else dumps(value)

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else json.loads(value)


NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
METADATA = MetaData(naming_convention=NAMING)
COUNT = BigInteger().with_variant(Integer, "sqlite")

# one line for every change, so that whoever looks on learns what is new; a judgement's number stands here, too
events = Table(
    "events",
    METADATA,
    Column("sequence", COUNT, primary_key=True, autoincrement=False),
    Column("what", String(32), nullable=False),
    Column("ref", String(200), nullable=False),
    Column("at", String(40), nullable=False),
)

persons = Table(
    "persons",
    METADATA,
    Column("id", String(200), primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("role", String(20), nullable=False),
    Column("lang", String(20), nullable=False),
    Column("password_hash", Text),
    Column("active", Boolean, nullable=False),
    Column("created", String(40), nullable=False),
)

sessions = Table(
    "sessions",
    METADATA,
    Column("token_hash", String(128), primary_key=True),
    Column("person", String(200), ForeignKey("persons.id"), nullable=False, index=True),
    Column("seconds", Float, nullable=False),  # how long it lasts at most, whatever happens to the clock
    Column("expires", Float, nullable=False),  # by the clock; asked only after a restart
)

prompts = Table(
    "prompts",
    METADATA,
    Column("number", COUNT, primary_key=True, autoincrement=False),
    Column("id", String(64), nullable=False, unique=True),
    Column("messages", Json, nullable=False),
    Column("provenance", String(20), nullable=False),
    Column("by", String(200), index=True),
    Column("topic", String(200), nullable=False),
    Column("status", String(20), nullable=False),
    Column("held_out", Boolean, nullable=False),
    Column("created", String(40), nullable=False),
)

answers = Table(
    "answers",
    METADATA,
    Column("number", COUNT, primary_key=True, autoincrement=False),
    Column("id", String(200), nullable=False, unique=True),
    Column("prompt", String(64), ForeignKey("prompts.id"), nullable=False, index=True),
    Column("version", String(200), nullable=False, index=True),
    Column("version_hash", String(128), nullable=False),
    Column("text", Json, nullable=False),
    Column("features", LargeBinary),  # float32, little end first
    Column("logprob", Float),
    Column("tokens", Integer, nullable=False),
    Column("how", Json, nullable=False),
    Column("created", String(40), nullable=False),
)

pairs = Table(
    "pairs",
    METADATA,
    Column("number", COUNT, primary_key=True, autoincrement=False),
    Column("id", String(200), nullable=False, unique=True),
    Column("prompt", String(64), ForeignKey("prompts.id"), nullable=False, index=True),
    Column("first", String(200), ForeignKey("answers.id"), nullable=False),
    Column("second", String(200), ForeignKey("answers.id"), nullable=False),
    Column("purpose", String(20), nullable=False, index=True),
    Column("selected_by", String(40), nullable=False),
    Column("person", String(200)),
    Column("expected", String(20)),
    Column("created", String(40), nullable=False),
)

# append-only: `body` is never changed; `state` follows from the events and is kept only to be asked for quickly
judgements = Table(
    "judgements",
    METADATA,
    Column("sequence", COUNT, primary_key=True, autoincrement=False),
    Column("id", String(200), nullable=False, unique=True),
    Column("key", String(200), nullable=False, unique=True),
    Column("digest", String(64), nullable=False),  # of what was said: the same key with other content is refused
    Column("person", String(200), ForeignKey("persons.id"), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("purpose", String(20), nullable=False),
    Column("pair", String(200)),
    Column("skipped", Boolean, nullable=False),
    Column("chain", String(200), nullable=False),  # id of the first of those that replace each other
    Column("state", String(20), nullable=False),  # live, replaced, undone; "undo" for the event that undoes
    Column("received", String(40), nullable=False),
    Column("body", Json, nullable=False),
    Index(None, "person", "sequence"),
    Index(None, "pair"),
    Index(None, "chain"),
    Index(None, "state", "sequence"),
)

rules = Table(
    "rules",
    METADATA,
    Column("number", COUNT, primary_key=True, autoincrement=False),  # of the change: a rule has one line for each
    Column("id", String(64), nullable=False, index=True),
    Column("text", Json, nullable=False),
    Column("by", String(200)),
    Column("status", String(20), nullable=False),
    Column("examples", Json, nullable=False),
    Column("created", String(40), nullable=False),
    Column("last", Boolean, nullable=False),
)

settings = Table(
    "settings",
    METADATA,
    Column("key", String(200), primary_key=True),
    Column("value", Json, nullable=False),
)

# how far each file of the inbox has been taken in, and the lines that could not be
segments = Table(
    "segments",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("offset", BigInteger, nullable=False),
)

aside = Table(
    "aside",
    METADATA,
    Column("segment", String(200), primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("waits_for", String(200), index=True),  # a completion's id that has not come in yet
    Column("line", LargeBinary, nullable=False),
)
