"""Our own form: everything in the store as JSONL, so that a workspace can be made again from it. No torch.

The first line names the form. People come without their passwords; sessions and settings stay behind. Order is the
order of the lines: numbers are given anew where it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, func, insert, select

from tomoni.data.badrows import BadValue
from tomoni.errors import UserError
from tomoni.feedback import accounts, judging, pool
from tomoni.feedback.entries import Answer, Pair, judgement_from, message_from, plain_message, prompt_id
from tomoni.feedback.events import note
from tomoni.feedback.inbox import decode_features, encode_features
from tomoni.feedback.schema import judgements, persons, prompts, rules
from tomoni.feedback.workspace import now
from tomoni.records import Verdict

SCHEMA = 1
HEADER = {"tomoni": "feedback", "schema": SCHEMA}
Row = Mapping[str, Any]


def rows_of(connection: Connection) -> Iterator[dict[str, Any]]:
    yield dict(HEADER)
    for person in connection.execute(select(persons).order_by(persons.c.created, persons.c.id)):
        kept = {"id": person.id, "name": person.name, "role": person.role, "lang": person.lang}
        yield {"type": "person", **kept, "active": bool(person.active), "created": person.created}
    for prompt in connection.execute(select(prompts).order_by(prompts.c.number)):
        row = {"type": "prompt", "id": prompt.id, "messages": prompt.messages, "provenance": prompt.provenance}
        row |= {"by": prompt.by, "topic": prompt.topic, "status": prompt.status, "held_out": bool(prompt.held_out)}
        yield {**row, "created": prompt.created}
    for answer in pool.list_answers(connection):
        yield {
            "type": "answer", "id": answer.id, "prompt": answer.prompt, "version": answer.version,
            "version_hash": answer.version_hash, "text": answer.text, "features": encode_features(answer.features),
            "logprob": answer.logprob, "tokens": answer.tokens, "how": dict(answer.how), "created": answer.created,
        }  # fmt: skip
    for pair in pool.list_pairs(connection):
        yield {
            "type": "pair", "id": pair.id, "prompt": pair.prompt, "first": pair.first, "second": pair.second,
            "purpose": pair.purpose, "selected_by": pair.selected_by, "person": pair.person,
            "expected": None if pair.expected is None else pair.expected.value, "created": pair.created,
        }  # fmt: skip
    for rule in connection.execute(select(rules).order_by(rules.c.number)):
        kept = {"id": rule.id, "text": rule.text, "by": rule.by, "status": rule.status, "examples": rule.examples}
        yield {"type": "rule", **kept, "created": rule.created}
    for said in connection.execute(select(judgements).order_by(judgements.c.sequence)):
        yield {"type": "judgement", "key": said.key, "received": said.received, "judgement": said.body}


def store(connection: Connection, row: Row) -> bool:
    """Whether the row is new here. BadValue where it is none of ours."""
    kind = row.get("type")
    if kind not in _KINDS:
        raise BadValue("wrong_value", f"type is {kind!r}; possible: {', '.join(_KINDS)}")
    try:
        return _KINDS[kind](connection, row)
    except KeyError as error:
        raise BadValue("missing_column", str(error.args[0])) from None
    except UserError as error:
        raise BadValue("wrong_value", error.text().replace("\n", ";")) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise BadValue("wrong_value", str(error)[:200]) from None


def check_header(row: Row) -> None:
    if row.get("tomoni") != "feedback":
        raise BadValue("wrong_value", 'the first line is not {"tomoni": "feedback", "schema": 1}')
    if row.get("schema") != SCHEMA:
        raise BadValue("wrong_value", f"schema is {row.get('schema')!r}; possible: {SCHEMA}")


def _person(connection: Connection, row: Row) -> bool:
    if connection.execute(select(persons.c.id).where(persons.c.id == row["id"])).first() is not None:
        return False
    name, number = row["name"], 1
    while accounts.named(connection, name) is not None:  # somebody else's
        number += 1
        name = f"{row['name']} ({number})"
    pool.check_id(row["id"], "a person")
    accounts.add(
        connection, name, role=row["role"], lang=row["lang"], password_hash=None, id=row["id"],
        active=row["active"] is True, created=row["created"],
    )  # fmt: skip
    return True


def _prompt(connection: Connection, row: Row) -> bool:
    messages = [message_from(message) for message in row["messages"]]
    if prompt_id(messages) != row["id"]:
        raise BadValue("wrong_value", f"the prompt's id {row['id']!r} is not that of its messages")
    if connection.execute(select(prompts.c.id).where(prompts.c.id == row["id"])).first() is not None:
        return False
    pool.check_prompt(row["provenance"], row["status"], messages, row["topic"])
    values = {key: row[key] for key in ("id", "provenance", "by", "topic", "status", "held_out", "created")}
    number = pool.next_number(connection, prompts.c.number)
    plain = [plain_message(message) for message in messages]
    connection.execute(insert(prompts).values(number=number, messages=plain, **values))
    note(connection, "prompts", row["id"])
    return True


def _answer(connection: Connection, row: Row) -> bool:
    answer = Answer(
        row["id"], row["prompt"], row["version"], row["version_hash"], row["text"], decode_features(row["features"]),
        row["logprob"], row["tokens"], row["how"], row["created"],
    )  # fmt: skip
    return pool.add_answers(connection, [answer]) == 1


def _pair(connection: Connection, row: Row) -> bool:
    expected = None if row["expected"] is None else Verdict(row["expected"])
    pair = Pair(
        row["id"], row["prompt"], row["first"], row["second"], row["purpose"], row["selected_by"], row["person"],
        expected, row["created"],
    )  # fmt: skip
    return pool.add_pairs(connection, [pair]) == 1


def _rule(connection: Connection, row: Row) -> bool:
    values = {key: row[key] for key in ("id", "by", "status", "created")}
    there = select(rules).where(rules.c.id == row["id"], rules.c.created == row["created"])
    if any(line.text == row["text"] and line.status == row["status"] for line in connection.execute(there)):
        return False
    connection.execute(rules.update().where(rules.c.id == row["id"]).values(last=False))
    number = (connection.execute(select(func.max(rules.c.number))).scalar() or 0) + 1
    values |= {"number": number, "text": row["text"], "examples": list(row["examples"]), "last": True}
    connection.execute(insert(rules).values(**values))
    note(connection, "rules", row["id"])
    return True


def _judgement(connection: Connection, row: Row) -> bool:
    ack = judging.judge(connection, judgement_from(row["judgement"]), row["key"], received=row["received"] or now())
    return not ack.duplicate


_KINDS: dict[str, Callable[[Connection, Row], bool]] = {
    "person": _person,
    "prompt": _prompt,
    "answer": _answer,
    "pair": _pair,
    "rule": _rule,
    "judgement": _judgement,
}
