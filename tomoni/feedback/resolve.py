"""Judgements become what a model is trained on: comparisons, corrections, thumbs; and what was left out, and why. No torch.

    snapshot = resolve(store.judgements(live=False), weights=weights, held_out=held_out)
    folder = snapshot.write(workspace)        # pairs.jsonl for `tomoni dpo`, sft.jsonl, thumbs.jsonl for `tomoni kto`

| said                        | becomes                                                                                   |
|-----------------------------|-------------------------------------------------------------------------------------------|
| first or second is better   | a comparison; how much better (0 to 3) is its margin, in thirds                             |
| about equal                 | a comparison that is a tie: 0.5 for the reward head, no row of pairs.jsonl, never a vote     |
| both bad                    | nothing to train on; counted                                                               |
| correction                  | a conversation that ends with the corrected answer, and a comparison: corrected > shown     |
| thumb                       | an answer with a thumb                                                                     |
| 4, 5 or 1, 2 stars          | an answer with a thumb up or down; 3 stars are counted                                      |
| flag (harmful, private …)   | that answer is never trained toward, whoever liked it                                       |
| comment, skip               | counted                                                                                    |

Several people on one pair give a comparison each, with their own weight and noise: their opinions stay apart, and
removing one person removes exactly what that person said. One person on one pair counts once, by the last word; the
earlier ones are counted, those that said the opposite as contradictions. Judgements on gold, gate and repeated pairs,
and on held-out prompts, are never trained on.

The same judgements give the same bytes, in whatever database they were; the hash is of these bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

from tomoni.data.badrows import BadValue
from tomoni.data.forms import FORMS
from tomoni.feedback.checks import purpose_of
from tomoni.feedback.entries import Stored, plain_message, prompt_id
from tomoni.feedback.snapshot import Snapshot
from tomoni.feedback.standing import standing
from tomoni.feedback.weights import Weight
from tomoni.records import Chat, Comparison, Judgement, Kind, Message, Rated, Source, Verdict

UNTRAINED = ("gold", "gate", "repeat")  # purposes that measure: training on them would spoil the measure
MARGIN = 1 / 3  # a step of strength; 3, "much better", asks for a gap of 1 between the rewards
GOOD_STARS, BAD_STARS = (4, 5), (1, 2)


UNWEIGHTED = Weight()


def resolve(
    stored: Sequence[Stored],
    *,
    weights: Mapping[str, Weight] | None = None,
    held_out: Collection[str] = (),
) -> Snapshot:
    """`weights` by person's id (whoever is not named counts fully); `held_out`: ids of prompts (`entries.prompt_id`)."""
    counts = standing(stored)
    work = _Work(weights or {}, frozenset(held_out))
    work.leave_out("replaced by a later judgement", counts.replaced)
    work.leave_out("undone", counts.undone)
    work.flagged = set(_flagged(one.judgement for one in counts.live if work.weight(one.judgement).weight > 0))
    usable = [one.judgement for one in counts.live if work.may_be_used(one.judgement)]
    for judgement in _last_words(usable, work):
        work.take(judgement)
    people = sorted({judgement.person for judgement in work.used})
    return Snapshot.of(
        work.comparisons,
        work.corrections,
        work.thumbs,
        left_out=dict(sorted(work.left_out.items())),
        people=tuple(people),
        judgements=len({judgement.id for judgement in work.used}),
    )


def _flagged(judgements: Iterable[Judgement]) -> Iterator[tuple[str, str]]:
    """(prompt's id, answer) of every answer that somebody flagged."""
    for judgement in judgements:
        if judgement.kind is Kind.FLAG and any(
            value is True for key, value in judgement.value.items() if key != "answer"
        ):
            yield prompt_id(judgement.prompt), judgement.answers[judgement.value["answer"]].strip()


def _last_words(judgements: Sequence[Judgement], work: _Work) -> list[Judgement]:
    """One judgement for each person, kind and thing judged: the last."""
    last: dict[Any, Judgement] = {}
    for judgement in judgements:
        key = _matter(judgement)
        earlier = last.pop(key, None)
        if earlier is not None:
            contradicted = _sense(earlier) != _sense(judgement)
            work.leave_out(
                "contradicted by the same person later" if contradicted else "said again by the same person", 1
            )
        last[key] = judgement
    return list(last.values())


