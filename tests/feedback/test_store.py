"""The store's contract, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection, insert, text

from tests.feedback.conftest import Cluster, Opener
from tests.feedback.saying import ASKED, VALUES, hanako, judgement, with_pair
from tomoni.errors import UserError
from tomoni.feedback import accounts, schema
from tomoni.feedback.entries import Answer, NewPrompt, Pair, prompt_id
from tomoni.feedback.standing import standing
from tomoni.feedback.store import Store
from tomoni.records import Kind, Message, Verdict


def ids(store: Store, **how: Any) -> list[str]:
    return [one.judgement.id for one in store.judgements(**how)]


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.UNDO])
def test_a_judgement_of_every_kind_comes_back_as_it_was_said(store: Store, kind: Kind) -> None:
    who = hanako(store)
    said = judgement(
        "j1", who.id, kind, model_versions=("v1", "v2"), tags=("簡潔", "丁寧"), seconds=3.25, comment="ﾊﾟﾋﾟ\0\U0001f458\n",
        extra={"pair": "p", "purpose": "overlap", "edited": True, "answers": ["a", "b"]},
    )  # fmt: skip
    ack = store.judge(said, key="k1")
    (stored,) = store.judgements()
    assert stored.judgement == said
    assert (stored.sequence, ack.id, ack.duplicate) == (ack.sequence, "j1", False)


def test_the_same_key_twice_is_one_judgement_and_one_answer(opened: Opener) -> None:
    store = opened()
    who = hanako(store)
    first = store.judge(judgement("j1", who.id), key="k1")
    again = store.judge(replace(judgement("another id", who.id), seconds=9.0), key="k1")
    assert (again.sequence, again.id, again.duplicate) == (first.sequence, "j1", True)
    store.close()
    later = opened().judge(judgement("j1", who.id), key="k1")
    assert (later.sequence, later.duplicate) == (first.sequence, True)


def test_a_key_that_comes_with_something_else_is_refused(store: Store) -> None:
    who = hanako(store)
    store.judge(judgement("j1", who.id), key="k1")
    with pytest.raises(UserError, match="another judgement"):
        store.judge(judgement("j2", who.id, value={"verdict": "second"}), key="k1")
    assert ids(store) == ["j1"]


def test_order_is_that_of_the_acknowledgements_whatever_the_clock_says(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = hanako(store)
    times = iter(["2036-01-01T00:00:00+00:00", "2016-01-01T00:00:00+00:00"])
    monkeypatch.setattr("tomoni.feedback.judging.now", lambda: next(times))
    acks = [store.judge(judgement(f"j{n}", who.id), key=f"k{n}") for n in range(2)]
    assert acks[0].sequence < acks[1].sequence
    assert ids(store) == ["j0", "j1"]


def test_a_correction_of_a_judgement_replaces_it_and_an_undo_brings_it_back(store: Store) -> None:
    who = hanako(store)
    store.judge(judgement("a", who.id), key="a")
    store.judge(judgement("b", who.id, value={"verdict": "tie"}, replaces="a"), key="b")
    assert ids(store) == ["b"]
    store.undo("b", person=who.id, key="u1")
    assert ids(store) == ["a"]
    store.undo("a", person=who.id, key="u2")
    assert ids(store) == []
    assert [one.judgement.kind for one in store.judgements(live=False)][2:] == [Kind.UNDO, Kind.UNDO]
    store.judge(judgement("c", who.id, replaces="a"), key="c")
    assert ids(store) == ["c"]


def test_a_page_left_open_that_replaces_an_old_judgement_replaces_what_counts_now(store: Store) -> None:
    who = hanako(store)
    store.judge(judgement("a", who.id), key="a")
    store.judge(judgement("b", who.id, replaces="a"), key="b")
    store.judge(judgement("c", who.id, replaces="a"), key="c")
    assert ids(store) == ["c"]
    store.undo("a", person=who.id, key="u")
    assert ids(store) == ["b"]


def test_undoing_is_done_once_by_key_and_never_undone(store: Store) -> None:
    who = hanako(store)
    store.judge(judgement("a", who.id), key="a")
    store.judge(judgement("b", who.id, replaces="a"), key="b")
    first = store.undo("b", person=who.id, key="u")
    assert store.undo("b", person=who.id, key="u").sequence == first.sequence
    assert ids(store) == ["a"]
    with pytest.raises(UserError, match="cannot be undone"):
        store.undo(first.id, person=who.id, key="u2")


def test_people_change_only_what_they_said_themselves(store: Store) -> None:
    who, other = hanako(store), store.add_person("太郎", role="annotator")
    store.judge(judgement("a", who.id), key="a")
    with pytest.raises(UserError, match="themselves"):
        store.judge(judgement("b", other.id, replaces="a"), key="b")
    with pytest.raises(UserError, match="themselves"):
        store.undo("a", person=other.id, key="u")
    with pytest.raises(UserError, match="replaces 'nothing'"):
        store.judge(judgement("b", who.id, replaces="nothing"), key="b")
    assert ids(store, live=False) == ["a"]


BAD_VALUES: list[tuple[Kind, dict[str, Any]]] = [
    (Kind.COMPARISON, {"verdict": "left"}),
    (Kind.COMPARISON, {}),
    (Kind.COMPARISON, {"verdict": "first", "strength": 4}),
    (Kind.COMPARISON, {"verdict": "first", "strength": True}),
    (Kind.RATING, {"stars": 0}),
    (Kind.RATING, {"stars": 4.5}),
    (Kind.CORRECTION, {"answer": 2, "text": "x"}),
    (Kind.CORRECTION, {"answer": 0, "text": "　"}),
    (Kind.THUMB, {"answer": 0, "up": 1}),
    (Kind.THUMB, {"answer": -1, "up": True}),
    (Kind.FLAG, {"answer": 0, "untrue": "yes"}),
    (Kind.UNDO, {}),
    (Kind.THUMB, {"answer": 0, "up": True, "beside": float("nan")}),
]


@pytest.mark.parametrize(("kind", "value"), BAD_VALUES, ids=str)
def test_a_value_that_does_not_fit_its_kind_is_refused(store: Store, kind: Kind, value: dict[str, Any]) -> None:
    who = hanako(store)
    with pytest.raises(UserError, match="cannot be stored"):
        store.judge(judgement("j", who.id, kind, value), key="k")
    assert ids(store, live=False) == []


def test_other_parts_that_do_not_fit_are_refused(store: Store) -> None:
    who = hanako(store)
    good = judgement("j", who.id)
    for bad in (
        replace(good, order=(0, 0)),
        replace(good, seconds=float("inf")),
        replace(good, id=""),
        replace(good, extra={"purpose": "fun"}),
        replace(good, extra={"x": {1, 2}}),
        replace(good, comment="\ud800"),
        replace(good, answers=("one",), order=()),
        replace(good, kind=Kind.COMMENT, value={}, comment=" "),
        replace(good, value="first"),
    ):
        with pytest.raises(UserError, match="cannot be stored"):
            store.judge(bad, key="k")
    with pytest.raises(UserError, match="no person"):
        store.judge(judgement("j", "nobody"), key="k")
    for key in ("", "x" * 201):
        with pytest.raises(UserError, match="key"):
            store.judge(good, key=key)
    store.judge(good, key="k")
    with pytest.raises(UserError, match="already"):
        store.judge(judgement("j", who.id, value={"verdict": "tie"}), key="k2")


def test_a_failing_change_takes_back_only_itself(store: Store) -> None:
    who = hanako(store)

    def half(connection: Connection) -> None:
        accounts.add(connection, "半分", role="annotator", lang="ja", password_hash=None)
        raise ValueError("stopped")

    results: list[Any] = []

    def attempt(n: int) -> None:
        try:
            results.append(store.together(half) if n % 2 else store.judge(judgement(f"j{n}", who.id), key=f"k{n}"))
        except ValueError as error:
            results.append(error)

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids(store)) == 10 and len(results) == 20
    assert store.person_named("半分") is None


def test_what_was_said_is_found_by_person_kind_purpose_and_number(store: Store) -> None:
    who, other = hanako(store), store.add_person("太郎", role="annotator")
    store.judge(judgement("a", who.id), key="a")
    middle = store.judge(judgement("b", other.id, Kind.THUMB, extra={"purpose": "gold"}), key="b")
    store.judge(judgement("c", other.id, Kind.COMMENT), key="c")
    assert ids(store, person=other.id) == ["b", "c"]
    assert ids(store, kinds=[Kind.COMPARISON, Kind.COMMENT]) == ["a", "c"]
    assert ids(store, purpose="gold") == ["b"]
    assert ids(store, after=middle.sequence) == ["c"]
    assert store.count_judgements(person=other.id, kinds=[Kind.THUMB]) == 1
    assert store.judgement("b").judgement.person == other.id
    with pytest.raises(UserError, match="no judgement"):
        store.judgement("z")


# -- the pool --------------------------------------------------------------------------------------------------------


def test_a_prompt_with_the_same_content_is_one_prompt(store: Store) -> None:
    who = hanako(store)
    new = NewPrompt(ASKED, "typed", by=who.id, topic="地理", held_out=True)
    first, second, third = store.add_prompts([new, NewPrompt((Message("user", "別の質問"),), "import"), new])
    assert first == third and first.id != second.id
    assert first.id == prompt_id(ASKED) and first.messages == ASKED and first.held_out and first.topic == "地理"
    (again,) = store.add_prompts([NewPrompt(ASKED, "traffic")])
    assert again == first
    assert [prompt.id for prompt in store.prompts()] == [first.id, second.id]
    assert [prompt.id for prompt in store.prompts(after=first.id)] == [second.id]
    assert [prompt.id for prompt in store.prompts(held_out=True, topic="地理", limit=5)] == [first.id]
    changed = store.change_prompt(first.id, status="retired", topic="日本")
    assert (changed.status, changed.topic) == ("retired", "日本")
    assert [prompt.id for prompt in store.prompts(status="active")] == [second.id]


def test_prompts_that_cannot_be_are_refused(store: Store) -> None:
    for bad in (
        NewPrompt((), "typed"),
        NewPrompt((Message("user", " \n"),), "typed"),
        NewPrompt(ASKED, "found"),  # type: ignore[arg-type]
        NewPrompt(ASKED, "typed", status="new"),  # type: ignore[arg-type]
        NewPrompt(ASKED, "typed", topic="x" * 201),
        NewPrompt((Message("user", "half \ud800"),), "typed"),
    ):
        with pytest.raises(UserError):
            store.add_prompts([NewPrompt((Message("user", "good"),), "typed"), bad])
    assert store.prompts() == []
    with pytest.raises(UserError, match="no prompt"):
        store.change_prompt("x", topic="y")
    (there,) = store.add_prompts([NewPrompt(ASKED, "typed")])
    with pytest.raises(UserError, match="messages"):
        store.change_prompt(there.id, messages=())


def test_answers_keep_every_bit_of_their_features_and_every_character(store: Store) -> None:
    (prompt,) = store.add_prompts([NewPrompt(ASKED, "typed")])
    features = np.array([0.1, -0.0, 1e-40, np.float32(3.4e38), np.nan], dtype=np.float32)
    answer = Answer("a", prompt.id, "v3", "ab", "NUL \0 と ｶﾞ と👨‍👩‍👧", features, -12.5, 7, {"seed": 3, "温度": 0.7})
    assert store.add_answers([answer, answer]) == 1
    assert store.add_answers([replace(answer, text="other")]) == 0
    (back,) = store.answers(prompt=prompt.id, version="v3")
    assert back.features is not None and back.features.tobytes() == features.tobytes()
    assert back.features.flags.writeable
    assert (back.text, back.logprob, back.tokens, back.how) == (answer.text, -12.5, 7, {"seed": 3, "温度": 0.7})
    assert store.answer("a").id == "a" and store.answers(version="v4") == []
    with pytest.raises(UserError, match="no prompt"):
        store.add_answers([replace(answer, id="b", prompt="x")])
    with pytest.raises(UserError, match="no answer"):
        store.answer("b")
    with pytest.raises(UserError, match="surrogate"):
        store.add_answers([replace(answer, id="b", text="\udc00")])


def test_a_pair_is_judged_for_the_person_who_compared_it_or_passed_it_over(store: Store) -> None:
    who, other = hanako(store), store.add_person("太郎", role="annotator")
    for id in ("p1", "p2", "p3"):
        with_pair(store, id)
    with_pair(store, "gold", purpose="gold", person=other.id, expected=Verdict.SECOND)
    store.judge(judgement("a", who.id, extra={"pair": "p1"}), key="a")
    store.judge(judgement("b", who.id, Kind.COMMENT, comment="", extra={"pair": "p2", "skipped": True}), key="b")
    store.judge(judgement("c", who.id, Kind.FLAG, extra={"pair": "p3"}), key="c")

    def pairs(**how: Any) -> list[str]:
        return [pair.id for pair in store.pairs(**how)]

    assert pairs(judged=True, person=who.id) == ["p1", "p2"]
    assert pairs(judged=False, person=who.id) == ["p3"]
    assert pairs(judged=False, person=other.id) == ["p1", "p2", "p3", "gold"]
    assert pairs(judged=False) == ["p3", "gold"] and pairs(limit=1) == ["p1"] and pairs(purpose="gold") == ["gold"]
    assert store.pair("gold").expected is Verdict.SECOND
    store.undo("a", person=who.id, key="u")
    assert pairs(judged=False, person=who.id) == ["p1", "p3"]


def test_pairs_of_what_is_not_there_are_refused(store: Store) -> None:
    pair = with_pair(store)
    for bad in (
        replace(pair, id="x", first="nothing"),
        replace(pair, id="x", prompt="nothing"),
        replace(pair, id="x", second=pair.first),
        replace(pair, id="x", purpose="fun"),  # type: ignore[arg-type]
        replace(pair, id=""),
    ):
        with pytest.raises(UserError):
            store.add_pairs([Pair("good", pair.prompt, pair.first, pair.second), bad])
    assert [pair.id for pair in store.pairs()] == ["p1"]


# -- people ----------------------------------------------------------------------------------------------------------


def test_people_have_names_of_their_own_that_can_be_shown(store: Store) -> None:
    who = store.add_person("山田 花子", role="owner", lang="ja", password_hash="$argon2id$…")
    assert store.person(who.id) == who and store.person_named("山田 花子") == who
    for name in ("山田 花子", "", " 花子", "a\nb", "x" * 101, "a\u2028b", "\0"):
        with pytest.raises(UserError):
            store.add_person(name, role="annotator")
    with pytest.raises(UserError, match="admin"):
        store.add_person("新人", role="admin")  # type: ignore[arg-type]
    other = store.add_person("太郎", role="annotator")
    with pytest.raises(UserError, match="already"):
        store.change_person(other.id, name="山田 花子")
    with pytest.raises(UserError, match="no 'created'"):
        store.change_person(other.id, created="2020")
    assert store.change_person(other.id, name="次郎", lang="en").name == "次郎"
    assert [person.name for person in store.people()] == ["山田 花子", "次郎"]


def test_sessions_end_when_asked_when_over_and_when_the_person_may_not_come_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = hanako(store)
    for token in ("t1", "t2", "t3"):
        store.begin_session(who.id, token, 60)
    assert store.session("t1") == who and store.session("unknown") is None
    store.end_session("t1")
    assert store.session("t1") is None
    clock = time.monotonic()
    monkeypatch.setattr("tomoni.feedback.store.time.monotonic", lambda: clock + 61)
    assert store.session("t2") is None
    monkeypatch.undo()
    store.change_person(who.id, active=False)
    assert store.session("t3") is None


@pytest.mark.parametrize("jump", [-3650 * 86_400, 3600.0])
def test_a_clock_that_is_set_makes_no_session_longer(
    opened: Opener, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    store = opened()
    who = hanako(store)
    store.begin_session(who.id, "t", 100)
    clock, monotonic = time.time(), time.monotonic()
    monkeypatch.setattr("time.time", lambda: clock + jump)
    assert store.session("t") == who  # the clock that nobody can set says so
    store.close()
    store = opened()
    if jump < 0:
        assert store.session("t") == who
        monkeypatch.setattr("tomoni.feedback.store.time.monotonic", lambda: monotonic + 160)
    assert store.session("t") is None


# -- guideline, settings, looking on ---------------------------------------------------------------------------------


def test_a_rule_keeps_its_history(store: Store) -> None:
    who = hanako(store)
    first = store.add_rule("簡潔に答える", by=who.id, examples=["はい。"])
    second = store.add_rule("嘘をつかない")
    store.change_rule(first.id, status="active")
    store.change_rule(first.id, text="簡潔に、丁寧に答える")
    assert [(rule.id, rule.text, rule.status) for rule in store.rules()] == [
        (first.id, "簡潔に、丁寧に答える", "active"),
        (second.id, "嘘をつかない", "proposed"),
    ]
    history = [(rule.text, rule.status) for rule in store.rules(history=True) if rule.id == first.id]
    assert history == [
        ("簡潔に答える", "proposed"), ("簡潔に答える", "active"), ("簡潔に、丁寧に答える", "active"),
    ]  # fmt: skip
    assert store.rules()[0].examples == ("はい。",) and store.rules()[0].by == who.id
    for wrong in ({"status": "gone"}, {"text": " "}, {"created": "x"}):
        with pytest.raises(UserError):
            store.change_rule(first.id, **wrong)
    with pytest.raises(UserError):
        store.change_rule("nothing", text="x")


def test_settings_hold_any_json_value(store: Store) -> None:
    assert store.get("color", "dark") == "dark"
    for value in ({"色": [1, 2.5, None, "\0"]}, None, False, "text"):
        store.set("color", value)
        assert store.get("color", "default") == value
    with pytest.raises(UserError):
        store.set("", 1)


def test_whoever_waits_is_woken_by_the_next_event(store: Store) -> None:
    who = hanako(store)
    before = store.sequence
    woken: list[int] = []
    thread = threading.Thread(target=lambda: woken.append(store.wait(before, 30)))
    thread.start()
    ack = store.judge(judgement("a", who.id), key="a")
    thread.join(30)
    assert woken == [ack.sequence] and store.sequence == ack.sequence > before
    assert store.wait(ack.sequence, 0.01) == ack.sequence


def test_every_change_makes_the_sequence_grow(store: Store) -> None:
    who = hanako(store)
    (prompt,) = store.add_prompts([NewPrompt(ASKED, "typed")])
    rule = store.add_rule("x")
    changes = [
        lambda: store.add_person("新人", role="annotator"),
        lambda: store.change_person(who.id, lang="en"),
        lambda: store.add_prompts([NewPrompt((Message("user", "new"),), "typed")]),
        lambda: store.change_prompt(prompt.id, topic="t"),
        lambda: store.add_answers([Answer(id, prompt.id, "v1", "h", id) for id in "ab"]),
        lambda: store.add_pairs([Pair("p", prompt.id, "a", "b")]),
        lambda: store.judge(judgement("j", who.id), key="k"),
        lambda: store.undo("j", person=who.id, key="u"),
        lambda: store.change_rule(rule.id, text="y"),
        lambda: store.set("a", 1),
    ]
    for change in changes:
        before = store.sequence
        change()
        assert store.sequence > before


def test_readers_see_what_was_acknowledged_and_cannot_write(opened: Opener, tmp_path: Path) -> None:
    store = opened()
    who = hanako(store)
    with Store.read(tmp_path / "w") as reader:
        ack = store.judge(judgement("a", who.id), key="a")
        assert ids(reader) == ["a"] and reader.sequence == ack.sequence
        assert reader.wait(ack.sequence - 1, 5) == ack.sequence and reader.wait(ack.sequence, 0.05) == ack.sequence
        with pytest.raises(UserError, match="reading"):
            reader.judge(judgement("b", who.id), key="b")
        with pytest.raises(Exception, match=r"readonly|read-only"):
            reader.look(lambda connection: connection.execute(insert(schema.settings).values(key="x", value=1)))
    store.close()
    for ask in (lambda: store.judge(judgement("c", who.id), key="c"), store.judgements):
        with pytest.raises(UserError, match="closed"):
            ask()


def test_a_second_writer_is_told_who_writes(opened: Opener, tmp_path: Path) -> None:
    opened()
    with pytest.raises(UserError, match=rf"process {os.getpid()} on .+, since 20"):
        Store.open(tmp_path / "w")
    code = "import sys; from tomoni.feedback.store import Store; Store.open(sys.argv[1])"
    other = subprocess.run([sys.executable, "-c", code, tmp_path / "w"], capture_output=True, text=True, check=False)
    assert other.returncode != 0 and f"process {os.getpid()} on" in other.stderr


def test_two_workspaces_cannot_write_to_one_database(cluster: Cluster, tmp_path: Path) -> None:
    url = cluster.database()
    with Store.open(tmp_path / "a", url=url) as store:
        who = hanako(store)
        with pytest.raises(UserError, match="another process"):
            Store.open(tmp_path / "b", url=url)
        store.judge(judgement("a", who.id), key="a")
    with Store.open(tmp_path / "b") as store:
        assert ids(store) == ["a"]


def test_a_database_server_that_comes_back_is_used_again(cluster: Cluster, tmp_path: Path) -> None:
    with Store.open(tmp_path, url=cluster.database()) as store:
        who = hanako(store)
        store.judge(judgement("a", who.id), key="a")
        cluster.restart()
        with pytest.raises(UserError, match="did not store"):
            store.judge(judgement("b", who.id), key="b")
        store.judge(judgement("b", who.id), key="b")
        assert ids(store) == ["a", "b"]


def test_a_wrong_url_is_refused_without_its_password(tmp_path: Path) -> None:
    for url in ("mysql://u:geheim@h/d", "no url", f"postgresql://u:geheim@/d?host={tmp_path}"):
        with pytest.raises(UserError) as caught:
            Store.open(tmp_path / url[:5], url=url)
        assert "geheim" not in str(caught.value)


def test_a_workspace_keeps_the_database_it_has(cluster: Cluster, tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    with pytest.raises(UserError, match="keeps its judgements"):
        Store.open(tmp_path, url=cluster.database())
    described = json.loads((tmp_path / "workspace.json").read_text())
    assert described["database"] is None and described["schema"] == 1 and len(described["id"]) == 32
    assert (tmp_path / "workspace.json").stat().st_mode & 0o077 == 0


def test_folders_that_are_no_workspace_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no workspace"):
        Store.read(tmp_path)
    (tmp_path / "workspace.json").write_text('{"schema": 2, "id": "x"}')
    with pytest.raises(UserError, match="schema 2"):
        Store.open(tmp_path)
    (tmp_path / "workspace.json").write_text("[]")
    with pytest.raises(UserError, match="damaged"):
        Store.open(tmp_path)


def test_the_database_is_in_the_state_that_keeps_what_is_acknowledged(tmp_path: Path) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1, "mmap_size": 0}
    with Store.open(tmp_path) as store:
        there = store.together(
            lambda connection: {name: connection.execute(text(f"PRAGMA {name}")).scalar() for name in wanted}
        )
    assert there == wanted


def test_the_states_kept_by_the_database_are_those_of_one_look_at_all_events(store: Store) -> None:
    who = hanako(store)
    steps = [("a", None), ("b", "a"), ("c", None), ("d", "b"), ("e", "a"), ("f", "c")]
    for id, replaces in steps:
        store.judge(judgement(id, who.id, replaces=replaces), key=id)
    for n, id in enumerate(["a", "e", "c", "d", "f"]):
        store.undo(id, person=who.id, key=f"u{n}")
        assert [one.judgement.id for one in standing(store.judgements(live=False)).live] == ids(store)


def test_all_kinds_have_a_value_to_test_with() -> None:
    assert set(VALUES) == set(Kind)
