"""What a person is told after ten judgements, and what the model thought of a pair once it is judged. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tomoni.studio.asking import plain
from tomoni.studio.insight import NOT_TASTE, Fitted, embed, value_of

if TYPE_CHECKING:
    from tomoni.feedback.entries import Answer, Pair, Person
    from tomoni.records import Verdict
    from tomoni.studio.house import House
    from tomoni.studio.insight import Insight
    from tomoni.studio.teaching import Teaching

BATCH = 10  # judgements after which a person is told
KNOWN_FROM = 10  # comparisons of a person before a figure is shown
GROUND = 40  # before it is called steady
SHOWN = 3  # answers that changed
UNSURE = 0.55  # chance under which the model's guess is none


def coaching(fitted: Fitted | None, person: Person, *, last: int | None = None) -> dict[str, Any] | None:
    """With the pairs where most others would have said otherwise, of the `last` so many (default: all); None while too
    little is known of the person."""
    if fitted is None or fitted.people.of(person.id).n < KNOWN_FROM:
        return None
    from tomoni.feedback import coach

    mine = [number for number, one in enumerate(fitted.judged) if one.person == person.id]
    since = mine[-last] if last is not None and len(mine) >= last else 0
    found = coach.after_batch(fitted.judged, fitted.people, person=person.id, since=since)
    differs = []
    for one in found.differs:
        judgement = fitted.stored[one.number].judgement
        chosen, other = judgement.answers if one.said == 1 else reversed(judgement.answers)
        question = judgement.prompt[-1].content
        differs.append({"question": question, "chosen": chosen, "other": other, "chance": one.chance, "tags": one.tags})
    return {"told": found, "differs": differs}


def card(house: House, person: Person) -> dict[str, Any]:
    """The same for the Judge page, as values: of the last batch, with what the last press of Learn changed."""
    found = coaching(house.insight.fitted(), person, last=BATCH)
    body: dict[str, Any] = {"said": said(house.insight, person.id), "computing": house.insight.computing, "known": None}
    body["learnt"] = changed(house.teaching, person.id)
    if found is not None:
        told = found["told"]
        one = told.reliability
        body["known"] = {
            "value": one.value,
            "low": one.low,
            "high": one.high,
            "early": one.n < GROUND,
            "useful": told.useful,
            "flags": [flag.key for flag in told.flags],
            "differs": [
                {key: row[key] for key in ("question", "chosen", "other", "chance")} for row in found["differs"]
            ],
        }
    return body


def changed(teaching: Teaching, person: str) -> dict[str, Any] | None:
    """Answers that the last press of Learn changed; None while this person has some of them to judge blind."""
    press = next((one for one in teaching.presses() if one.result), None)
    if press is None or not press.trials or teaching.left(press.number, person):
        return None
    differ = [trial for trial in press.trials if plain(trial["before"]) != plain(trial["after"])]
    shown = [
        {"question": trial["prompt"][-1]["content"], "before": trial["before"], "after": trial["after"]}
        for trial in differ[:SHOWN]
    ]
    return {"number": press.number, "changed": len(differ), "of": len(press.trials), "shown": shown}


def said(insight: Insight, person: str) -> int:
    """Comparisons of this person that count now and say something about taste."""
    every = (entry.judgement for entry in insight.comparisons())
    return sum(one.person == person and one.extra.get("purpose") not in NOT_TASTE for one in every)


def guess(
    house: House, person: Person, pair: Pair, answers: Sequence[Answer], verdict: Verdict, order: tuple[int, int]
) -> dict[str, Any] | None:
    """What the model thought of the pair that was just judged, on one in five: the side, as it was shown, and the chance.
    By a fit that has not seen this judgement."""
    from tomoni.feedback import coach
    from tomoni.feedback.people import Judged

    fitted = house.insight.latest()
    if fitted is None or pair.purpose in NOT_TASTE:
        return None
    size = len(fitted.space.centre_F)
    if any(answer.features is None or len(answer.features) != size for answer in answers):
        return None
    first_D, second_D = embed(fitted.space, answers)
    answer = Judged(person.id, first_D - second_D, value_of(verdict), side=1 if order[0] == 0 else -1)
    number = said(house.insight, person.id)
    found = coach.guess_after(answer, fitted.people.head, person=person.id, number=number)
    if found is None:
        return None
    left = found.first if order[0] == 0 else 1 - found.first
    side = None if max(left, 1 - left) < UNSURE else "left" if left > 0.5 else "right"
    return {"side": side, "chance": max(left, 1 - left)}
