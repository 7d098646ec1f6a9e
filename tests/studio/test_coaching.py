"""After ten judgements a person is told how they do; the model's guess comes after the answer, never before; pairs whose
answer is known are the owner's to confirm."""

from __future__ import annotations

import secrets
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.studio.rooms import Browser, add_pairs, annotator, owner, until
from tests.studio.test_judging import KEY, said
from tests.studio.test_teaching import press
from tomoni.feedback import weave
from tomoni.feedback.entries import Person
from tomoni.records import Kind, Verdict
from tomoni.studio import insight
from tomoni.studio.house import House


def judge_all(house: House, browser: Browser, person: Person, pairs: list[Any], start: int = 0) -> list[dict[str, Any]]:
    """As somebody who likes the first (polite) answer of `add_pairs`."""
    told = []
    for number, pair in enumerate(pairs, start):
        side = "left" if house.order(person.id, pair.id)[0] == 0 else "right"
        body = said(pair.id, f"{KEY[:-3]}{number:06}", verdict=side, seconds=6)
        told.append(browser.post("/api/judge", body).json())
    return told


def test_after_ten_a_person_is_told_and_before_that_no_figure_is(house: House, browser: Browser) -> None:
    pairs = add_pairs(house, 24)
    me = owner(house)
    judge_all(house, browser, me, pairs[:9])
    assert browser.get("/api/judge/coaching").json()["known"] is None
    told = judge_all(house, browser, me, pairs[9:20], 9)
    assert [one["said"] for one in told] == list(range(10, 21))
    card = browser.get("/api/judge/coaching").json()
    assert card["said"] == 20 and 0 <= card["known"]["low"] <= card["known"]["value"] <= card["known"]["high"] <= 1
    assert card["known"]["early"] is True and card["known"]["useful"] == "comparisons"


def test_what_goes_against_the_rest_is_shown_of_the_last_ten_only(house: House, browser: Browser) -> None:
    pairs = add_pairs(house, 40)
    me = owner(house)
    judge_all(house, browser, me, pairs[:29])
    odd = pairs[29]
    side = "right" if house.order(me.id, odd.id)[0] == 0 else "left"
    browser.post("/api/judge", said(odd.id, KEY + "odd", verdict=side))
    card = browser.get("/api/judge/coaching").json()["known"]
    question = house.store.prompt(odd.prompt).messages[-1].content
    assert [one["question"] for one in card["differs"]] == [question]
    assert card["differs"][0]["chosen"].startswith("開くよ") and card["differs"][0]["chance"] > 0.6
    judge_all(house, browser, me, pairs[30:40], 30)
    assert browser.get("/api/judge/coaching").json()["known"]["differs"] == []


def test_what_a_learning_changed_is_told_only_to_whom_has_judged_it_blind(house: House, browser: Browser) -> None:
    press(house, "0001", trials=4)
    assert browser.get("/api/judge/coaching").json()["learnt"] is None
    for number in range(3):
        browser.post("/api/judge", said(f"learn-0001-{number}", f"{KEY}{number}"))
    learnt = browser.get("/api/judge/coaching").json()["learnt"]
    assert (learnt["changed"], learnt["of"], len(learnt["shown"])) == (3, 4, 3)
    other = Browser(house).enter(annotator(house))
    assert other.get("/api/judge/coaching").json()["learnt"] is None


def test_the_guess_comes_with_about_one_answer_in_five_and_tells_the_side_as_it_was_shown(
    house: House, browser: Browser
) -> None:
    pairs = add_pairs(house, 80)
    me = owner(house)
    told = judge_all(house, browser, me, pairs[:20])
    assert house.insight.fitted(fresh=True) is not None
    told = judge_all(house, browser, me, pairs[20:], 20)
    guesses = [(one["guess"], pair) for one, pair in zip(told, pairs[20:], strict=True) if one["guess"]]
    assert len(guesses) == 12  # one in each block of five
    right = 0
    for guess, pair in guesses:
        polite = "left" if house.order(me.id, pair.id)[0] == 0 else "right"
        assert 0.5 <= guess["chance"] <= 1
        right += guess["side"] == polite
    assert right >= 10  # it has understood what this person likes, and says it of the side that was shown


def test_trials_get_no_guess_and_nothing_before_an_answer_tells_one(house: House, browser: Browser) -> None:
    judge_all(house, browser, owner(house), add_pairs(house, 12))
    house.insight.fitted(fresh=True)
    press(house, "0001", trials=8)
    house.teaching.settle()
    for number in range(7):
        assert browser.post("/api/judge", said(f"learn-0001-{number}", f"{KEY}g{number}")).json()["guess"] is None
    add_pairs(house, 2, question="どこ")
    assert set(browser.post("/api/judge/next", {"n": 1}).json()["pairs"][0]) == {
        "id",
        "prompt",
        "left",
        "right",
        "lang",
    }


# -- pairs whose answer is known -----------------------------------------------------------------------------------------