def _matter(judgement: Judgement) -> tuple[Any, ...]:
    """What a judgement is about; the two answers of a pair in either order are one matter."""
    prompt, value = prompt_id(judgement.prompt), judgement.value
    match judgement.kind:
        case Kind.COMPARISON:
            return (judgement.person, "comparison", prompt, *sorted(judgement.answers))
        case Kind.THUMB | Kind.RATING:
            return (judgement.person, "thumb", prompt, judgement.answers[value.get("answer", 0)])
        case Kind.CORRECTION:
            return (judgement.person, "correction", prompt, judgement.answers[value["answer"]])
        case Kind.FLAG | Kind.COMMENT | Kind.UNDO:
            return (judgement.id,)
        case other:
            assert_never(other)


def _sense(judgement: Judgement) -> Any:
    """What is said, so that two judgements of one matter can be told to agree or not."""
    value = judgement.value
    match judgement.kind:
        case Kind.COMPARISON:
            verdict = Verdict(value["verdict"])
            if verdict in (Verdict.FIRST, Verdict.SECOND):
                return judgement.answers[0 if verdict is Verdict.FIRST else 1]
            return verdict
        case Kind.THUMB:
            return value["up"]
        case Kind.RATING:
            return _thumb_of(value["stars"])
        case _:
            return None


def _thumb_of(stars: int) -> bool | None:
    return True if stars in GOOD_STARS else False if stars in BAD_STARS else None


