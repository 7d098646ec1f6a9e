"""What is put before a person next."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from tests.feedback.crowds import answers
from tomoni.feedback.people import Judged, fit
from tomoni.feedback.weave import FIRST_REPEAT, Gold, Seen, could_be_gold, next_for, purpose_of

PEOPLE = [f"人{number}" for number in range(40)]


def test_of_a_hundred_answers_five_are_gold_eight_overlap_and_four_come_again() -> None:
    for person in PEOPLE:
        told = Counter(purpose_of(number, person) for number in range(100, 300))
        assert (told["gold"], told["overlap"], told["repeat"], told["train"]) == (10, 16, 8, 166)


def test_each_twenty_hold_a_gold_pair_and_a_newcomers_first_twenty_hold_four() -> None:
    for person in PEOPLE:
        told = [purpose_of(number, person) for number in range(200)]
        assert [told[start : start + 20].count("gold") for start in range(0, 200, 20)] == [4] + [1] * 9
        assert "repeat" not in told[:20]


def test_where_gold_falls_differs_by_person_and_cannot_be_counted_out() -> None:
    places = {tuple(number for number in range(20, 60) if purpose_of(number, person) == "gold") for person in PEOPLE}
    assert len(places) > 30
    first = Counter(number for person in PEOPLE for number in range(20, 40) if purpose_of(number, person) == "gold")
    assert max(first.values()) <= 8  # of 40


def walk(person: str, n: int, *, seed: int = 0) -> tuple[list[Seen], list[str]]:
    gold = [Gold(f"g{number}", float(number % 2), number % 2 == 0, fresh=number) for number in range(40)]
    seen, purposes = [], []
    for number in range(n):
        judged_by = {f"other{k}": ["someone"] for k in range(number, 300)} | {"twice": ["a", "b"]}
        due = next_for(person, seen, gold=gold, judged_by=judged_by, seed=seed)
        purposes.append(due.purpose)
        seen.append(Seen(due.pair or f"new{number}", due.side))
    return seen, purposes


def test_a_repeat_is_an_old_pair_of_ones_own_with_sides_swapped_and_comes_once() -> None:
    seen, purposes = walk("太郎", 400)
    times = Counter(one.pair for one in seen)
    assert max(times.values()) == 2
    for number, purpose in enumerate(purposes):
        if purpose == "repeat":
            before = next(k for k, one in enumerate(seen) if one.pair == seen[number].pair)
            assert number - before >= FIRST_REPEAT and seen[before].side == -seen[number].side
            assert not seen[number].pair.startswith("g")
        elif purpose == "gold":
            assert seen[number].pair.startswith("g")
        elif purpose == "overlap":
            assert seen[number].pair.startswith("other")
    assert abs(sum(one.side for one in seen)) < 60


def test_half_of_the_gold_has_the_longer_answer_worse_and_the_newest_comes_first() -> None:
    seen, _ = walk("太郎", 300)
    golden = [int(one.pair[1:]) for one in seen if one.pair.startswith("g")]
    assert len(golden) == 18
    worse = [number % 2 == 0 for number in golden]
    assert abs(sum(worse) - 9) <= 1
    assert next(number for number in golden if number % 2) == 39


def test_without_gold_or_others_answers_something_new_is_due_and_the_same_state_gives_the_same() -> None:
    seen: list[Seen] = []
    for number in range(60):
        due = next_for("a", seen)
        assert due == next_for("a", seen)
        assert due.purpose in ("train", "repeat")
        seen.append(Seen(due.pair or f"n{number}", due.side))


def test_pairs_become_gold_when_good_people_agree_on_them_and_not_when_coins_do() -> None:
    judged, w = answers(("perfect",) * 4 + ("random",) * 2, each=80, seed=1, gold=0.1)
    rng = np.random.default_rng(0)
    pairs = {f"pair {number}": rng.normal(size=16) * np.sqrt(2) for number in range(40)}
    for item, delta in pairs.items():
        for person in ("00 perfect", "01 perfect", "02 perfect"):
            judged.append(Judged(person, delta, float(delta @ w > 0), item=item, length=float(np.sign(-delta @ w))))
        judged.append(Judged("04 random", -delta, 1.0, item="coins " + item))
        judged.append(Judged("05 random", -delta, 1.0, item="coins " + item))
    found = could_be_gold(judged, fit(judged), least=0.97)
    right = [one for one in found if one.pair.startswith("pair")]
    assert len(right) >= 15
    assert np.mean([one.expected == float(pairs[one.pair] @ w > 0) for one in right]) > 0.95
    assert all(one.longer_is_worse == (one.expected == float(pairs[one.pair] @ w > 0)) for one in right)
    assert [one.probability for one in found] == sorted((one.probability for one in found), reverse=True)
    on_coins = [one for one in found if one.pair.startswith("coins")]
    assert len(on_coins) < len(right) / 3
    assert not could_be_gold([replace(one, item="") for one in judged], fit(judged))