def test_the_owner_confirms_a_pair_that_is_certain_and_it_is_woven_in_for_others(
    house: House, browser: Browser
) -> None:
    pairs = add_pairs(house, 40)
    other, third = annotator(house), annotator(house, "太郎")
    judge_all(house, browser, owner(house), pairs)
    judge_all(house, Browser(house).enter(other), other, pairs)
    house.insight.fitted(fresh=True)
    page = browser.get("/people").text
    assert "Pairs whose answer is known" in page and "data-gold" not in Browser(house).enter(other).get("/people").text
    gold = page.split('data-gold="')[1].split('"')[0]
    body = {"pair": gold, "known": True}
    assert Browser(house).enter(other).post("/api/people/gold", body).status_code == 403
    assert browser.post("/api/people/gold", body).status_code == 200
    (kept,) = house.store.pairs(purpose="gold")
    assert (kept.id, kept.expected) == (f"{gold}~gold", Verdict.FIRST)
    due = next(n for n in range(20) if weave.purpose_of(n, third.id) == "gold")
    fresh = add_pairs(house, 20, question="どこですか")
    newcomer = Browser(house).enter(third)
    judge_all(house, newcomer, third, fresh[:due])
    assert newcomer.post("/api/judge/next", {"n": 1}).json()["pairs"][0]["id"] == kept.id
    judged = {one.judgement.extra["pair"] for one in house.store.judgements(person=other.id)}
    assert kept.id not in judged  # whoever has judged the pair is not asked again


def test_what_is_declined_or_taken_out_is_gold_no_more(house: House, browser: Browser) -> None:
    pairs = add_pairs(house, 40)
    other = annotator(house)
    judge_all(house, browser, owner(house), pairs)
    judge_all(house, Browser(house).enter(other), other, pairs)
    house.insight.fitted(fresh=True)
    first, second = [part.split('"')[0] for part in browser.get("/people").text.split('data-gold="')[1:4:2]]
    assert browser.post("/api/people/gold", {"pair": first, "known": False}).status_code == 200
    assert browser.post("/api/people/gold", {"pair": first, "known": True}).status_code == 404  # no longer proposed
    assert browser.post("/api/people/gold", {"pair": second, "known": True}).status_code == 200
    assert house.asking._golden().keys() == {second}
    assert browser.post("/api/people/gold", {"pair": second, "known": False}).status_code == 200
    assert house.asking._golden() == {}
    assert browser.post("/api/people/gold", {"pair": "none", "known": True}).status_code == 404


# -- no page waits -------------------------------------------------------------------------------------------------------


def test_many_comparisons_are_fitted_behind_the_page_which_says_so(
    house: House, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_all(house, browser, owner(house), add_pairs(house, 14))
    monkeypatch.setattr(insight, "AT_ONCE", 5)
    real = insight.Insight._fit

    def slow(self: insight.Insight, told: Any) -> Any:
        time.sleep(0.7)
        return real(self, told)

    monkeypatch.setattr(insight.Insight, "_fit", slow)
    page = browser.get("/people").text
    assert 'id="computing"' in page and house.insight.computing
    assert browser.get("/api/judge/coaching").json()["computing"] is True
    until(lambda: not house.insight.computing)
    assert 'id="computing"' not in browser.get("/people").text and house.insight.latest() is not None


def test_nothing_of_a_person_who_was_erased_stays_in_memory(house: House, browser: Browser) -> None:
    pairs = add_pairs(house, 12)
    other = annotator(house)
    judge_all(house, Browser(house).enter(other), other, pairs)
    assert house.asking._waiting.every() == []
    assert house.insight.fitted(fresh=True) is not None
    browser.post("/api/people/erase", {"person": other.id, "name": other.name})
    assert house.insight.comparisons() == [] and house.insight.fitted() is None
    assert len(house.asking._waiting.every()) == 12  # nobody has judged them now


def test_what_is_kept_in_memory_is_what_the_store_has_whatever_happens(house: House, browser: Browser) -> None:
    def same() -> bool:
        kept = [one.pair.id for one in house.asking._waiting.every()]
        live = [entry.judgement.id for entry in house.store.judgements(kinds=[Kind.COMPARISON])]
        return kept == [pair.id for pair in house.store.pairs(purpose="train", judged=False)] and live == [
            entry.judgement.id for entry in house.insight.comparisons()
        ]

    assert same()
    first = add_pairs(house, 5)
    assert same()
    browser.post("/api/judge", said(first[0].id, KEY + "1"))
    browser.post("/api/judge/skip", {"key": KEY + "2", "pair": first[1].id})
    assert same()
    browser.post("/api/judge/undo", {"key": KEY + "3", "of": KEY + "1"})
    add_pairs(house, 3, question="どこ")
    assert same() and len(house.asking._waiting.every()) == 7


@given(st.lists(st.tuples(st.sampled_from(("judge", "undo", "skip")), st.integers(0, 2)), max_size=12))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_judging_again_and_taking_back_in_any_order_leaves_memory_and_store_alike(
    house: House, browser: Browser, acts: list[tuple[str, int]]
) -> None:
    example = secrets.token_hex(4)
    pairs = add_pairs(house, 3, question=example)
    keys: list[str] = []
    for number, (act, place) in enumerate(acts):
        key = f"{example}-{number:06}"
        if act == "undo" and keys:
            browser.post("/api/judge/undo", {"key": key, "of": keys[place % len(keys)]})
        elif act == "skip":
            browser.post("/api/judge/skip", {"key": key, "pair": pairs[place].id})
        else:
            assert browser.post("/api/judge", said(pairs[place].id, key)).status_code == 200
            keys.append(key)
        live = house.store.judgements(kinds=[Kind.COMPARISON])
        assert [one.judgement.id for one in house.insight.comparisons()] == [one.judgement.id for one in live]
        waits = [pair.id for pair in house.store.pairs(purpose="train", judged=False)]
        assert [one.pair.id for one in house.asking._waiting.every()] == waits
