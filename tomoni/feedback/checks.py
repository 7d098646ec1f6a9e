"""What a judgement must be before it is stored: by kind, matched exhaustively. No torch."""

from __future__ import annotations

import hashlib
import math
from typing import Any, assert_never, get_args

from tomoni.errors import UserError
from tomoni.feedback.entries import Purpose, plain_judgement
from tomoni.feedback.schema import dumps, storable
from tomoni.records import Judgement, Kind, Verdict

PURPOSES: tuple[str, ...] = get_args(Purpose)
FLAGS = ("harmful", "private", "untrue")
LONGEST_ID = 200


def check(judgement: Judgement) -> None:
    """UserError that names what is wrong with it."""
    for what, text in (("id", judgement.id), ("person", judgement.person)):
        if not text or len(text) > LONGEST_ID or "\0" in text:
            raise wrong(f"{what} {text[:40]!r}", f"1 to {LONGEST_ID} characters")
    if judgement.order and sorted(judgement.order) != list(range(len(judgement.answers))):
        raise wrong(f"order {list(judgement.order)}", f"each of the {len(judgement.answers)} answers once")
    if judgement.seconds is not None and not (math.isfinite(judgement.seconds) and judgement.seconds >= 0):
        raise wrong(f"seconds {judgement.seconds}", "a number from 0 on, or null")
    if (purpose := purpose_of(judgement)) not in PURPOSES:
        raise wrong(f"purpose {purpose!r}", *PURPOSES)
    if not isinstance(judgement.value, dict):
        raise wrong(f"value {judgement.value!r}", "an object with the keys of its kind")
    _check_value(judgement)
    storable(plain_judgement(judgement), "this judgement")


def purpose_of(judgement: Judgement) -> str:
    return str(judgement.extra.get("purpose") or "train")


def is_skip(judgement: Judgement) -> bool:
    """A pair passed over: a comment, maybe without text, that says so in `extra`."""
    return judgement.kind is Kind.COMMENT and judgement.extra.get("skipped") is True


def _check_value(judgement: Judgement) -> None:
    value = judgement.value
    match judgement.kind:
        case Kind.COMPARISON:
            _comparison(judgement)
        case Kind.RATING:
            _whole(value.get("stars"), "stars", 1, 5)
            _index(judgement, value.get("answer", 0))
        case Kind.CORRECTION:
            _index(judgement, value.get("answer"))
            if not isinstance(value.get("text"), str) or not value["text"].strip():
                raise wrong("a correction without text", "the answer as it should be")
        case Kind.THUMB:
            _index(judgement, value.get("answer"))
            _truth(value.get("up"), "up")
        case Kind.FLAG:
            _index(judgement, value.get("answer"))
            for name in FLAGS:
                _truth(value.get(name, False), name)
        case Kind.COMMENT:
            if not judgement.comment.strip() and not is_skip(judgement):
                raise wrong("a comment without text", "text in `comment`")
        case Kind.UNDO:
            if judgement.replaces is None:
                raise wrong("an undo of nothing", "the id of a judgement in `replaces`")
        case other:
            assert_never(other)


def _comparison(judgement: Judgement) -> None:
    verdict, verdicts = judgement.value.get("verdict"), [verdict.value for verdict in Verdict]
    if len(judgement.answers) != 2:
        raise wrong(f"a comparison of {len(judgement.answers)} answers", "2 answers")
    if verdict not in verdicts:
        raise wrong(f"verdict {verdict!r}", *verdicts)
    _whole(judgement.value.get("strength", 0), "strength", 0, 3)


def _whole(value: Any, name: str, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise wrong(f"{name} {value!r}", f"a whole number from {low} to {high}")


def _truth(value: Any, name: str) -> None:
    if not isinstance(value, bool):
        raise wrong(f"{name} {value!r}", "true", "false")


def _index(judgement: Judgement, value: Any) -> None:
    count = len(judgement.answers)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        raise wrong(f"answer {value!r} of {count}", "the place of an answer, from 0 on")


def wrong(what: str, *choices: str) -> UserError:
    return UserError(f"this judgement cannot be stored: {what}", choices=choices)


def digest(judgement: Judgement) -> str:
    """What was said, without what a second sending of it may change (id, time taken, order shown)."""
    plain = plain_judgement(judgement)
    for key in ("id", "seconds", "order", "extra", "model_versions"):
        del plain[key]
    return hashlib.sha256(dumps(plain).encode("utf-8")).hexdigest()
