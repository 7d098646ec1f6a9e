"""What is flagged for review, and how seldom a good person is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from scipy.special import expit

from tests.feedback.crowds import answers
from tomoni.feedback.flags import lean, repeats, review, runs_z
from tomoni.feedback.people import Judged, fit


def keys_of(judged: list[Judged], person: str) -> set[str]:
    return {flag.key for flag in review(judged, fit(judged)) if flag.person == person}


def good_people(n: int = 6, each: int = 60, seed: int = 0) -> list[Judged]:
    return answers(("trained",) * n, each=each, seed=seed)[0]


def test_good_people_are_hardly_ever_flagged() -> None:
    flagged = 0
    for seed in range(10):
        judged = good_people(seed=seed)
        flagged += len({flag.person for flag in review(judged, fit(judged))})
    assert flagged <= 2  # of 60


def test_bad_people_are_flagged_by_what_they_do() -> None:
    judged, _ = answers(seed=1, each=60)
    found = {
        name: {flag.key for flag in review(judged, fit(judged)) if flag.person == name}
        for name in {one.person for one in judged}
    }
    for name, keys in found.items():
        if "position" in name:
            assert {"position", "inattentive"} <= keys
        if "reversed" in name:
            assert {"reversed", "inattentive"} <= keys


def test_the_share_of_the_left_side_is_flagged_beyond_three_deviations() -> None:
    judged = good_people()
    mine = [number for number, one in enumerate(judged) if one.person == "00 trained"]
    for left in (40, 43):
        sides = [1 if count < left else -1 for count in range(60)]
        # sides are set so that `left` answers of 60 fall left: |40 - 30| < 1.5 sqrt(60) = 11.6 < |43 - 30|
        placed = list(judged)
        for number, side in zip(mine, sides, strict=True):
            placed[number] = replace(placed[number], side=int(side if placed[number].y == 1 else -side))
        way = lean(placed, fit(placed), "00 trained")
        assert way.left == pytest.approx(left / 60) and way.left_z == pytest.approx((left - 30) / (0.5 * 60**0.5))
        assert ("position" in keys_of(placed, "00 trained")) == (left == 43)


def test_runs_are_counted_as_wald_and_wolfowitz_do() -> None:
    rng = np.random.default_rng(0)
    spread = [runs_z(rng.choice([-1, 1], 60).tolist()) for _ in range(2000)]
    assert np.mean(spread) == pytest.approx(0, abs=0.08) and np.std(spread) == pytest.approx(1, abs=0.06)
    assert runs_z([1, -1] * 20) > 5 and runs_z([1] * 20 + [-1] * 20) < -5
    # n1 = n2 = 3, 4 runs: mean 4, so nothing is odd
    assert runs_z([1, 1, -1, 1, -1, -1]) == pytest.approx(0)
    assert runs_z([]) == runs_z([1] * 30) == 0


def test_those_who_answer_faster_than_they_can_read_are_flagged() -> None:
    rng = np.random.default_rng(0)
    judged = [
        replace(one, words=60, seconds=float(rng.lognormal(np.log(20), 0.4)) if "00" not in one.person else 2.0)
        for one in good_people()
    ]
    people = fit(judged)
    assert lean(judged, people, "00 trained").fast == 1
    assert {flag.person for flag in review(judged, people) if flag.key == "fast"} == {"00 trained"}
    assert lean(judged, people, "01 trained").seconds == pytest.approx(20, rel=0.2)


def test_people_who_contradict_themselves_are_flagged() -> None:
    rng = np.random.default_rng(0)
    judged = good_people()
    for person, same in (("00 trained", 0.5), ("01 trained", 0.9)):
        own = [one for one in judged if one.person == person][:30]
        judged += [replace(one, side=-one.side, y=one.y if rng.random() < same else 1 - one.y) for one in own]
    assert len(repeats(judged, "00 trained")) == 30
    flagged = {flag.person for flag in review(judged, fit(judged)) if flag.key == "inconsistent"}
    assert flagged == {"00 trained"}


def test_a_taste_for_length_is_told_from_a_taste_for_what_is_longer() -> None:
    """Both like long answers; one as everybody does, through the taste, the other besides."""
    rng = np.random.default_rng(0)
    judged, w = answers(("perfect",) * 5, each=80, seed=4)
    with_length = []
    for one in judged:
        length = float(0.5 * (one.delta @ w) + rng.normal(0, 1))
        if "04" in one.person:
            one = replace(one, y=float(rng.random() < expit(one.delta @ w + 2 * length)))
        with_length.append(replace(one, length=length))
    people = fit(with_length)
    assert {flag.person for flag in review(with_length, people) if flag.key == "length"} == {"04 perfect"}
    assert lean(with_length, people, "04 perfect").length > 1


def test_one_who_answers_wrong_on_one_topic_only_is_flagged_for_that_topic() -> None:
    rng = np.random.default_rng(0)
    judged = []
    for one in answers(("trained",) * 6, each=80, seed=5)[0]:
        topic = "値段" if rng.random() < 0.3 else "other"
        turned = "02" in one.person and topic == "値段"
        judged.append(replace(one, topic=topic, y=1 - one.y if turned else one.y))
    flags = [flag for flag in review(judged, fit(judged)) if flag.key == "topic"]
    assert [(flag.person, flag.about) for flag in flags] == [("02 trained", "値段")]


def test_gold_answered_as_by_a_coin_is_flagged_after_about_ten() -> None:
    """Wald's test of .85 against .5 at 5 %: about ln 19 / KL(coin || good) = 2.94 / .337 = 8.7 gold answers."""
    needed = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        ratio, n = 0.0, 0
        while -2.94 < ratio < 2.94:
            ratio += np.log(0.5 / 0.85) if rng.random() < 0.5 else np.log(0.5 / 0.15)
            n += 1
        needed.append(n)
    assert np.mean(needed) < 14
    coin = [Judged("a", np.eye(2)[i % 2], float(i % 2 == (i // 2) % 2), 1, expected=float(i % 2)) for i in range(20)]
    good = [replace(one, person="b", y=one.expected or 0.0) for one in coin]
    found = {flag.person for flag in review(coin + good, fit(coin + good)) if flag.key == "gold"}
    assert found == {"a"}


def test_a_lean_is_that_of_a_logistic_regression() -> None:
    rng = np.random.default_rng(3)
    judged = [replace(one, length=float(rng.normal())) for one in good_people(3, 100, 3)]
    people = fit(judged)
    at = [number for number, one in enumerate(judged) if one.person == "01 trained"]
    x, y = np.array([judged[i].length for i in at]), np.array([judged[i].y for i in at])
    gap = people.gaps.mean_N[at]
    grid = np.linspace(-2, 2, 4001)
    log = [
        scipy.stats.norm.logpdf(b) + np.log(np.where(y == 1, expit(gap + b * x), expit(-gap - b * x))).sum()
        for b in grid
    ]
    assert lean(judged, people, "01 trained").length == pytest.approx(grid[int(np.argmax(log))], abs=2e-3)


def test_nobody_is_judged_on_nothing() -> None:
    judged = good_people(2, 4)
    assert review(judged, fit(judged)) == []
    way = lean(judged, fit(judged), "nobody")
    assert way.n == 0 and way.left == 0.5 and way.seconds is None
