"""Prompts, answers and pairs in the database. Functions of an open connection. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, get_args

import numpy as np
from sqlalchemy import Column, Connection, Row, bindparam, exists, func, insert, or_, select, update

from tomoni.errors import UserError
from tomoni.feedback.entries import (
    Answer,
    NewPrompt,
    Pair,
    PromptRow,
    PromptStatus,
    Provenance,
    Purpose,
    message_from,
    plain_message,
    prompt_id,
)
from tomoni.feedback.events import note
from tomoni.feedback.judging import IS_LIVE
from tomoni.feedback.schema import answers, judgements, pairs, prompts, storable
from tomoni.feedback.workspace import now
from tomoni.records import Kind, Message, Verdict

T = TypeVar("T")
AT_ONCE = 400  # values in one question to the database
PROVENANCES: tuple[str, ...] = get_args(Provenance)
STATUSES: tuple[str, ...] = get_args(PromptStatus)
PURPOSES: tuple[str, ...] = get_args(Purpose)
PAIR = select(pairs).where(pairs.c.id == bindparam("its_id"))  # made once: to build one takes longer than to run it
ANSWER = select(answers).where(answers.c.id == bindparam("its_id"))


def _portions(values: Iterable[T]) -> Iterator[list[T]]:
    every = list(values)
    for start in range(0, len(every), AT_ONCE):
        yield every[start : start + AT_ONCE]


def _known(connection: Connection, column: Column[str], ids: Iterable[str]) -> set[str]:
    return {
        row[0]
        for portion in _portions(dict.fromkeys(ids))
        for row in connection.execute(select(column).where(column.in_(portion)))
    }


def next_number(connection: Connection, column: Column[int]) -> int:
    return (connection.execute(select(func.max(column))).scalar() or 0) + 1


def _one_of(value: str, what: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(f"{what} {value!r} is not known", choices=choices)


def check_id(value: str, what: str) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= 200 or "\0" in value:
        raise UserError(f"{what} has the id {value!r}", choices=["1 to 200 characters"])


# -- prompts ---------------------------------------------------------------------------------------------------------


def add_prompts(connection: Connection, new: Sequence[NewPrompt]) -> list[PromptRow]:
    ids = [_prompt_checked(prompt) for prompt in new]
    there = _known(connection, prompts.c.id, ids)
    number = next_number(connection, prompts.c.number)
    fresh: dict[str, dict[str, Any]] = {}
    for id, prompt in zip(ids, new, strict=True):
        if id not in there and id not in fresh:
            fresh[id] = {
                "number": number + len(fresh),
                "id": id,
                "messages": [plain_message(message) for message in prompt.messages],
                "provenance": prompt.provenance,
                "by": prompt.by,
                "topic": prompt.topic,
                "status": prompt.status,
                "held_out": prompt.held_out,
                "created": now(),
            }
    if fresh:
        connection.execute(insert(prompts), list(fresh.values()))
        note(connection, "prompts", next(iter(fresh)))
    rows = {row.id: row for portion in _portions(dict.fromkeys(ids)) for row in _prompts(connection, portion)}
    return [rows[id] for id in ids]


def _prompt_checked(prompt: NewPrompt) -> str:
    check_prompt(prompt.provenance, prompt.status, prompt.messages, prompt.topic)
    return prompt_id(prompt.messages)


def check_prompt(provenance: str, status: str, messages: Sequence[Message], topic: str) -> None:
    _one_of(provenance, "provenance", PROVENANCES)
    _one_of(status, "status", STATUSES)
    if not any(message.content.strip() for message in messages):
        raise UserError("a prompt is empty", next_step="write what should be asked")
    storable([[plain_message(message) for message in messages], topic], "a prompt")
    if len(topic) > 200 or "\0" in topic:
        raise UserError(f"the topic {topic[:40]!r} is too long", choices=["at most 200 characters"])


def _prompts(connection: Connection, ids: list[str]) -> list[PromptRow]:
    return [_prompt(row) for row in connection.execute(select(prompts).where(prompts.c.id.in_(ids)))]


def _prompt(row: Row[Any]) -> PromptRow:
    messages = tuple(message_from(message) for message in row.messages)
    return PromptRow(messages, row.provenance, row.by, row.topic, row.status, bool(row.held_out), row.id, row.created)


def list_prompts(
    connection: Connection,
    *,
    status: str | None = None,
    topic: str | None = None,
    held_out: bool | None = None,
    limit: int | None = None,
    after: str | None = None,
) -> list[PromptRow]:
    wanted = select(prompts).order_by(prompts.c.number)
    if status is not None:
        wanted = wanted.where(prompts.c.status == status)
    if topic is not None:
        wanted = wanted.where(prompts.c.topic == topic)
    if held_out is not None:
        wanted = wanted.where(prompts.c.held_out == held_out)
    if after is not None:
        wanted = wanted.where(
            prompts.c.number > select(prompts.c.number).where(prompts.c.id == after).scalar_subquery()
        )
    return [_prompt(row) for row in connection.execute(wanted.limit(limit))]


def get_prompt(connection: Connection, id: str) -> PromptRow:
    found = _prompts(connection, [id])
    if not found:
        raise UserError(f"there is no prompt {id!r}", next_step="look at the Prompts page for those there are")
    return found[0]


def change_prompt(connection: Connection, id: str, changes: dict[str, Any]) -> PromptRow:
    for key in changes:
        _one_of(key, "a prompt's", ("status", "topic", "held_out"))
    if "status" in changes:
        _one_of(changes["status"], "status", STATUSES)
    get_prompt(connection, id)
    if changes:
        connection.execute(update(prompts).where(prompts.c.id == id).values(**changes))
        note(connection, "prompts", id)
    return get_prompt(connection, id)


# -- answers ---------------------------------------------------------------------------------------------------------


def add_answers(connection: Connection, new: Sequence[Answer]) -> int:
    """How many of them were not there before."""
    for answer in new:
        check_id(answer.id, "an answer")
        storable([answer.text, dict(answer.how)], f"the answer {answer.id!r}")
    there = _known(connection, answers.c.id, [answer.id for answer in new])
    asked = {answer.prompt for answer in new}
    if missing := asked - _known(connection, prompts.c.id, asked):
        raise UserError(f"there is no prompt {min(missing)!r}", next_step="add the prompt before its answers")
    number = next_number(connection, answers.c.number)
    fresh: dict[str, dict[str, Any]] = {}
    for answer in new:
        if answer.id not in there and answer.id not in fresh:
            fresh[answer.id] = {"number": number + len(fresh), **_answer_values(answer)}
    if fresh:
        connection.execute(insert(answers), list(fresh.values()))
        note(connection, "answers", next(iter(fresh)))
    return len(fresh)


def _answer_values(answer: Answer) -> dict[str, Any]:
    features = None
    if answer.features is not None:
        features = np.ascontiguousarray(answer.features, dtype="<f4").tobytes()
    return {
        "id": answer.id,
        "prompt": answer.prompt,
        "version": answer.version,
        "version_hash": answer.version_hash,
        "text": answer.text,
        "features": features,
        "logprob": answer.logprob,
        "tokens": answer.tokens,
        "how": dict(answer.how),
        "created": answer.created or now(),
    }


def _answer(row: Row[Any]) -> Answer:
    features = None if row.features is None else np.frombuffer(row.features, dtype="<f4").astype(np.float32)
    return Answer(
        row.id, row.prompt, row.version, row.version_hash, row.text, features, row.logprob, row.tokens, row.how, row.created
    )  # fmt: skip


def list_answers(connection: Connection, *, prompt: str | None = None, version: str | None = None) -> list[Answer]:
    wanted = select(answers).order_by(answers.c.number)
    if prompt is not None:
        wanted = wanted.where(answers.c.prompt == prompt)
    if version is not None:
        wanted = wanted.where(answers.c.version == version)
    return [_answer(row) for row in connection.execute(wanted)]


def get_answer(connection: Connection, id: str) -> Answer:
    row = connection.execute(ANSWER, {"its_id": id}).one_or_none()
    if row is None:
        raise UserError(
            f"there is no answer {id!r}", next_step="check the id; answers of `serve` come in after a moment"
        )
    return _answer(row)


# -- pairs -----------------------------------------------------------------------------------------------------------


def add_pairs(connection: Connection, new: Sequence[Pair]) -> int:
    """How many of them were not there before."""
    for pair in new:
        _pair_checked(pair)
    asked = {id for pair in new for id in (pair.first, pair.second)}
    if missing := asked - _known(connection, answers.c.id, asked):
        raise UserError(f"there is no answer {min(missing)!r}", next_step="add the answers before the pairs of them")
    if missing := {pair.prompt for pair in new} - _known(connection, prompts.c.id, {pair.prompt for pair in new}):
        raise UserError(
            f"there is no prompt {min(missing)!r}", next_step="add the prompt before the pairs of its answers"
        )
    there = _known(connection, pairs.c.id, [pair.id for pair in new])
    number = next_number(connection, pairs.c.number)
    fresh: dict[str, dict[str, Any]] = {}
    for pair in new:
        if pair.id not in there and pair.id not in fresh:
            fresh[pair.id] = {
                "number": number + len(fresh),
                "id": pair.id,
                "prompt": pair.prompt,
                "first": pair.first,
                "second": pair.second,
                "purpose": pair.purpose,
                "selected_by": pair.selected_by,
                "person": pair.person,
                "expected": None if pair.expected is None else pair.expected.value,
                "created": pair.created or now(),
            }
    if fresh:
        connection.execute(insert(pairs), list(fresh.values()))
        note(connection, "pairs", next(iter(fresh)))
    return len(fresh)


def _pair_checked(pair: Pair) -> None:
    check_id(pair.id, "a pair")
    _one_of(pair.purpose, "purpose", PURPOSES)
    if pair.first == pair.second:
        raise UserError(f"the pair {pair.id!r} is one answer twice", next_step="put two answers before people")


def _pair(row: Row[Any]) -> Pair:
    expected = None if row.expected is None else Verdict(row.expected)
    return Pair(
        row.id, row.prompt, row.first, row.second, row.purpose, row.selected_by, row.person, expected, row.created
    )  # fmt: skip


def list_pairs(
    connection: Connection,
    *,
    purpose: str | None = None,
    judged: bool | None = None,
    person: str | None = None,
    limit: int | None = None,
    after: int = 0,
) -> list[Pair]:
    """`after`: only pairs whose number is greater."""
    wanted = select(pairs).order_by(pairs.c.number)
    if after:
        wanted = wanted.where(pairs.c.number > after)
    if purpose is not None:
        wanted = wanted.where(pairs.c.purpose == purpose)
    if person is not None:
        wanted = wanted.where(or_(pairs.c.person.is_(None), pairs.c.person == person))
    if judged is not None:
        of_pair = exists().where(
            judgements.c.pair == pairs.c.id,
            IS_LIVE,
            or_(judgements.c.kind == Kind.COMPARISON.value, judgements.c.skipped),
        )
        if person is not None:
            of_pair = of_pair.where(judgements.c.person == person)
        wanted = wanted.where(of_pair if judged else ~of_pair)
    return [_pair(row) for row in connection.execute(wanted.limit(limit))]


def get_pair(connection: Connection, id: str) -> Pair:
    row = connection.execute(PAIR, {"its_id": id}).one_or_none()
    if row is None:
        raise UserError(f"there is no pair {id!r}", next_step="ask for the pairs there are")
    return _pair(row)
