"""Label Studio's tasks with their annotations, as its JSON export has them. No torch.

    data          prompt (a text, and messages), answer1, answer2; or prompt, answer
    annotations   [{"result": [...], "completed_by", "lead_time"}]: Pairwise, Choices, Rating, TextArea

`CONFIG` is the labeling config of a project that such tasks fit. Read are Pairwise (left, right), Choices (tie, both_bad,
up, down, harmful, private, untrue), Rating (1 to 5) and TextArea (a correction where its name begins so, else a comment).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tomoni.data.badrows import BadValue
from tomoni.data.made import text_of
from tomoni.feedback.checks import FLAGS
from tomoni.feedback.entries import Stored
from tomoni.feedback.forms.said import Said, answers_of, by_question, list_of, object_of, plain_prompt, prompt_of
from tomoni.records import Judgement, Kind, Verdict

SIDES = {"left": Verdict.FIRST, "right": Verdict.SECOND}
NEITHER = {"tie": Verdict.TIE, "both_bad": Verdict.BOTH_BAD}
CONFIG = """<View>
  <Text name="prompt" value="$prompt"/>
  <Pairwise name="verdict" toName="answer1,answer2"/>
  <Text name="answer1" value="$answer1"/>
  <Text name="answer2" value="$answer2"/>
  <Choices name="neither" toName="prompt"><Choice value="tie"/><Choice value="both_bad"/></Choices>
  <TextArea name="correction_1" toName="answer1"/>
  <TextArea name="correction_2" toName="answer2"/>
  <Choices name="flags_1" toName="answer1" choice="multiple">
    <Choice value="harmful"/><Choice value="private"/><Choice value="untrue"/>
  </Choices>
  <Choices name="flags_2" toName="answer2" choice="multiple">
    <Choice value="harmful"/><Choice value="private"/><Choice value="untrue"/>
  </Choices>
  <TextArea name="comment" toName="prompt"/>
</View>
"""


def rows_of(stored: Iterable[Stored]) -> Iterator[dict[str, Any]]:
    number = 0
    for group in by_question(stored):
        about = group[0]
        if len(about.answers) not in (1, 2):
            continue
        number += 1
        names = ("answer1", "answer2") if len(about.answers) == 2 else ("answer",)
        shown = "\n\n".join(message.content for message in about.prompt)
        data = {"prompt": shown, "messages": plain_prompt(about.prompt)} | dict(zip(names, about.answers, strict=True))
        annotations = [
            {
                "id": f"{number}-{place}",
                "completed_by": judgement.person,
                "lead_time": judgement.seconds,
                "was_cancelled": judgement.extra.get("skipped") is True,
                "result": list(_results(judgement, names)),
            }
            for place, judgement in enumerate(group, start=1)
        ]
        yield {"id": number, "data": data, "annotations": annotations}


def _results(judgement: Judgement, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    value = judgement.value
    place = value.get("answer", 0)
    match judgement.kind:
        case Kind.COMPARISON:
            verdict = Verdict(value["verdict"])
            side = next((side for side, which in SIDES.items() if which is verdict), None)
            if side is not None:
                yield _result("verdict", "answer1", "pairwise", {"selected": side})
            else:
                yield _result("neither", "prompt", "choices", {"choices": [verdict.value]})
        case Kind.CORRECTION:
            yield _result(f"correction_{place + 1}", names[place], "textarea", {"text": [value["text"]]})
        case Kind.THUMB:
            yield _result(f"thumb_{place + 1}", names[place], "choices", {"choices": ["up" if value["up"] else "down"]})
        case Kind.RATING:
            yield _result(f"stars_{place + 1}", names[place], "rating", {"rating": value["stars"]})
        case Kind.FLAG:
            flags = [flag for flag in FLAGS if value.get(flag)]
            yield _result(f"flags_{place + 1}", names[place], "choices", {"choices": flags})
        case Kind.COMMENT | Kind.UNDO:
            pass
    if judgement.comment:
        yield _result("comment", "prompt", "textarea", {"text": [judgement.comment]})


def _result(name: str, of: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"from_name": name, "to_name": of, "type": kind, "value": value}


def read(row: Mapping[str, Any], columns: Mapping[str, str]) -> Iterator[Said]:
    data = object_of(row.get("data"), "data")
    prompt, answers = prompt_of(data, columns), answers_of(data, columns)
    for annotation in list_of(row.get("annotations") or [], "annotations"):
        body = object_of(annotation, "annotation")
        who, seconds = _who(body.get("completed_by")), _seconds(body.get("lead_time"))
        ref = f"{row.get('id', '')}/{body.get('id', '')}"
        if body.get("was_cancelled") is True:
            yield Said(prompt, answers, Kind.COMMENT, {}, who, seconds=seconds, extra={"skipped": True}, ref=ref)
            continue
        said: list[tuple[Kind, dict[str, Any]]] = []
        comments: list[str] = []
        for result in list_of(body.get("result"), "result"):
            _one(object_of(result, "result"), len(answers), said, comments)
        comment = "\n".join(comments)
        if comment and not said:
            said.append((Kind.COMMENT, {}))
        for place, (kind, value) in enumerate(said):
            yield Said(prompt, answers, kind, value, who, comment if place == 0 else "", (), seconds, ref=ref)


def _one(result: Mapping[str, Any], count: int, said: list[tuple[Kind, dict[str, Any]]], comments: list[str]) -> None:
    name, value = str(result.get("from_name", "")), object_of(result.get("value"), "value")
    place = 1 if count == 2 and (name.endswith("2") or str(result.get("to_name", "")).endswith("2")) else 0
    match result.get("type"):
        case "pairwise":
            if value.get("selected") not in SIDES or count != 2:
                raise BadValue("wrong_value", f"selected is {value.get('selected')!r}; possible: left, right")
            said.append((Kind.COMPARISON, {"verdict": SIDES[value["selected"]].value, "strength": 0}))
        case "rating":
            said.append((Kind.RATING, {"answer": place, "stars": value.get("rating")}))
        case "textarea":
            texts = [text_of(text, name) for text in list_of(value.get("text"), name)]
            if name.startswith("correction"):
                said.append((Kind.CORRECTION, {"answer": place, "text": "\n".join(texts)}))
            else:
                comments.extend(texts)
        case "choices":
            said.extend(_choices(list_of(value.get("choices"), name), place))
        case other:
            raise BadValue(
                "wrong_value", f"a result of type {str(other)[:40]!r}; possible: pairwise, choices, rating, textarea"
            )


def _choices(chosen: list[Any], place: int) -> Iterator[tuple[Kind, dict[str, Any]]]:
    if chosen and all(choice in FLAGS for choice in chosen):
        yield Kind.FLAG, {"answer": place, **{flag: flag in chosen for flag in FLAGS}}
        return
    for choice in chosen:
        if choice in NEITHER:
            yield Kind.COMPARISON, {"verdict": NEITHER[choice].value, "strength": 0}
        elif choice in ("up", "down"):
            yield Kind.THUMB, {"answer": place, "up": choice == "up"}
        else:
            raise BadValue("wrong_value", f"the choice {str(choice)[:40]!r} is no judgement that is known")


def _who(value: Any) -> str:
    """completed_by is a number, an address, or an object with both."""
    if isinstance(value, dict):
        value = value.get("email") or value.get("id")
    return "" if value is None else str(value)


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None
