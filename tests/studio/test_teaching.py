"""Learn: when it can be pressed, what of it is seen before people have judged, and what their judgements come to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import beta

from tests.studio.rooms import Browser, add_pairs, annotator, model_in, owner, until
from tests.studio.test_judging import KEY, said
from tomoni.feedback.workspace import machine
from tomoni.studio.house import House
from tomoni.studio.processes import Processes
from tomoni.studio.teaching import Tally


def press(
    house: House, number: str = "0001", *, state: str = "finished", trials: int = 4, **result: Any
) -> dict[str, Any]:
    """A folder as `tomoni learn` leaves it. Of the trials the last one did not change."""
    folder = house.teaching.folder / number
    folder.mkdir(parents=True)
    base = house.registry.current()
    assert base is not None
    version = house.registry.register(model_in(house.workspace, f"learnt{number}"), base=base.id, method="learn")
    status = {
        "state": state,
        "stage": "done" if state == "finished" else "training",
        "done": 0.6,
        "seconds": 12.3,
        "left": None if state == "finished" else 8.4,
        "stages": ["reading", "imitating", "nonsense"],
        "machine": machine(),
        "error": None,
    }
    (folder / "status.json").write_text(json.dumps(status | {"pid": os.getpid() if state == "running" else 1 << 22}))
    body = {
        "version": version.id, "base": base.id, "seconds": 12.3, "cost": 0.0004, "sequence": house.store.sequence,
        "learnt_from": {"comparisons": 10, "corrections": 1, "thumbs": 0, "left_out": {}},
        "trials": [
            {"id": f"t{n}", "topic": "shop.opens", "prompt": [{"role": "user", "content": f"店{number}{n}は？"}],
             "before": f"開くよ{n}", "after": f"開くよ{n} " if n == trials - 1 else f"開きます{n}"}
            for n in range(trials)
        ],
        "expected_win_rate": {"value": 0.7, "low": 0.55, "high": 0.8}, "notes": [],
    }  # fmt: skip
    if state == "finished":
        (folder / "result.json").write_text(json.dumps(body | result))
    return body | result


def test_learn_needs_ten_comparisons_or_three_corrections(house: House, browser: Browser) -> None:
    pairs = add_pairs(house, 10)
    assert browser.post("/api/learn").json()["error"]["code"] == "too_little_said"
    for number, pair in enumerate(pairs[:5]):
        browser.post("/api/judge", said(pair.id, f"{KEY}{number}"))
    assert browser.get("/api/state").json()["share"] == 0.5
    common = {
        "kind": "correction",
        "answer": "a",
        "text": "x",
        "corrected": "九時です。",
        "messages": [{"role": "user", "content": "?"}],
    }
    browser.post("/api/chat/opinion", {**common, "key": KEY + "7"})
    assert browser.get("/api/state").json()["enough"] is False
    browser.post("/api/chat/opinion", {**common, "key": KEY + "8", "messages": [{"role": "user", "content": "??"}]})
    assert browser.get("/api/state").json()["enough"] is True


def test_a_press_starts_a_process_of_its_own_and_only_one(house: House, browser: Browser) -> None:
    for number, pair in enumerate(add_pairs(house, 10)):
        browser.post("/api/judge", said(pair.id, f"{KEY}{number}"))
    house.teaching.processes = Processes(
        command=[sys.executable, "-c", "import sys, time; print(sys.argv[1:]); time.sleep(30)"]
    )
    assert browser.post("/api/learn").status_code == 200
    assert browser.get("/api/learn").json() == {"number": None, "going": True, "failed": ""}
    assert browser.post("/api/learn").json()["error"]["code"] == "learning_already"
    assert browser.post("/api/learn/stop").status_code == 200
    until(lambda: not browser.get("/api/learn").json()["going"])


def test_a_press_that_ends_without_a_folder_says_why(house: House, browser: Browser) -> None:
    for number, pair in enumerate(add_pairs(house, 10)):
        browser.post("/api/judge", said(pair.id, f"{KEY}{number}"))
    house.teaching.processes = Processes(command=[sys.executable, "-c", "print('16 prompts are needed')"])
    browser.post("/api/learn")
    until(lambda: browser.get("/api/learn").json()["failed"])
    assert "16 prompts are needed" in browser.get("/learn").text


def test_progress_comes_with_an_etag_and_a_dead_process_is_noticed(house: House, browser: Browser) -> None:
    press(house, state="running")
    first = browser.get("/api/learn/0001")
    assert first.json() == {
        "state": "running", "stage": "training", "done": 0.6, "seconds": 12.3, "left": 8.4,
        "stages": ["reading", "imitating"], "error": "",
    }  # fmt: skip
    again = browser.get("/api/learn/0001", **{"if-none-match": first.headers["etag"]})
    assert again.status_code == 304 and again.content == b""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    status = house.teaching.folder / "0001" / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"pid": gone.pid}))
    assert browser.get("/api/learn/0001").json()["state"] == "killed"


def test_answers_are_shown_only_after_they_were_judged_blind_or_asked_for(house: House, browser: Browser) -> None:
    press(house)
    before = browser.get("/learn/0001").text
    assert "開きます" not in before and "開くよ" not in before
    assert "開きます" in browser.get("/learn/0001?show=1").text
    shown = browser.post("/api/judge/next", {"n": 8, "trial": "0001"}).json()["pairs"]
    assert len(shown) == 3  # what did not change is not asked
    for number, pair in enumerate(shown):
        assert set(pair) == {"id", "prompt", "left", "right", "lang"}
        side = "left" if pair["left"].startswith("開きます") else "right"
        done = browser.post("/api/judge", said(pair["id"], f"{KEY}{number}", verdict=side)).json()["done"]
        assert done == number + 1
    assert browser.post("/api/judge/next", {"n": 8, "trial": "0001"}).json()["pairs"] == []
    page = browser.get("/learn/0001").text
    assert "開きます0" in page and "88 %" in page  # 3 won and one that did not change: 3.5 of 4
    assert house.teaching.gathered().comparisons == 0  # trials measure; they are not taught by


def test_trials_never_come_up_in_the_ordinary_queue_and_their_prompts_are_held_out(
    house: House, browser: Browser
) -> None:
    press(house)
    browser.get("/learn/0001")
    assert browser.post("/api/judge/next", {"n": 8}).json()["pairs"] == []
    assert all(prompt.held_out for prompt in house.store.prompts())


def test_the_win_rate_counts_ties_half_with_the_interval_of_a_beta() -> None:
    tally = Tally(won=7, lost=2, tied=1, unchanged=2)
    rate = tally.win_rate
    assert rate is not None
    assert rate.value == pytest.approx(8.5 / 12)
    assert (rate.low, rate.high) == pytest.approx(beta(1 + 7 + 1.5, 1 + 2 + 1.5).interval(0.95))
    assert Tally(0, 0, 0, 5).win_rate is None
    assert (
        Tally(30, 2, 0, 0).told == "better"
        and Tally(2, 30, 0, 0).told == "worse"
        and Tally(3, 2, 0, 0).told == "unsure"
    )


def test_every_persons_verdict_counts_and_each_sees_the_trials_once(house: House, browser: Browser) -> None:
    press(house, trials=3)
    other = Browser(house).enter(annotator(house))
    for who, wanted in ((browser, "開きます"), (other, "開くよ")):
        for number, pair in enumerate(who.post("/api/judge/next", {"n": 8, "trial": "0001"}).json()["pairs"]):
            side = "left" if pair["left"].startswith(wanted) else "right"
            who.post("/api/judge", said(pair["id"], f"{KEY}{number}", verdict=side))
    tally = house.teaching.tally(house.teaching.press("0001"))
    assert (tally.won, tally.lost, tally.tied, tally.unchanged) == (2, 2, 0, 2)


def test_the_owner_promotes_and_rolls_back_and_others_cannot(house: House, browser: Browser) -> None:
    body = press(house)
    other = Browser(house).enter(annotator(house))
    assert other.post("/api/models/promote", {"version": body["version"]}).status_code == 403
    assert browser.post("/api/models/promote", {"version": body["version"]}).status_code == 200
    current = house.registry.current()
    assert current is not None and current.id == body["version"]
    assert house.registry.history()[-1].by == owner(house).name
    assert "v1" in browser.get("/models").text
    assert browser.post("/api/models/rollback").json() == {"version": "v1"}
    assert browser.post("/api/models/promote", {"version": "v99"}).status_code == 404


def test_after_a_press_the_counting_begins_anew(house: House, browser: Browser) -> None:
    for number, pair in enumerate(add_pairs(house, 10)):
        browser.post("/api/judge", said(pair.id, f"{KEY}{number}"))
    assert house.teaching.gathered().enough
    press(house)
    browser.get("/learn/0001")
    assert not house.teaching.gathered().enough


def test_a_damaged_or_foreign_folder_is_no_fault_of_the_page(house: House, browser: Browser) -> None:
    press(house)
    (house.teaching.folder / "0001" / "result.json").write_text("{")
    (house.teaching.folder / "notes").mkdir()
    (house.teaching.folder / "0002").mkdir()
    assert browser.get("/learn").status_code == 200 and browser.get("/").status_code == 200
    assert browser.get("/learn/0001").status_code == 200
    assert browser.get("/learn/0009").status_code == 404
    assert browser.get("/learn/..%2f0001").status_code == 404


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_a_press_that_came_to_nothing_says_that_nothing_is_lost(house: House, browser: Browser, state: str) -> None:
    press(house, state=state)
    page = browser.get("/learn/0001")
    assert page.status_code == 200 and "Nothing that people said is lost" in page.text


def test_home_leads_from_one_step_to_the_next(house: House, browser: Browser, tmp_path: Path) -> None:
    assert 'href="/prompts"' in hero(browser)
    pairs = add_pairs(house, 10)
    assert 'href="/judge"' in hero(browser)
    for number, pair in enumerate(pairs):
        browser.post("/api/judge", said(pair.id, f"{KEY}{number}"))
    assert 'href="/learn"' in hero(browser)
    press(house)
    assert 'href="/learn/0001"' in hero(browser)


def hero(browser: Browser) -> str:
    return browser.get("/").text.split('class="hero"')[1].split("</section>")[0]


def test_the_page_says_how_long_learning_took_here_and_promises_nothing_it_has_not_measured(
    house: House, browser: Browser
) -> None:
    pairs = add_pairs(house, 20)

    def ready() -> str:
        for number, pair in enumerate(pairs[:10]):
            browser.post("/api/judge", said(pair.id, f"{KEY}{number}-{len(pairs)}"))
        del pairs[:10]
        return browser.get("/learn").text

    assert "depends on the machine" in ready() and house.teaching.usual_seconds() is None
    press(house)
    assert house.teaching.usual_seconds() == 12.3
    assert "Last time that took 12 s on this machine" in ready()
    status = house.teaching.folder / "0001" / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"machine": "another"}))
    assert "depends on the machine" in browser.get("/learn").text