@dataclass(slots=True)
class _Work:
    weights: Mapping[str, Weight]
    held_out: frozenset[str]
    flagged: set[tuple[str, str]] = field(default_factory=set)
    comparisons: list[Comparison] = field(default_factory=list)
    corrections: list[Chat] = field(default_factory=list)
    thumbs: list[Rated] = field(default_factory=list)
    used: list[Judgement] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def leave_out(self, reason: str, count: int = 1) -> None:
        if count:
            self.left_out[reason] += count

    def may_be_used(self, judgement: Judgement) -> bool:
        if (purpose := purpose_of(judgement)) in UNTRAINED:
            self.leave_out(f"on a {purpose} pair")
        elif self.held_out & {prompt_id(judgement.prompt), str(judgement.extra.get("prompt"))}:
            self.leave_out("on a held-out prompt")
        elif self.weight(judgement).weight == 0:
            self.leave_out("of a person whose judgements weigh nothing")
        else:
            return True
        return False

    def weight(self, judgement: Judgement) -> Weight:
        return self.weights.get(judgement.person, UNWEIGHTED)

    def take(self, judgement: Judgement) -> None:
        match judgement.kind:
            case Kind.COMPARISON:
                self._comparison(judgement)
            case Kind.CORRECTION:
                self._correction(judgement)
            case Kind.THUMB:
                self._thumb(judgement, judgement.value["up"])
            case Kind.RATING:
                self._thumb(judgement, _thumb_of(judgement.value["stars"]))
            case Kind.FLAG:
                self.leave_out("flags")
            case Kind.COMMENT:
                self.leave_out("skipped" if judgement.extra.get("skipped") is True else "comments")
            case Kind.UNDO:
                raise AssertionError("what is live is no undo")
            case other:
                assert_never(other)

    # -- one kind each -----------------------------------------------------------------------------------------------

    def _comparison(self, judgement: Judgement) -> None:
        first, second = judgement.answers
        match Verdict(judgement.value["verdict"]):
            case Verdict.FIRST:
                wanted: tuple[str, ...] = (first,)
            case Verdict.SECOND:
                wanted = (second,)
            case Verdict.TIE:
                wanted = (first, second)  # equal to a flagged answer is no praise to train on
            case Verdict.BOTH_BAD:
                self.leave_out("both bad")
                return
            case other:
                assert_never(other)
        if any(self._is_flagged(judgement, answer) for answer in wanted):
            self.leave_out("the better answer is flagged")
            return
        known = judgement.extra.get("margin")  # of an imported row
        margin = float(known) if isinstance(known, int | float) else judgement.value.get("strength", 0) * MARGIN
        if self._add_comparison(judgement, judgement.id, (first, second), Verdict(judgement.value["verdict"]), margin):
            self.used.append(judgement)

    def _add_comparison(
        self, judgement: Judgement, id: str, answers: tuple[str, str], verdict: Verdict, margin: float
    ) -> bool:
        """Whether the two could be made a comparison; the readers of data files would refuse it otherwise."""
        weight = self.weight(judgement)
        row = {"prompt": _messages(judgement), "chosen": _said(answers[0]), "rejected": _said(answers[1])}
        made = self._made("preference", row, judgement)
        if made is None:
            return False
        record = made.build(id)
        if not isinstance(record, Comparison):
            raise AssertionError("the form preference makes comparisons")
        self.comparisons.append(
            Comparison(
                id, record.source, record.prompt, record.first, record.second, verdict, weight.weight, margin,
                weight.noise, extra=_origin(judgement),
            )
        )  # fmt: skip
        return True

    def _correction(self, judgement: Judgement) -> None:
        shown, text = judgement.answers[judgement.value["answer"]], judgement.value["text"]
        if shown.strip() == text.strip():
            self.leave_out("a correction that changes nothing")
            return
        if self._is_flagged(judgement, text):
            self.leave_out("the better answer is flagged")
            return
        made = self._made("prompt_completion", {"prompt": _messages(judgement), "completion": _said(text)}, judgement)
        if made is None:
            return
        record = made.build(judgement.id)
        if not isinstance(record, Chat):
            raise AssertionError("the form prompt_completion makes conversations")
        self.corrections.append(Chat(record.id, record.source, record.messages, extra=_origin(judgement)))
        if shown.strip():  # an empty answer cannot be a side of a comparison
            self._add_comparison(judgement, f"{judgement.id}-corrected", (text, shown), Verdict.FIRST, 0.0)
        self.used.append(judgement)

    def _thumb(self, judgement: Judgement, up: bool | None) -> None:
        answer = judgement.answers[judgement.value.get("answer", 0)]
        if up is None:
            self.leave_out("neither good nor bad (3 stars)")
            return
        if up and self._is_flagged(judgement, answer):
            self.leave_out("the better answer is flagged")
            return
        row = {"prompt": _messages(judgement), "completion": _said(answer), "label": up}
        made = self._made("unpaired", row, judgement)
        if made is None:
            return
        record = made.build(judgement.id)
        if not isinstance(record, Rated):
            raise AssertionError("the form unpaired makes rated answers")
        weight = self.weight(judgement).weight
        self.thumbs.append(
            Rated(record.id, record.source, record.prompt, record.completion, up, _origin(judgement), weight)
        )
        self.used.append(judgement)

    def _made(self, form: str, row: Mapping[str, Any], judgement: Judgement) -> Any:
        """What the reader of data files makes of the row; None, and counted, where it would refuse it."""
        try:
            return FORMS[form].make(row, Source("judgements", 1), {})
        except BadValue as fault:
            self.leave_out(f"cannot be trained on ({fault.reason})")
            return None

    def _is_flagged(self, judgement: Judgement, answer: str) -> bool:
        return (prompt_id(judgement.prompt), answer.strip()) in self.flagged


def _messages(judgement: Judgement) -> list[dict[str, Any]]:
    """The prompt as data files have it."""
    return [{**message.extra, "role": message.role, "content": message.content} for message in judgement.prompt]


def _said(answer: str) -> list[dict[str, Any]]:
    return [plain_message(Message("assistant", answer))]


def _origin(judgement: Judgement) -> dict[str, Any]:
    """Where a record comes from, so that features, people and prompts are found again."""
    origin: dict[str, Any] = {"judgement": judgement.id, "person": judgement.person}
    kept = ("pair", "prompt", "answers", "purpose", "selected_by")
    origin |= {key: judgement.extra[key] for key in kept if judgement.extra.get(key) is not None}
    if judgement.order:
        origin["order"] = list(judgement.order)
    if judgement.model_versions:
        origin["model_versions"] = list(judgement.model_versions)
    if judgement.tags:
        origin["tags"] = list(judgement.tags)
    return origin
