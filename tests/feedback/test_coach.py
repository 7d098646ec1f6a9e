"""What people are told after a batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.feedback.crowds import answers
from tomoni.feedback.coach import Learnt, NotYet, after_batch, guess_after, team, worthwhile
from tomoni.feedback.head import Head
from tomoni.feedback.people import Judged, fit


def test_the_price_of_better_judgement_is_the_square_of_the_distance_from_a_coin() -> None:
    # 75 to 80 %: (.3/.25)^2 = 1.44 labels, at (36.8 + 18) / 36.8 = 1.49 times the time: just not worth it
    found = worthwhile(accuracy=0.75, better=0.80, seconds=36.8, longer=54.8)
    assert found.gain == pytest.approx(1.44) and found.price == pytest.approx(1.489, abs=1e-3) and not found.pays
    assert worthwhile(accuracy=0.75, better=0.85, seconds=36.8, longer=54.8).pays
    with pytest.raises(ValueError):
        worthwhile(accuracy=0.5, better=0.8, seconds=1, longer=1)


def test_the_answers_shown_are_those_that_the_others_would_not_have_given() -> None:
    judged, w = answers(("perfect",) * 5, each=100, seed=2)
    wrong = []
    for number in range(400, 500):
        one = judged[number]
        if "02" in one.person and not one.gold and abs(one.delta @ w) > 4 and len(wrong) < 3:
            judged[number] = replace(one, y=float(one.delta @ w < 0), tags=("長さ",))
            wrong.append(number)
    found = after_batch(judged, fit(judged), person="02 perfect", since=400, rules={"長さ": ["r1", "r2"]})
    shown = {one.number: one for one in found.differs}
    assert wrong and set(wrong) <= set(shown) and len(shown) <= 3
    assert all(shown[number].chance > 0.6 and shown[number].rules == ("r1", "r2") for number in wrong)
    assert found.rules == (("r1", len(wrong)), ("r2", len(wrong)))
    assert found.worth == pytest.approx(found.reliability.n * found.reliability.value)
    assert after_batch(judged, fit(judged), person="02 perfect", since=len(judged)).differs == ()


def test_a_person_sees_gold_repeats_and_what_was_learnt() -> None:
    judged, _ = answers(("trained",) * 3, each=60, seed=3, gold=0.2)
    own = [one for one in judged if one.person == "01 trained" and not one.gold][:12]
    judged += [replace(one, side=-one.side) for one in own]
    learnt = Learnt("v4", ("t1", "t2", "t3"), predicted=(0.61, 0.52, 0.7))
    found = after_batch(judged, fit(judged), person="01 trained", learnt=learnt)
    gold = [one for one in judged if one.person == "01 trained" and one.gold]
    assert (found.gold_asked, found.gold_right) == (len(gold), sum(one.y == one.expected for one in gold))
    assert found.consistency is not None and found.consistency.items == 12 and found.consistency.value == 1
    assert found.learnt is learnt


@pytest.mark.parametrize(
    ("change", "useful"),
    [
        ({}, "comparisons"),
        ({"y": 0.5}, "corrections"),
        ({"seconds": 0.5, "words": 80}, "slower"),
    ],
)
def test_the_next_most_useful_judgement_follows_from_the_batch(change: dict[str, float], useful: str) -> None:
    judged, _ = answers(("perfect",) * 4, each=60, seed=8)
    judged = [replace(one, **change) if "00" in one.person else replace(one, seconds=15.0, words=80) for one in judged]  # type: ignore[arg-type]
    assert after_batch(judged, fit(judged), person="00 perfect").useful == useful


def test_the_models_guess_comes_after_the_answer_and_on_one_in_five() -> None:
    head = Head(np.array([2.0]), np.eye(1) * 0.1, 1.0)
    answer = Judged("花子", np.array([1.0]), 0.0)
    with pytest.raises(NotYet):
        guess_after(None, head, person="花子", number=0)
    shown = [guess_after(answer, head, person="花子", number=number) for number in range(100)]
    blocks = [sum(one is not None for one in shown[start : start + 5]) for start in range(0, 100, 5)]
    assert blocks == [1] * 20
    first = next(one for one in shown if one is not None)
    assert first.first == pytest.approx(float(head.probability(np.array([1.0]))))


def test_the_team_sees_where_it_differs_and_whether_that_shrinks() -> None:
    rng = np.random.default_rng(0)
    judged = []
    for number in range(300):
        delta = rng.normal(size=6)
        for person in ("a", "b"):
            clear = number % 3 != 0 or number > 200
            y = float(delta[0] > 0) if clear else float(rng.random() < 0.5)
            tags = ("正確さ",) if clear else ("丁寧さ",)
            judged.append(Judged(person, delta, y, item=f"i{number}", seconds=12.0, tags=tags))
    people = fit(judged)
    found = team(judged, people)
    assert found.by_tag["正確さ"].differ == 0 and found.by_tag["丁寧さ"].differ > 15
    assert found.agreement.value is not None and 0.7 < found.agreement.value < 1
    assert len(found.trend) == 6 and found.trend[-1] == 1 and found.trend[0] is not None and found.trend[0] < 0.9
    differing = {f"i{n}" for n in range(300) if judged[2 * n].y != judged[2 * n + 1].y}
    assert set(found.unresolved) == differing
    by_hand = sum(people.of(one.person).value for one in judged) / (600 * 12 / 60)
    assert found.information_a_minute == pytest.approx(by_hand)


def test_repeats_by_one_person_are_no_agreement_between_people() -> None:
    judged, _ = answers(("perfect",), each=30, seed=1)
    found = team(judged * 2, fit(judged * 2))
    assert found.agreement.value is None and found.information_a_minute is None
    assert team([], fit([])).trend == ()
