"""What people say is stored as they meant it, once, and can be taken back; texts stay texts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.studio.rooms import Browser, add_pairs, annotator, owner
from tomoni.feedback.resolve import resolve
from tomoni.records import Kind, Verdict
from tomoni.studio.answering import Status
from tomoni.studio.house import House
from tomoni.studio.judging import Seen, verdict_of

KEY = "0f2c8f1e-0000-4000-8000-00000000000"
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "{{ 7*7 }}{% raw %}",
    "javascript:alert(1)",
    "<!--",
    "\u202eabc\u0000",
    '"><svg onload=alert(1)>',
)


def facts(page: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.split('id="facts">')[1].split("</script>")[0])
    return found


def said(pair: str, key: str = KEY + "1", **more: Any) -> dict[str, Any]:
    return {"key": key, "pair": pair, "verdict": "left", **more}


def test_the_side_that_was_chosen_becomes_the_stored_answer_that_stood_there(house: House, browser: Browser) -> None:
    add_pairs(house, 12)
    shown = browser.post("/api/judge/next", {"n": 8}).json()["pairs"]
    sides = set()
    for number, pair in enumerate(shown):
        sides.add(pair["left"].startswith("開きます"))
        wanted = "left" if pair["left"].startswith("開きます") else "right"  # always the polite one, wherever it stands
        assert browser.post("/api/judge", said(pair["id"], f"{KEY}{number}", verdict=wanted)).status_code == 200
    stored = house.store.judgements()
    assert {entry.judgement.value["verdict"] for entry in stored} == {"first"}
    assert len(sides) == 2, "the order was the same eight times"
    assert {entry.judgement.order for entry in stored} == {(0, 1), (1, 0)}


@given(st.sampled_from(["left", "right", "tie", "both_bad"]), st.sampled_from([(0, 1), (1, 0)]))
def test_no_verdict_changes_its_meaning_with_the_order(seen: Seen, order: tuple[int, int]) -> None:
    expected = {"tie": Verdict.TIE, "both_bad": Verdict.BOTH_BAD}
    place = {"left": order[0], "right": order[1]}
    want = expected.get(seen) or (Verdict.FIRST if place[seen] == 0 else Verdict.SECOND)
    assert verdict_of(seen, order) is want


def test_the_order_is_each_persons_own_and_stays_after_a_reload(house: House, browser: Browser) -> None:
    pairs = add_pairs(house, 30)
    other = annotator(house)
    mine = [house.order(owner(house).id, pair.id) for pair in pairs]
    assert mine == [house.order(owner(house).id, pair.id) for pair in pairs]
    assert mine != [house.order(other.id, pair.id) for pair in pairs]
    first = browser.post("/api/judge/next", {"n": 1}).json()["pairs"][0]
    assert browser.post("/api/judge/next", {"n": 1}).json()["pairs"][0] == first


def test_what_the_page_is_told_names_no_model_and_no_purpose(house: House, browser: Browser) -> None:
    add_pairs(house, 3)
    pair = facts(browser.get("/judge").text)["pairs"][0]
    assert set(pair) == {"id", "prompt", "left", "right", "lang"}
    assert pair["lang"] == "ja"


def test_the_same_request_sent_again_is_acknowledged_and_stored_once(house: House, browser: Browser) -> None:
    (pair,) = add_pairs(house, 1)
    body = said(pair.id, flags={"left": ["untrue"]}, edits={"left": "開くのは九時です。"})
    first, again = browser.post("/api/judge", body), browser.post("/api/judge", body)
    told = {"saved": True, "done": 1, "said": 1, "guess": None}
    assert first.json() == told | {"again": False}
    assert again.json() == told | {"again": True}
    kinds = [entry.judgement.kind for entry in house.store.judgements()]
    assert sorted(kind.value for kind in kinds) == ["comparison", "correction", "flag"]


def test_a_comparison_comes_with_reasons_flags_edits_and_time(house: House, browser: Browser) -> None:
    (pair,) = add_pairs(house, 1)
    order = house.order(owner(house).id, pair.id)
    body = said(
        pair.id, verdict="right", strength=3, reasons=["polite", "clear"], comment="ていねい",
        flags={"left": ["harmful", "untrue"]}, edits={"right": "九時に開きます。"}, seconds=4.2,
    )  # fmt: skip
    assert browser.post("/api/judge", body).status_code == 200
    by_kind = {entry.judgement.kind: entry.judgement for entry in house.store.judgements()}
    comparison = by_kind[Kind.COMPARISON]
    assert comparison.value == {"verdict": ("first", "second")[order[1]], "strength": 3}
    assert (comparison.tags, comparison.comment, comparison.seconds) == (("polite", "clear"), "ていねい", 4.2)
    assert by_kind[Kind.FLAG].value == {"answer": order[0], "harmful": True, "private": False, "untrue": True}
    assert by_kind[Kind.CORRECTION].value == {"answer": order[1], "text": "九時に開きます。"}
    assert comparison.extra["pair"] == pair.id and comparison.extra["purpose"] == "train"


def test_ties_carry_no_strength_and_resolve_to_no_preference(house: House, browser: Browser) -> None:
    tie, bad = add_pairs(house, 2)
    browser.post("/api/judge", said(tie.id, KEY + "1", verdict="tie", strength=2))
    browser.post("/api/judge", said(bad.id, KEY + "2", verdict="both_bad", strength=1))
    stored = house.store.judgements()
    assert [entry.judgement.value for entry in stored] == [
        {"verdict": "tie", "strength": 0},
        {"verdict": "both_bad", "strength": 0},
    ]
    assert all(one.verdict not in (Verdict.FIRST, Verdict.SECOND) for one in resolve(stored).comparisons)


def test_undo_takes_all_of_it_back_and_the_pair_can_be_judged_again(house: House, browser: Browser) -> None:
    (pair,) = add_pairs(house, 1)
    browser.post("/api/judge", said(pair.id, KEY + "1", edits={"left": "九時です。"}))
    undone = browser.post("/api/judge/undo", {"key": KEY + "2", "of": KEY + "1"})
    assert undone.json() == {"saved": True, "done": 0}
    assert house.store.judgements() == []
    assert browser.post("/api/judge/undo", {"key": KEY + "2", "of": KEY + "1"}).status_code == 200  # sent twice
    assert [one["id"] for one in browser.post("/api/judge/next", {"n": 4}).json()["pairs"]] == [pair.id]
    browser.post("/api/judge", said(pair.id, KEY + "3", verdict="tie"))
    assert len(house.store.judgements()) == 1


def test_nobody_takes_back_what_another_said(house: House, browser: Browser) -> None:
    (pair,) = add_pairs(house, 1)
    browser.post("/api/judge", said(pair.id))
    other = Browser(house).enter(annotator(house))
    assert other.post("/api/judge/undo", {"key": KEY + "2", "of": KEY + "1"}).status_code == 404
    assert len(house.store.judgements()) == 1


def test_a_pair_that_was_passed_over_does_not_come_back(house: House, browser: Browser) -> None:
    first, second = add_pairs(house, 2)
    assert browser.post("/api/judge/skip", {"key": KEY + "1", "pair": first.id}).status_code == 200
    assert [one["id"] for one in browser.post("/api/judge/next", {"n": 4}).json()["pairs"]] == [second.id]
    assert browser.post("/api/judge/next", {"n": 1}).json()["pairs"] != []
    assert house.teaching.gathered().comparisons == 0


def test_a_pair_that_is_another_persons_is_not_there(house: House) -> None:
    from dataclasses import replace

    (pair,) = add_pairs(house, 1)
    mine = replace(pair, id="mine", person=owner(house).id)
    house.store.add_pairs([mine])
    other = Browser(house).enter(annotator(house))
    assert other.post("/api/judge", said("mine")).status_code == 404
    assert other.post("/api/judge", said("nowhere")).status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [
        {"verdict": "first"}, {"strength": 4}, {"reasons": ["loud"]}, {"flags": {"left": ["rude"]}}, {"seconds": -1},
        {"edits": {"middle": "x"}}, {"key": "short"}, {"key": "x" * 99}, {"unknown": 1}, {"comment": "x" * 4001},
        {"pair": 3}, {"seconds": "1"},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_is_refused_and_nothing_is_stored(house: House, browser: Browser, wrong: dict[str, Any]) -> None:
    (pair,) = add_pairs(house, 1)
    answer = browser.post("/api/judge", said(pair.id) | wrong)
    assert answer.status_code == 422 and answer.json()["error"]["code"] == "invalid"
    assert house.store.judgements(live=False) == []


def test_texts_of_people_and_models_are_escaped_on_every_page(house: House, browser: Browser) -> None:
    for number, text in enumerate(HOSTILE):
        add_pairs(house, 1, question=text, topic=text.replace("\u0000", "")[:80])
        assert browser.post("/api/guideline/add", {"text": text + "x"}).status_code == 200
        assert (
            browser.post("/api/prompts/add", {"text": text + "y", "topic": text[:80].replace("\u0000", "")}).status_code
            == 200
        )
        pair = browser.post("/api/judge/next", {"n": 1}).json()["pairs"][0]
        body = said(
            pair["id"],
            f"{KEY}{number}",
            verdict="both_bad",
            comment=text,
            edits={"left": text},
            flags={"left": ["harmful"]},
        )
        assert browser.post("/api/judge", body).status_code == 200
    house.store.add_person("<b onclick=alert(1)>", role="annotator")
    for path in ("/", "/judge", "/prompts", "/guideline", "/people", "/models", "/learn", "/data", "/runs"):
        page = browser.get(path)
        assert page.status_code == 200, (path, page.text[:300])
        for bad in ("<script>alert", "<img src=x", "<svg onload", "<b onclick", "<!--"):
            assert bad not in page.text, f"{bad} on {path}"


def test_a_thumb_a_correction_and_a_flag_of_a_chat_become_judgements(house: House, browser: Browser) -> None:
    common = {
        "answer": "chatcmpl-1-0", "text": "知らないよ。", "version": "v1",
        "messages": [{"role": "user", "content": "何時に開く？"}],
    }  # fmt: skip
    up = {"key": KEY + "1", "kind": "thumb", "up": False, **common}
    told = {"saved": True, "corrections": 0, "needed": 3, "enough": False}
    assert browser.post("/api/chat/opinion", up).json() == told | {"again": False}
    assert browser.post("/api/chat/opinion", up).json() == told | {"again": True}
    changed = {**up, "key": KEY + "2", "up": True, "replaces": KEY + "1"}
    assert browser.post("/api/chat/opinion", changed).status_code == 200
    corrected = {"key": KEY + "3", "kind": "correction", "corrected": "九時に開きます。", **common}
    assert browser.post("/api/chat/opinion", corrected).status_code == 200
    flagged = {"key": KEY + "4", "kind": "flag", "flags": ["untrue"], **common}
    assert browser.post("/api/chat/opinion", flagged).status_code == 200
    values = {entry.judgement.kind: entry.judgement.value for entry in house.store.judgements()}
    assert values == {
        Kind.THUMB: {"answer": 0, "up": True},
        Kind.CORRECTION: {"answer": 0, "text": "九時に開きます。"},
        Kind.FLAG: {"answer": 0, "harmful": False, "private": False, "untrue": True},
    }
    assert house.teaching.gathered().corrections == 1
    prompt = house.store.prompts()[0]
    assert prompt.provenance == "traffic" and prompt.messages[0].content == "何時に開く？"


def test_an_empty_correction_is_refused_with_a_reason(house: House, browser: Browser) -> None:
    body = {"key": KEY + "1", "kind": "correction", "answer": "a", "text": "x", "corrected": " 　",
            "messages": [{"role": "user", "content": "?"}]}  # fmt: skip
    assert browser.post("/api/chat/opinion", body).json()["error"]["code"] == "empty_correction"


def test_pairs_are_judged_again_by_others_and_by_the_same_person_with_sides_swapped(
    house: House, browser: Browser
) -> None:
    add_pairs(house, 60)
    me = owner(house)
    seen: list[str] = []
    for number in range(60):
        found = browser.post("/api/judge/next", {"n": 1}).json()["pairs"]
        if not found:
            break
        seen.append(found[0]["id"])
        browser.post("/api/judge", said(found[0]["id"], f"{KEY[:-3]}{number:06}"))
    again = [pair for pair in seen if pair.endswith("~again")]
    assert again, "no pair came back"
    for pair in again:
        first, second = house.order(me.id, pair.removesuffix("~again")), house.order(me.id, pair)
        assert first == (second[1], second[0])
    add_pairs(house, 30, question="どこにありますか")
    other = Browser(house).enter(annotator(house))
    got = []
    for number in range(30):
        found = other.post("/api/judge/next", {"n": 1}).json()["pairs"]
        if not found:
            break
        got.append(found[0]["id"])
        other.post("/api/judge", said(found[0]["id"], f"{KEY[:-3]}{number:06}"))
    assert any("~for~" in pair for pair in got), "nothing that the first person judged was asked of the second"


def test_pairs_of_an_open_round_come_first_and_no_longer_once_it_is_decided(house: House, browser: Browser) -> None:
    train = add_pairs(house, 3)
    id = "r0001-0123456789ab"
    for name in (id, f"{id}~again"):
        house.store.add_pairs([replace(train[0], id=name, purpose="gate")])
    folder = house.workspace / "rounds" / "0001"
    folder.mkdir(parents=True)
    (pair,) = browser.post("/api/judge/next", {"n": 1}).json()["pairs"]
    assert pair["id"] == id
    browser.post("/api/judge", said(id, KEY))
    stored = house.store.judgements(purpose="gate")
    assert [one.judgement.extra["pair"] for one in stored] == [id]
    (pair,) = browser.post("/api/judge/next", {"n": 1}).json()["pairs"]
    assert pair["id"] == f"{id}~again"
    (folder / "closed.json").write_text("{}")
    (pair,) = browser.post("/api/judge/next", {"n": 1}).json()["pairs"]
    assert not pair["id"].startswith("r0001")


def test_nobody_judges_in_another_language_while_pairs_in_their_own_are_on_their_way(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_pairs(house, 3)
    reader = annotator(house)
    house.answering._set(Status("ready"))
    assert house.answering.status.state == "ready"
    house.asking.reads(reader.id, "en")

    def ready() -> int:
        return len(house.asking.ready(reader.id, "en", n=2))

    assert ready() == 0  # English ones are being made
    house.asking._note({"en"}, Counter())  # none came: there are no prompts, or the answers do not differ
    assert ready() == 2
    house.asking._note({"en"}, Counter({"en": -1}))
    assert ready() == 0
    house.answering._set(Status("off"))
    assert ready() == 2
