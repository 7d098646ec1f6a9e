"""The inbox: what the server writes comes into the store, once each; what is damaged is kept aside and counted."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from tests.feedback.conftest import Opener
from tests.feedback.saying import ASKED
from tomoni.feedback import inbox as inbox_module
from tomoni.feedback import intake
from tomoni.feedback.entries import NewPrompt
from tomoni.feedback.inbox import (
    AnswerEvent,
    Event,
    FeedbackEvent,
    Inbox,
    PairAnswer,
    PairEvent,
    PromptEvent,
    event_of,
    line_of,
)
from tomoni.feedback.store import Store
from tomoni.records import Kind, Message

FEATURES = np.array([0.25, -1.5, 3e-39], dtype=np.float32)


def answered(id: str = "chatcmpl-1", **more: object) -> AnswerEvent:
    return AnswerEvent(id, ASKED, "v1", "ab", "東京です。", FEATURES, -3.5, 4, {"seed": 1}, "営業部", **more)  # type: ignore[arg-type]


def segments(workspace: Path) -> list[Path]:
    return sorted((workspace / "inbox").glob("*.jsonl"))


@pytest.fixture
def workspace(opened: Opener, tmp_path: Path) -> Path:
    opened().close()
    return tmp_path / "w"


def test_an_answer_comes_in_with_its_prompt_and_features(opened: Opener, workspace: Path) -> None:
    store = opened()
    Inbox(workspace).append([answered()])
    assert store.take_in() == 1
    answer = store.answer("chatcmpl-1")
    assert answer.features is not None and answer.features.tobytes() == FEATURES.tobytes()
    assert (answer.text, answer.logprob, answer.tokens, answer.how) == ("東京です。", -3.5, 4, {"seed": 1})
    prompt = store.prompt(answer.prompt)
    assert (prompt.messages, prompt.provenance, prompt.by) == (ASKED, "traffic", "api:営業部")


def test_feedback_becomes_judgements_of_a_person_of_the_application(opened: Opener, workspace: Path) -> None:
    store = opened()
    told = FeedbackEvent(
        "chatcmpl-1", "ann@example.com", up=False, stars=2, correction="東京都です。", comment="短い", flags=("untrue",),
        tags=("事実",),
    )  # fmt: skip
    Inbox(workspace).append([answered(), told, PromptEvent((Message("user", "もう一つ"),), "ann@example.com")])
    assert store.take_in() == 3
    said = {one.judgement.kind: one.judgement for one in store.judgements()}
    assert said[Kind.THUMB].value == {"answer": 0, "up": False}
    assert said[Kind.RATING].value == {"answer": 0, "stars": 2}
    assert said[Kind.CORRECTION].value == {"answer": 0, "text": "東京都です。"}
    assert said[Kind.FLAG].value == {"answer": 0, "harmful": False, "private": False, "untrue": True}
    assert said[Kind.COMMENT].comment == "短い"
    for judgement in said.values():
        assert judgement.person == "api:ann@example.com" and judgement.tags == ("事実",)
        assert (
            judgement.prompt == ASKED and judgement.answers == ("東京です。",) and judgement.model_versions == ("v1",)
        )
        assert judgement.extra["answers"] == ["chatcmpl-1"]
    assert len(store.prompts()) == 2


def test_the_same_event_in_two_segments_counts_once(opened: Opener, workspace: Path) -> None:
    store = opened()
    told = FeedbackEvent("chatcmpl-1", "ann", up=True)
    for _ in range(2):
        box = Inbox(workspace)
        box.append([answered(), told])
        box.close()
    store.take_in()
    assert store.count_judgements() == 1 and len(store.answers()) == 1


def test_feedback_that_comes_before_its_answer_waits_for_it(opened: Opener, workspace: Path) -> None:
    store = opened()
    box = Inbox(workspace)
    box.append([FeedbackEvent("later", "ann", up=True)])
    store.take_in()
    (waiting,) = store.kept_aside()
    assert waiting.waits and store.count_judgements() == 0
    box.append([answered("later")])
    assert store.take_in() == 2
    assert store.kept_aside() == [] and store.count_judgements() == 1


DAMAGED = [
    b"{not json\n",
    b'{"type":"answer"}\n',
    b'{"type":"dance","event":"x","at":"y"}\n',
    b"[1]\n",
    b"null\n",
    b"\xff\xfe\n",
    b'{"type":"prompt","event":"e","at":"t","messages":"text"}\n',
    b'{"type":"prompt","event":"e","at":"t","messages":[]}\n',
    b'{"type":"feedback","event":"e","at":"t","completion":"chatcmpl-1","person":"ann","stars":9}\n',
    b'{"type":"feedback","event":"e","at":"t","completion":"chatcmpl-1","person":"ann"}\n',
    b'{"type":"feedback","event":"e","at":"t","completion":"chatcmpl-1","person":"ann","flags":["ugly"]}\n',
    line_of(answered("bad")).replace(b'"features":"', b'"features":"!'),
]


def test_damaged_lines_are_kept_aside_with_their_reason_and_the_others_come_in(opened: Opener, workspace: Path) -> None:
    store = opened()
    box = Inbox(workspace)
    box.append([answered()])
    box.close()
    (segment,) = segments(workspace)
    segment.write_bytes(
        segment.read_bytes() + b"\n  \n" + b"".join(DAMAGED) + line_of(FeedbackEvent("chatcmpl-1", "b", up=True))
    )
    assert store.take_in() == 2
    aside = store.kept_aside()
    assert [one.line for one in aside] == DAMAGED and all(one.reason and not one.waits for one in aside)
    assert segments(workspace) == [] and store.take_in() == 0
    assert len(store.kept_aside()) == len(DAMAGED)


def test_a_torn_last_line_waits_while_its_writer_lives_and_is_kept_aside_after(opened: Opener, workspace: Path) -> None:
    store = opened()
    box = Inbox(workspace)
    box.append([answered()])
    (segment,) = segments(workspace)
    whole = line_of(FeedbackEvent("chatcmpl-1", "ann", up=True))
    with segment.open("ab") as handle:
        handle.write(whole[:-30])
    assert store.take_in() == 1 and store.kept_aside() == []
    with segment.open("ab") as handle:
        handle.write(whole[-30:] + whole[:10])
    assert store.take_in() == 1 and segments(workspace) == [segment]
    box.close()
    assert store.take_in() == 0
    assert [one.line for one in store.kept_aside()] == [whole[:10]]
    assert segments(workspace) == []


def test_a_segment_is_removed_only_after_what_it_held_is_on_the_disk(
    opened: Opener, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    box = Inbox(workspace)
    box.append([answered()])
    box.close()
    (segment,) = segments(workspace)

    def cut_off(connection: Connection, *rest: object) -> int:
        original(connection, *rest)  # type: ignore[arg-type]
        raise KeyError("cut off before the commit")

    original = intake._take
    monkeypatch.setattr(intake, "_take", cut_off)
    with pytest.raises(KeyError):
        store.take_in()
    assert segment.exists() and store.answers() == []
    monkeypatch.undo()
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError("cut off after it")))
    with pytest.raises(OSError, match="cut off"):
        store.take_in()
    monkeypatch.undo()
    assert segment.exists() and len(store.answers()) == 1
    assert store.take_in() == 0 and not segment.exists()


def test_a_long_segment_is_followed_by_another(
    opened: Opener, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "LONGEST_SEGMENT", 2000)
    store = opened()
    box = Inbox(workspace)
    for number in range(20):
        box.append([answered(f"c{number}")])
    assert len(segments(workspace)) > 3
    assert store.take_in() == 20
    assert len(segments(workspace)) == 1  # the one that is still written to


def test_many_threads_and_processes_lose_nothing(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        boxes = [Inbox(tmp_path) for _ in range(3)]  # each as another process would have it

        def write(number: int) -> None:
            for part in range(10):
                boxes[number % 3].append([answered(f"c{number}-{part}")])

        threads = [threading.Thread(target=write, args=(number,)) for number in range(9)]
        for thread in threads:
            thread.start()
        taken = 0
        while any(thread.is_alive() for thread in threads):
            taken += store.take_in()
        taken += store.take_in()
        assert taken == 90 and len(store.answers()) == 90


def test_the_inbox_makes_nothing_before_the_first_event(tmp_path: Path) -> None:
    box = Inbox(tmp_path)
    box.append([])
    box.close()
    assert list(tmp_path.iterdir()) == []
    with Store.open(tmp_path) as store:
        assert store.take_in() == 0


def test_only_the_owner_may_read_the_inbox(tmp_path: Path) -> None:
    Inbox(tmp_path).append([answered()])
    (segment,) = segments(tmp_path)
    assert os.stat(segment).st_mode & 0o077 == 0


def test_a_pair_is_asked_once_and_its_prompt_is_held_out_from_then_on(opened: Opener, workspace: Path) -> None:
    store = opened()
    store.add_prompts([NewPrompt(ASKED, "typed", topic="首都")])
    answers = (PairAnswer("r1-0", "v1", "a" * 64, "東京です。"), PairAnswer("r1-1", "v2", "b" * 64, "東京都です。"))
    event = PairEvent("r1", ASKED, answers, topic="首都")
    Inbox(workspace).append([event, event])
    Inbox(workspace).append([event])
    store.take_in()
    (pair,) = store.pairs(purpose="gate")
    assert (pair.id, pair.first, pair.second, pair.selected_by) == ("r1", "r1-0", "r1-1", "random")
    assert [store.answer(id).version for id in (pair.first, pair.second)] == ["v1", "v2"]
    (prompt,) = store.prompts()
    assert prompt.held_out and prompt.provenance == "typed" and prompt.topic == "首都"
    assert not store.kept_aside()


def test_a_pair_without_two_answers_or_for_no_known_purpose_is_kept_aside(opened: Opener, workspace: Path) -> None:
    store = opened()
    answers = (PairAnswer("r1-0", "v1", "a" * 64, "a"), PairAnswer("r1-1", "v2", "b" * 64, "b"))
    body = json.loads(line_of(PairEvent("r1", ASKED, answers)))
    for change in ({"answers": body["answers"][:1]}, {"purpose": "bribe"}, {"answers": [1, 2]}):
        (workspace / "inbox").mkdir(exist_ok=True)
        (workspace / "inbox" / f"{len(str(change))}.jsonl").write_text(json.dumps(body | change) + "\n")
    assert store.take_in() == 0
    assert len(store.kept_aside()) == 3 and not store.pairs()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
EVENTS = st.one_of(
    st.builds(
        FeedbackEvent, TEXT, TEXT, up=st.none() | st.booleans(), stars=st.none() | st.integers(1, 5),
        correction=st.none() | TEXT, comment=TEXT, flags=st.lists(st.sampled_from(["harmful"])).map(tuple),
        tags=st.lists(TEXT).map(tuple),
    ),
    st.builds(
        PairEvent, TEXT, st.lists(st.builds(Message, st.just("user"), TEXT)).map(tuple),
        st.tuples(*[st.builds(PairAnswer, TEXT, TEXT, TEXT, TEXT, st.integers(0, 99))] * 2),
        st.sampled_from(["gate", "learn"]), TEXT, TEXT,
    ),
    st.builds(
        PromptEvent, st.lists(st.builds(Message, st.sampled_from(["user", "assistant"]), TEXT)).map(tuple), st.none() | TEXT
    ),
)  # fmt: skip


@given(EVENTS)
@settings(max_examples=60)
def test_an_event_is_one_line_and_comes_back_as_it_was(event: Event) -> None:
    line = line_of(event)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert event_of(line) == event


def test_an_answer_event_comes_back_as_it_was() -> None:
    back = event_of(line_of(answered()))
    assert isinstance(back, AnswerEvent) and back.features is not None
    assert back.features.tobytes() == FEATURES.tobytes() and json.loads(line_of(back)) == json.loads(line_of(back))
    assert (back.id, back.messages, back.how, back.by) == ("chatcmpl-1", ASKED, {"seed": 1}, "営業部")
