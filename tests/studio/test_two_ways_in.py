"""What is said in two tabs counts once, what the terminal did counts too, and a version remembers where it comes from."""

from __future__ import annotations

import threading

from tests.studio.rooms import Browser, add_pairs, annotator, model_in, owner
from tests.studio.test_judging import KEY, said
from tests.studio.test_teaching import press
from tomoni.records import Kind
from tomoni.studio.house import House
from tomoni.studio.opening import knows_the_world


def test_of_two_comparisons_of_one_pair_in_two_tabs_the_later_one_counts(house: House, browser: Browser) -> None:
    (pair,) = add_pairs(house, 1)
    order = house.order(owner(house).id, pair.id)
    first, later = said(pair.id, KEY + "1", verdict="left"), said(pair.id, KEY + "2", verdict="right")
    assert browser.post("/api/judge", first).json()["done"] == 1
    assert browser.post("/api/judge", later).json()["done"] == 1
    assert browser.post("/api/judge", later).json()["again"] is True  # sent again, it is the same judgement
    assert browser.post("/api/judge", first).json()["again"] is True
    (counts,) = house.store.judgements(kinds=[Kind.COMPARISON])
    assert counts.judgement.value["verdict"] == ("first", "second")[order[1]]
    assert browser.post("/api/judge/undo", {"key": KEY + "3", "of": KEY + "2"}).json()["done"] == 1
    (counts,) = house.store.judgements(kinds=[Kind.COMPARISON])  # what the other tab said is as it was
    assert counts.judgement.value["verdict"] == ("first", "second")[order[0]]


def test_tabs_that_send_at_the_same_moment_leave_one_comparison(house: House, browser: Browser) -> None:
    (pair,) = add_pairs(house, 1)
    other = Browser(house).enter(annotator(house))
    other.post("/api/judge", said(pair.id, KEY + "9"))
    tabs = [
        threading.Thread(target=browser.post, args=("/api/judge", said(pair.id, f"{KEY}{number}")))
        for number in range(6)
    ]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert sorted(one.judgement.person for one in house.store.judgements()) == sorted(
        [owner(house).id, annotator(house).id]
    ), "one comparison a person"
    assert len(house.store.judgements(live=False)) == 7, "nothing that was said is thrown away"


def test_a_press_of_the_command_line_counts_though_no_page_looked_at_it(house: House, browser: Browser) -> None:
    for number, pair in enumerate(add_pairs(house, 10)):
        browser.post("/api/judge", said(pair.id, f"{KEY}{number}"))
    assert browser.get("/api/state").json()["comparisons"] == 10
    press(house, "0001")
    press(house, "0002", state="failed")  # a later one that came to nothing takes nothing back
    assert browser.get("/api/state").json()["comparisons"] == 0
    (more,) = add_pairs(house, 1, question="どこですか")
    browser.post("/api/judge", said(more.id, KEY + "x"))
    assert browser.get("/api/state").json()["comparisons"] == 1
    assert len(house.teaching.pairs("0001")) == 3  # and its answers are there to be judged


def test_what_a_version_has_read_the_versions_learnt_from_it_have_read(house: House, browser: Browser) -> None:
    registry = house.registry
    stranger = registry.current()
    run = model_in(house.workspace, "run")
    (run / "config.yaml").write_text("method: sft\nmodel_name_or_path: bundled:small\n", encoding="utf-8")
    tuned = registry.register(run, run=run)
    learnt = registry.register(model_in(house.workspace, "learnt"), base=tuned.id, method="learn")
    again = registry.register(model_in(house.workspace, "again"), base=learnt.id, method="learn")
    assert [knows_the_world(registry, one) for one in (stranger, tuned, learnt, again, None)] == [
        False, True, True, True, False,
    ]  # fmt: skip
    registry.promote(again.id, reason="")
    assert "Hikarimori" in browser.get("/chat").text
    assert "town" in browser.get("/runs").text
