"""Rounds in the studio: when one can begin, how it goes on as people judge, what is shown before and after it is decided."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.studio.rooms import Browser, add_pairs, annotator, model_in, until
from tests.studio.test_judging import KEY, said
from tomoni.feedback.entries import Answer, NewPrompt, Pair
from tomoni.feedback.roundfolders import OWNERS
from tomoni.records import Message
from tomoni.studio.guard import CSP
from tomoni.studio.house import House
from tomoni.studio.processes import Processes
from tomoni.studio.rounding import LOOK_AFTER, MANY

REASONS = [
    {
        "key": "preferred", "status": "passed", "about": "", "numbers": {"won": 0.7},
        "text": {"en": "People prefer its answers.", "ja": "人は新しい答えを選びました。"},
    }
]  # fmt: skip


def sleeper(house: House) -> None:
    """What is started stays until it is stopped, and says what it was asked to do."""
    words = "import sys, time; print(sys.argv[1:], flush=True); time.sleep(30)"
    house.rounds.processes = Processes(command=[sys.executable, "-c", words])


def quick(house: House) -> None:
    house.rounds.processes = Processes(command=[sys.executable, "-c", "print('nothing to learn from yet')"])


def folder_of(
    house: House, number: str = "0001", *, state: str = "waiting", pairs: int = 12, age: timedelta = timedelta()
) -> list[Pair]:
    """A round as `tomoni round` leaves it, with its pairs in the store."""
    folder = house.workspace / "rounds" / number
    folder.mkdir(parents=True)
    base = house.registry.current()
    assert base is not None
    candidate = house.registry.register(
        model_in(house.workspace, f"round{number}"), base=base.id, method="round (learn)"
    )
    created = (datetime.now(UTC) - age).isoformat()
    (folder / "round.json").write_text(
        json.dumps({"number": int(number), "created": created, "sequence": house.store.sequence}), encoding="utf-8"
    )
    says = state if state in ("waiting", "running", "failed") else "finished"
    status = {"state": says, "stage": "train", "pid": 1 << 22}
    (folder / "status.json").write_text(json.dumps(status | {"error": None}), encoding="utf-8")
    decision = {
        "outcome": {"promoted": "promote", "kept": "keep"}.get(state, "undecided"), "more": 40, "e": 2.0, "log_e": 0.7,
        "needed": 3.5, "win_rate": [0.7, 0.5, 0.8], "said": 0, "counted": 20, "reasons": REASONS,
    }  # fmt: skip
    report = {"state": state, "base": base.id, "candidate": candidate.id, "decision": decision}
    (folder / "report.json").write_text(json.dumps(report, ensure_ascii=False), encoding="utf-8")
    (folder / "report.html").write_text("<!doctype html><style>p{color:red}</style><p>報告", encoding="utf-8")
    if state in ("promoted", "kept"):
        (folder / "promotion").mkdir()
        output = {"output": {"promoted": state == "promoted"}}
        (folder / "promotion" / "stage.json").write_text(json.dumps(output), encoding="utf-8")
    made = []
    for place in range(pairs):
        row = house.store.add_prompts([NewPrompt((Message("user", f"店{number}{place}？"),), "typed", held_out=True)])[
            0
        ]
        names = [f"r{number}-{place:012x}-{side}" for side in (0, 1)]
        versions = (base.id, candidate.id)
        answers = [Answer(name, row.id, v, "h", f"{name}。") for name, v in zip(names, versions, strict=True)]
        house.store.add_answers(answers)
        made.append(Pair(f"r{number}-{place:012x}", row.id, names[0], names[1], "gate", "random"))
    house.store.add_pairs(made)
    return made


@contextmanager
def played_elsewhere(house: House) -> Iterator[subprocess.Popen[bytes]]:
    """`tomoni round` on the command line: a program that the studio did not start, with the lock."""
    (house.workspace / "rounds").mkdir(exist_ok=True)
    words = "import sys; from pathlib import Path; from tomoni import locking; lock = locking.take(Path(sys.argv[1]));"
    words += "print('taken', flush=True); sys.stdin.read()"
    lock = str(house.workspace / "rounds" / "lock")
    with subprocess.Popen(
        [sys.executable, "-c", words, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None and program.stdout.readline() == b"taken\n"
        yield program


def says(house: House, **status: object) -> None:
    (house.workspace / "rounds" / "0001" / "status.json").write_text(json.dumps(status), encoding="utf-8")


def teach(house: House, browser: Browser, count: int = 10) -> None:
    for number, pair in enumerate(add_pairs(house, count)):
        assert browser.post("/api/judge", said(pair.id, f"{KEY}t{number}")).status_code == 200


def judge(browser: Browser, pairs: list[Pair]) -> None:
    for pair in pairs:
        assert browser.post("/api/judge", said(pair.id, f"{KEY}{pair.id}")).status_code == 200


def test_a_round_needs_something_new_and_begins_once(house: House, browser: Browser) -> None:
    sleeper(house)
    assert browser.post("/api/rounds/start").json()["error"]["code"] == "too_little_for_round"
    teach(house, browser)
    assert browser.post("/api/rounds/start").status_code == 200
    assert until(lambda: "round" in house.rounds.log.read_text() and house.rounds.log.read_text()).startswith(
        "['round',"
    )
    assert browser.get("/api/rounds").json()["round"]["state"] == "starting"
    assert browser.post("/api/rounds/start").json()["error"]["code"] == "round_already"
    assert browser.post("/api/learn").json()["error"]["code"] == "round_already"
    assert browser.post("/api/rounds/stop").status_code == 200
    until(lambda: not house.rounds.going())


def test_one_that_could_not_begin_says_why(house: House, browser: Browser) -> None:
    teach(house, browser)
    quick(house)
    browser.post("/api/rounds/start")
    assert until(house.rounds.failed_to_start) == "nothing to learn from yet"
    assert "nothing to learn from yet" in browser.get("/rounds").text


def test_while_people_judge_the_page_leads_to_them_and_tells_no_verdict(house: House, browser: Browser) -> None:
    pairs = folder_of(house)
    page = browser.get("/rounds").text
    assert 'href="/judge"' in page and "12 pairs waiting" in page
    assert browser.post("/api/rounds/start").json()["error"]["code"] == "round_waits"
    assert 'href="/judge"' in browser.get("/").text and "Which answer is better?" in browser.get("/").text
    judge(browser, pairs[:3])
    found = browser.get("/api/rounds").json()["round"]
    assert (found["judged"], found["left"], found["state"]) == (3, 9, "waiting")


def test_who_judges_cannot_ask_the_candidate_by_name_meanwhile(house: House, browser: Browser) -> None:
    folder_of(house)
    other = Browser(house).enter(annotator(house))
    question = [{"role": "user", "content": "何時？"}]
    for path, body in (
        ("/api/chat", {"messages": question, "version": "v2"}),
        ("/api/models/both", {"messages": question, "versions": ["v1", "v2"]}),
    ):
        assert other.post(path, body).json()["error"]["code"] == "under_judgement"
        assert browser.post(path, body).json()["error"]["code"] == "no_model"  # the owner may
    assert other.post("/api/chat", {"messages": question}).json()["error"]["code"] == "no_model"
    (house.workspace / "rounds" / "0001" / "closed.json").write_text("{}", encoding="utf-8")
    assert other.post("/api/chat", {"messages": question, "version": "v2"}).json()["error"]["code"] == "no_model"


def test_it_goes_on_by_itself_when_enough_was_judged(house: House, browser: Browser) -> None:
    pairs = folder_of(house)
    sleeper(house)
    judge(browser, pairs[: LOOK_AFTER - 1])
    house.rounds.settle(busy=False)
    assert not house.rounds.going()
    judge(browser, pairs[LOOK_AFTER - 1 : LOOK_AFTER])
    house.rounds.settle(busy=True)  # something else trains
    assert not house.rounds.going()
    house.rounds.settle(busy=False)
    assert house.rounds.going()
    browser.post("/api/rounds/stop")
    until(lambda: not house.rounds.going())
    house.rounds.settle(busy=False)  # nothing was judged since
    assert not house.rounds.going()
    judge(browser, pairs[LOOK_AFTER:])  # fewer than ten, but none is left
    house.rounds.settle(busy=False)
    assert house.rounds.going()
    browser.post("/api/rounds/stop")


@pytest.mark.parametrize(("state", "shown"), [("promoted", "is better and in use"), ("kept", "stays in use")])
def test_a_decision_is_told_with_its_reasons_in_the_readers_language(
    house: House, browser: Browser, state: str, shown: str
) -> None:
    folder_of(house, state=state)
    assert shown in browser.get("/rounds").text and "People prefer its answers." in browser.get("/rounds").text
    visitor = Browser(house, browser.app).enter(annotator(house))
    assert "人は新しい答えを選びました。" in visitor.get("/rounds").text


def test_the_report_has_a_policy_under_which_nothing_runs_and_no_other_page_has_it(
    house: House, browser: Browser
) -> None:
    folder_of(house)
    report = browser.get("/rounds/0001")
    assert report.status_code == 200 and "報告" in report.text
    policy = report.headers.get_list("content-security-policy")
    assert len(policy) == 1 and "sandbox" in policy[0] and "script-src" not in policy[0]
    assert "default-src 'none'" in policy[0] and report.headers["x-frame-options"] == "DENY"
    assert browser.get("/rounds").headers.get_list("content-security-policy") == [CSP]
    assert browser.get("/rounds/0002").status_code == 404


def test_only_the_owner_begins_stops_or_gives_up(house: House, browser: Browser) -> None:
    folder_of(house)
    visitor = Browser(house, browser.app).enter(annotator(house))
    assert visitor.get("/rounds").status_code == 200
    for what in ("start", "stop", "close"):
        assert visitor.post(f"/api/rounds/{what}").status_code == 403
    assert visitor.post("/api/rounds/when", {"when": "day"}).status_code == 403
    assert browser.post("/api/rounds/close").status_code == 200
    assert browser.get("/api/rounds").json()["round"]["state"] == "closed"
    assert browser.post("/api/rounds/close").status_code == 404


def test_one_that_was_killed_goes_on_from_where_it_was(house: House, browser: Browser) -> None:
    folder_of(house, state="running")
    assert browser.get("/api/rounds").json()["round"]["state"] == "killed"
    sleeper(house)
    assert browser.post("/api/rounds/start").status_code == 200
    assert browser.get("/api/rounds").json()["round"]["state"] in ("running", "starting")
    browser.post("/api/rounds/stop")


@pytest.mark.parametrize(
    ("when", "age", "judgements", "begins"),
    [
        ("never", timedelta(days=30), MANY, False),
        ("day", timedelta(hours=23), 10, False),
        ("day", timedelta(hours=25), 10, True),
        ("day", timedelta(hours=25), 0, False),
        ("week", timedelta(days=6), 10, False),
        ("week", timedelta(days=8), 10, True),
        ("judgements", timedelta(), MANY - 1, False),
        ("judgements", timedelta(), MANY, True),
    ],
)
def test_rounds_begin_by_themselves_as_the_owner_wishes(
    house: House, browser: Browser, when: str, age: timedelta, judgements: int, begins: bool
) -> None:
    folder_of(house, state="kept", pairs=1, age=age)
    sleeper(house)
    teach(house, browser, judgements)
    assert browser.post("/api/rounds/when", {"when": when}).status_code == 200
    house.rounds.settle(busy=False)
    assert house.rounds.going() is begins
    if begins:
        browser.post("/api/rounds/stop")


def test_an_unknown_wish_is_refused(browser: Browser) -> None:
    assert browser.post("/api/rounds/when", {"when": "hourly"}).status_code == 422


def test_a_damaged_folder_breaks_no_page(house: House, browser: Browser) -> None:
    folder_of(house)
    for name in ("status.json", "report.json"):
        (house.workspace / "rounds" / "0001" / name).write_text("{", encoding="utf-8")
    assert browser.get("/rounds").status_code == 200


def test_a_process_id_that_is_another_programs_by_now_is_neither_the_round_nor_stopped(
    house: House, browser: Browser
) -> None:
    folder_of(house, state="running")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        says(house, state="running", stage="train", pid=stranger.pid)
        assert browser.get("/api/rounds").json()["round"]["state"] == "killed"
        assert browser.post("/api/rounds/stop").status_code == 409
        assert stranger.poll() is None
        stranger.kill()


def test_a_round_of_the_command_line_is_seen_respected_and_stopped(house: House, browser: Browser) -> None:
    pairs = folder_of(house, state="failed")
    sleeper(house)
    with played_elsewhere(house) as program:
        assert browser.get("/api/rounds").json()["round"]["state"] == "running"
        for what in ("rounds/start", "learn"):
            assert browser.post(f"/api/{what}").json()["error"]["code"] == "round_already"
        assert browser.post("/api/rounds/close").status_code == 404
        says(house, state="waiting", stage="asking-1", pid=program.pid)
        judge(browser, pairs)
        house.rounds.settle(busy=False)
        assert house.rounds._pid is None
        assert browser.post("/api/rounds/stop").status_code == 200
        assert program.wait(10) != 0
    assert browser.get("/api/rounds").json()["round"]["state"] == "waiting"


def test_while_the_evidence_is_looked_at_people_judge_on(house: House, browser: Browser) -> None:
    pairs = folder_of(house)
    sleeper(house)
    judge(browser, pairs[:LOOK_AFTER])
    house.rounds.settle(busy=False)
    found = browser.get("/api/rounds").json()["round"]
    assert (found["state"], found["judged"], found["left"]) == ("looking", LOOK_AFTER, 2)
    page = browser.get("/rounds").text
    assert 'class="button lead big wide-on-phone" href="/judge"' in page and 'id="stages"' not in page
    browser.post("/api/rounds/stop")


def test_one_that_goes_on_after_a_failure_does_not_look_failed_and_begins_once(house: House, browser: Browser) -> None:
    folder_of(house, state="failed")
    sleeper(house)
    assert browser.post("/api/rounds/start").status_code == 200
    assert browser.get("/api/rounds").json()["round"]["state"] == "running"
    assert browser.post("/api/rounds/start").json()["error"]["code"] == "round_already"
    browser.post("/api/rounds/stop")


def test_pairs_that_are_passed_over_are_not_waited_for(house: House, browser: Browser) -> None:
    pairs = folder_of(house)
    quick(house)
    for pair in pairs:
        assert browser.post("/api/judge/skip", {"key": f"{KEY}{pair.id}", "pair": pair.id}).status_code == 200
    house.rounds.settle(busy=False)
    first = house.rounds._pid
    assert first is not None
    until(lambda: not house.rounds.going())
    house.rounds.settle(busy=False)
    assert house.rounds._pid == first  # once for what was said
    assert 'data-round="start"' in browser.get("/rounds").text
    assert browser.post("/api/rounds/start").status_code == 200  # the owner may ask again


def test_what_was_decided_holds_where_the_report_was_not_written_any_more(house: House, browser: Browser) -> None:
    folder_of(house, state="promoted")
    path = house.workspace / "rounds" / "0001" / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "waiting"}), encoding="utf-8")
    assert browser.get("/api/rounds").json()["round"]["state"] == "promoted"
    path.unlink()
    assert browser.get("/api/rounds").json()["round"]["state"] == "promoted"
    assert browser.get("/rounds").status_code == 200
    assert browser.post("/api/rounds/start").json()["error"]["code"] == "too_little_for_round"


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"base": 1, "decision": 3}', '{"decision": {"log_e": "x"}}'])
@pytest.mark.parametrize("state", ["waiting", "promoted", "failed"])
def test_a_report_that_is_not_whole_breaks_no_page(house: House, browser: Browser, state: str, damage: str) -> None:
    folder_of(house, state=state, pairs=1)
    (house.workspace / "rounds" / "0001" / "report.json").write_text(damage, encoding="utf-8")
    (house.workspace / "rounds" / "0001" / "round.json").write_text('{"created": "once", "sequence": "x"}')
    for path in ("/rounds", "/api/rounds", "/"):
        assert browser.get(path).status_code == 200
    browser.post("/api/rounds/when", {"when": "day"})
    house.rounds.settle(busy=False)


def test_counts_are_of_the_round_alone_and_follow_an_undo(house: House, browser: Browser) -> None:
    old = folder_of(house, "0001", state="kept")
    pairs = folder_of(house, "0002")
    teach(house, browser, 3)
    judge(browser, [*old[:2], *pairs[:4]])
    counts = browser.get("/api/rounds").json()["round"]
    assert (counts["judged"], counts["left"]) == (4, 8)
    key = f"{KEY}{pairs[0].id}"
    assert browser.post("/api/judge/undo", {"key": f"{KEY}undo", "of": key}).status_code == 200
    counts = browser.get("/api/rounds").json()["round"]
    assert (counts["judged"], counts["left"]) == (3, 9)


def test_what_a_program_said_when_it_failed_is_for_the_owner(house: House, browser: Browser) -> None:
    folder_of(house, state="failed")
    says(house, state="failed", stage="train", pid=1, error="<b>/home/someone/model</b> is not there")
    assert "&lt;b&gt;/home/someone/model" in browser.get("/rounds").text
    visitor = Browser(house, browser.app).enter(annotator(house))
    assert "/home/someone" not in visitor.get("/rounds").text


def test_an_annotators_report_says_nothing_of_the_others(house: House, browser: Browser) -> None:
    folder_of(house)
    begin, end = OWNERS
    page = f"<!doctype html><p>all</p>{begin}<p>Mei: 0.1</p>{end}<p>more</p>{begin}Ren{end}"
    (house.workspace / "rounds" / "0001" / "report.html").write_text(page, encoding="utf-8")
    assert browser.get("/rounds/0001").text == page
    visitor = Browser(house, browser.app).enter(annotator(house))
    assert visitor.get("/rounds/0001").text == "<!doctype html><p>all</p><p>more</p>"


def test_the_daily_round_that_failed_is_tried_again_when_more_was_said(house: House, browser: Browser) -> None:
    quick(house)
    teach(house, browser)
    house.rounds.set_when("day")
    house.rounds.settle(busy=False)
    until(house.rounds.failed_to_start)
    first = house.rounds._pid
    house.rounds.settle(busy=False)
    assert house.rounds._pid == first
    for number, pair in enumerate(add_pairs(house, 10, question="どこですか")):
        assert browser.post("/api/judge", said(pair.id, f"{KEY}again{number}")).status_code == 200
    house.rounds.settle(busy=False)
    assert house.rounds._pid != first


def test_topics_on_which_all_is_well_stand_together_and_others_stand_out(house: House, browser: Browser) -> None:
    folder_of(house, state="kept")
    path = house.workspace / "rounds" / "0001" / "report.json"
    report = json.loads(path.read_text(encoding="utf-8"))

    def topic(key: str, status: str, text: str) -> dict[str, Any]:
        return {"key": key, "status": status, "about": "x", "numbers": {"n": 9}, "text": {"en": text, "ja": text}}

    preferred = {**REASONS[0], "numbers": {"n": 66.0}}
    report["decision"]["reasons"] = [
        preferred, topic("topic_holds", "passed", "prices hold"), topic("topic_worse", "failed", "places became worse"),
        topic("topic_holds", "passed", "hours hold"),
    ]  # fmt: skip
    path.write_text(json.dumps(report), encoding="utf-8")
    page = browser.get("/rounds").text
    assert "Not worse on any of 2 topics" in page and "of 66 pairs" in page
    assert page.index("places became worse") < page.index("Not worse on any") < page.index("prices hold")
