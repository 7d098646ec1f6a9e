"""Argilla's records, as its Python SDK writes them to JSON: id, fields, metadata, suggestions, responses. No torch.

    fields      prompt (a chat), first, second; or prompt, answer
    responses   {question: [{"value", "user_id"}]}: verdict, strength, correction, thumb, stars, flags, tags, comment

Read are these, and rankings of two fields (a list of names, or objects with value and rank), labels that name a field,
ratings and texts. Suggestions are a model's and never become judgements.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tomoni.data.badrows import BadValue
from tomoni.feedback.checks import FLAGS
from tomoni.feedback.entries import Stored
from tomoni.feedback.forms.said import (
    Said,
    answers_of,
    by_question,
    list_of,
    object_of,
    plain_prompt,
    prompt_of,
    question_id,
)
from tomoni.records import Judgement, Kind, Verdict

VERDICTS = {verdict.value: verdict for verdict in Verdict}
IGNORED = ("draft", "discarded")


def rows_of(stored: Iterable[Stored]) -> Iterator[dict[str, Any]]:
    for group in by_question(stored):
        about = group[0]
        names = ("first", "second") if len(about.answers) == 2 else ("answer",)
        if len(about.answers) not in (1, 2):
            continue
        fields: dict[str, Any] = {"prompt": plain_prompt(about.prompt)}
        fields |= dict(zip(names, about.answers, strict=True))
        given: dict[tuple[str, str], Any] = {}  # Argilla keeps one response a question and person
        for judgement in group:
            for question, value in _questions(judgement, names):
                given[question, judgement.person] = _joined(question, given.get((question, judgement.person)), value)
        responses: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for (question, person), value in given.items():
            responses[question].append({"value": value, "user_id": person})
        yield {
            "id": question_id(about),
            "fields": fields,
            "metadata": {},
            "suggestions": {},
            "responses": dict(responses),
            "vectors": {},
        }


def _joined(question: str, earlier: Any, value: Any) -> Any:
    """Comments are put together, and tags; of anything else the last word is taken."""
    if earlier is None:
        return value
    if question == "comment":
        return f"{earlier}\n{value}"
    return list(dict.fromkeys([*earlier, *value])) if question == "tags" else value


def _questions(judgement: Judgement, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    value = judgement.value
    of = names[value.get("answer", 0)] if names else ""
    end = "" if len(names) == 1 else f"_{of}"
    match judgement.kind:
        case Kind.COMPARISON:
            yield "verdict", value["verdict"]
            if value.get("strength"):
                yield "strength", value["strength"]
        case Kind.CORRECTION:
            yield f"correction{end}", value["text"]
        case Kind.THUMB:
            yield f"thumb{end}", "up" if value["up"] else "down"
        case Kind.RATING:
            yield f"stars{end}", value["stars"]
        case Kind.FLAG:
            yield f"flags{end}", [flag for flag in FLAGS if value.get(flag)]
        case Kind.COMMENT | Kind.UNDO:
            pass
    if judgement.tags:
        yield "tags", list(judgement.tags)
    if judgement.comment:
        yield "comment", judgement.comment


def read(row: Mapping[str, Any], columns: Mapping[str, str]) -> Iterator[Said]:
    fields = object_of(row.get("fields"), "fields")
    prompt, answers = prompt_of(fields, columns), answers_of(fields, columns)
    names = _field_names(fields, answers)
    ref = str(row.get("id") or "")
    for who, said in _by_person(object_of(row.get("responses") or {}, "responses")).items():
        comment, tags = _text(said.pop("comment", "")), _tags(said.pop("tags", []))
        strength = said.pop("strength", 0)
        found = [each for question, value in said.items() for each in _said(question, value, names, strength)]
        if not found and comment:
            found = [(Kind.COMMENT, {})]
        for place, (kind, value) in enumerate(found):
            beside = comment if place == 0 else ""
            yield Said(prompt, answers, kind, value, who, beside, tags if place == 0 else (), ref=ref)


def _by_person(responses: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    people: dict[str, dict[str, Any]] = defaultdict(dict)
    for question, given in responses.items():
        for response in list_of(given, f"responses.{question}"):
            body = object_of(response, f"responses.{question}")
            if "value" not in body:
                raise BadValue("missing_column", f"responses.{question}.value")
            if body.get("status") not in IGNORED:
                people[str(body.get("user_id") or "")][question] = body["value"]
    return people


def _field_names(fields: Mapping[str, Any], answers: tuple[str, ...]) -> list[str]:
    return [next(name for name, value in fields.items() if value == answer) for answer in answers]


def _said(question: str, value: Any, names: list[str], strength: Any) -> Iterator[tuple[Kind, dict[str, Any]]]:
    base, place = _place(question, names)
    if base == "flags":
        yield Kind.FLAG, {"answer": place, **{flag: flag in list_of(value, question) for flag in FLAGS}}
    elif base == "correction":
        yield Kind.CORRECTION, {"answer": place, "text": _text(value)}
    elif base == "thumb" and value in ("up", "down"):
        yield Kind.THUMB, {"answer": place, "up": value == "up"}
    elif len(names) == 2 and (verdict := _verdict(value, names)) is not None:
        yield Kind.COMPARISON, {"verdict": verdict.value, "strength": strength}
    elif isinstance(value, int) and not isinstance(value, bool):
        yield Kind.RATING, {"answer": place, "stars": value}
    else:
        raise BadValue("wrong_value", f"responses.{question}: {str(value)[:40]!r} is no judgement that is known")


def _place(question: str, names: list[str]) -> tuple[str, int]:
    """A question's name without the field it is about, and that field's place: stars_second, rating_2."""
    for place, name in enumerate(names):
        for end in (f"_{name}", f"_{place + 1}"):
            if question.endswith(end):
                return question.removesuffix(end), place
    return question, 0


def _verdict(value: Any, names: list[str]) -> Verdict | None:
    if isinstance(value, str):
        if value in names:
            return (Verdict.FIRST, Verdict.SECOND)[names.index(value)]
        return VERDICTS.get(value)
    if not isinstance(value, list) or len(value) != 2:
        return None
    ranks = [item.get("rank") if isinstance(item, dict) else place for place, item in enumerate(value)]
    order = [item.get("value") if isinstance(item, dict) else item for item in value]
    if sorted(map(str, order)) != sorted(names) or not all(isinstance(rank, int) for rank in ranks):
        return None
    rank: dict[Any, Any] = dict(zip(order, ranks, strict=True))
    if rank[names[0]] == rank[names[1]]:
        return Verdict.TIE
    return Verdict.FIRST if rank[names[0]] < rank[names[1]] else Verdict.SECOND


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadValue("not_text", str(value)[:40])
    return value


def _tags(value: Any) -> tuple[str, ...]:
    return tuple(_text(tag) for tag in list_of(value, "tags"))
