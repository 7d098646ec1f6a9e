"""What people said becomes training data: exactly as the table in `resolve` says, and the same bytes every time."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.feedback.saying import ASKED, VALUES, judgement
from tomoni.data.read import read
from tomoni.feedback import snapshot as snapshots
from tomoni.feedback.entries import Stored, prompt_id
from tomoni.feedback.resolve import resolve
from tomoni.feedback.snapshot import Snapshot
from tomoni.feedback.weights import Weight
from tomoni.records import Chat, Comparison, Judgement, Kind, Message, Rated, Verdict

OTHER = (Message("user", "二番目の質問"),)


def stored(*said: Judgement) -> list[Stored]:
    return [Stored(number, one, "2026-01-01T00:00:00+00:00") for number, one in enumerate(said, start=1)]


def compared(id: str, verdict: str, person: str = "p", **more: Any) -> Judgement:
    strength = more.pop("strength", 0)
    return judgement(id, person, value={"verdict": verdict, "strength": strength}, **more)


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def test_a_preference_becomes_a_comparison_in_stored_order(tmp_path: Path) -> None:
    said = compared(
        "a", "second", strength=3, extra={"pair": "p1", "answers": ["x", "y"], "prompt": "q", "selected_by": "vopt"}
    )
    snapshot = resolve(stored(said), weights={"p": Weight(0.5, 0.2)})
    (comparison,) = snapshot.comparisons
    assert (comparison.verdict, comparison.weight, comparison.margin, comparison.noise) == (
        Verdict.SECOND,
        0.5,
        1.0,
        0.2,
    )
    assert [comparison.first[0].content, comparison.second[0].content] == ["東京です。", "京都だよ👘"]
    assert comparison.extra["order"] == [1, 0] and comparison.extra["answers"] == ["x", "y"]
    (row,) = rows(snapshot.write(tmp_path), "pairs.jsonl")
    assert row["chosen"] == [{"role": "assistant", "content": "京都だよ👘"}]
    assert row["rejected"] == [{"role": "assistant", "content": "東京です。"}]
    assert (snapshot.judgements, snapshot.people, dict(snapshot.left_out)) == (1, ("p",), {})


def test_about_equal_is_a_tie_for_the_reward_head_and_no_row_of_pairs(tmp_path: Path) -> None:
    snapshot = resolve(stored(compared("a", "tie")))
    (comparison,) = snapshot.comparisons
    assert comparison.verdict is Verdict.TIE and snapshot.ties == 1 and snapshot.judgements == 1
    folder = snapshot.write(tmp_path)
    assert rows(folder, "pairs.jsonl") == []
    (row,) = rows(folder, "ties.jsonl")
    assert {"first", "second"} <= set(row) and not {"chosen", "rejected"} & set(row)


def test_both_bad_trains_nothing_and_is_counted() -> None:
    snapshot = resolve(stored(compared("a", "both_bad")))
    assert snapshot.empty and dict(snapshot.left_out) == {"both bad": 1} and snapshot.judgements == 0


def test_a_correction_is_a_conversation_and_better_than_what_was_shown() -> None:
    snapshot = resolve(stored(judgement("a", "p", Kind.CORRECTION)))
    (chat,) = snapshot.corrections
    assert [message.content for message in chat.messages] == [*(m.content for m in ASKED), "東京です。"]
    (comparison,) = snapshot.comparisons
    assert comparison.verdict is Verdict.FIRST and comparison.id == "a-corrected"
    assert [comparison.first[0].content, comparison.second[0].content] == ["東京です。", "京都だよ👘"]
    assert snapshot.judgements == 1


def test_an_edit_of_the_better_answer_stands_beside_the_comparison() -> None:
    edit = judgement("b", "p", Kind.CORRECTION, {"answer": 0, "text": "東京都です。"}, extra={"edited": True})
    snapshot = resolve(stored(compared("a", "first"), edit))
    told = [(c.first[0].content, c.second[0].content, c.verdict) for c in snapshot.comparisons]
    assert told == [
        ("東京です。", "京都だよ👘", Verdict.FIRST), ("東京都です。", "東京です。", Verdict.FIRST),
    ]  # fmt: skip
    assert len(snapshot.corrections) == 1


@pytest.mark.parametrize("text", ["京都だよ👘", " 京都だよ👘\n"])
def test_a_correction_that_changes_nothing_is_none(text: str) -> None:
    snapshot = resolve(stored(judgement("a", "p", Kind.CORRECTION, {"answer": 1, "text": text})))
    assert snapshot.empty and dict(snapshot.left_out) == {"a correction that changes nothing": 1}


def test_a_demonstration_without_a_shown_answer_is_a_conversation_only() -> None:
    said = judgement("a", "p", Kind.CORRECTION, {"answer": 0, "text": "はい。"}, answers=("",))
    snapshot = resolve(stored(said))
    assert len(snapshot.corrections) == 1 and snapshot.comparisons == []


def test_thumbs_and_clear_stars_are_thumbs_and_three_stars_are_counted() -> None:
    said = [judgement("t", "p", Kind.THUMB, {"answer": 0, "up": False})]
    said += [judgement(f"s{n}", f"p{n}", Kind.RATING, {"answer": 1, "stars": n}) for n in range(1, 6)]
    snapshot = resolve(stored(*said), weights={"p5": Weight(0.25)})
    assert [(rated.id, rated.good) for rated in snapshot.thumbs] == [
        ("t", False), ("s1", False), ("s2", False), ("s4", True), ("s5", True),
    ]  # fmt: skip
    assert snapshot.thumbs[-1].weight == 0.25
    assert dict(snapshot.left_out) == {"neither good nor bad (3 stars)": 1}


@pytest.mark.parametrize("flag", ["harmful", "private", "untrue"])
def test_a_flagged_answer_is_never_trained_toward_whoever_liked_it(flag: str) -> None:
    flagged = judgement("f", "other", Kind.FLAG, {"answer": 0, flag: True})
    good = "東京です。"
    said = [
        compared("a", "first"), compared("b", "second", "p2"), compared("c", "tie", "p3"),
        judgement("d", "p", Kind.THUMB, {"answer": 0, "up": True}),
        judgement("e", "p2", Kind.THUMB, {"answer": 0, "up": False}),
        judgement("g", "p", Kind.CORRECTION, {"answer": 1, "text": f" {good} "}),
        compared("h", "first", prompt=OTHER),
    ]  # fmt: skip
    for order in ([flagged, *said], [*said, flagged]):
        snapshot = resolve(stored(*order))
        assert [comparison.id for comparison in snapshot.comparisons] == ["b", "h"]  # away from it, and another prompt
        assert [rated.id for rated in snapshot.thumbs] == ["e"] and snapshot.corrections == []
        assert dict(snapshot.left_out) == {"flags": 1, "the better answer is flagged": 4}
    second = judgement("f", "other", Kind.FLAG, {"answer": 1, flag: True})
    assert [c.id for c in resolve(stored(*said, second)).comparisons] == ["a", "g-corrected", "h"]
    ignored = resolve(stored(flagged, compared("a", "first")), weights={"other": Weight(0)})
    assert len(ignored.comparisons) == 1
    taken_back = judgement("f2", "other", Kind.FLAG, {"answer": 0}, replaces="f")
    assert len(resolve(stored(flagged, taken_back, compared("a", "first"))).comparisons) == 1


@pytest.mark.parametrize("purpose", ["gold", "gate", "repeat"])
def test_what_measures_is_never_trained_on(purpose: str) -> None:
    said = [
        judgement(f"j{kind.value}", "p", kind, extra={"purpose": purpose})
        for kind in Kind if kind is not Kind.UNDO
    ]  # fmt: skip
    snapshot = resolve(stored(*said))
    assert snapshot.empty and dict(snapshot.left_out) == {f"on a {purpose} pair": len(said)}


@pytest.mark.parametrize("purpose", ["train", "overlap", "learn", "review"])
def test_the_other_purposes_are(purpose: str) -> None:
    assert len(resolve(stored(compared("a", "first", extra={"purpose": purpose}))).comparisons) == 1


def test_held_out_prompts_are_kept_apart_by_what_they_say() -> None:
    said = [compared("a", "first"), compared("b", "first", prompt=OTHER), compared("c", "first", "p2", prompt=OTHER)]
    snapshot = resolve(stored(*said), held_out={prompt_id(OTHER)})
    assert [comparison.id for comparison in snapshot.comparisons] == ["a"]
    assert dict(snapshot.left_out) == {"on a held-out prompt": 2}


def test_several_people_on_one_pair_stay_several_comparisons() -> None:
    said = [compared("a", "first", "p1"), compared("b", "second", "p2"), compared("c", "first", "p3")]
    snapshot = resolve(stored(*said), weights={"p1": Weight(1, 0.1), "p2": Weight(0.5, 0.3), "p3": Weight(0)})
    assert [(c.id, c.weight, c.noise) for c in snapshot.comparisons] == [("a", 1, 0.1), ("b", 0.5, 0.3)]
    assert dict(snapshot.left_out) == {"of a person whose judgements weigh nothing": 1}
    assert snapshot.people == ("p1", "p2")


def test_one_person_on_one_pair_counts_once_by_the_last_word_and_contradictions_are_counted() -> None:
    swapped = ("京都だよ👘", "東京です。")
    said = [
        compared("a", "first"), compared("b", "second"), compared("c", "first", answers=swapped), compared("d", "tie"),
        compared("e", "tie"), judgement("t", "p", Kind.THUMB), judgement("s", "p", Kind.RATING),
        judgement("s2", "p", Kind.RATING, {"answer": 0, "stars": 1}),
    ]  # fmt: skip
    snapshot = resolve(stored(*said))
    assert [comparison.id for comparison in snapshot.comparisons] == ["e"]
    assert [rated.id for rated in snapshot.thumbs] == ["s2"]
    # a-b contradict; b-c agree (京都 is better, the other way round); c-d contradict; d-e agree; t-s agree; s-s2 contradict
    assert dict(snapshot.left_out) == {
        "contradicted by the same person later": 3, "said again by the same person": 3,
    }  # fmt: skip


def test_what_was_replaced_or_undone_is_counted_and_not_used() -> None:
    said = [
        compared("a", "first"), compared("b", "second", replaces="a"), compared("c", "first", prompt=OTHER),
        judgement("u", "p", Kind.UNDO, {}, replaces="c", answers=()), judgement("d", "p", Kind.COMMENT),
        judgement("e", "p", Kind.COMMENT, comment="", extra={"skipped": True}),
    ]  # fmt: skip
    snapshot = resolve(stored(*said))
    assert [(comparison.id, comparison.verdict) for comparison in snapshot.comparisons] == [("b", Verdict.SECOND)]
    assert dict(snapshot.left_out) == {"replaced by a later judgement": 1, "undone": 1, "comments": 1, "skipped": 1}


def test_what_the_trainers_would_refuse_is_left_out_with_their_reason() -> None:
    said = [
        compared("same", "first", answers=("x", "x")),
        compared("empty", "first", answers=("x", " ")),
        compared("two", "first", prompt=(Message("system", "a"), Message("system", "b"), Message("user", "c"))),
        judgement("half", "p", Kind.THUMB, answers=("\ud800",)),
    ]
    snapshot = resolve(stored(*said))
    assert snapshot.empty
    assert dict(snapshot.left_out) == {
        "cannot be trained on (empty)": 1, "cannot be trained on (lone_surrogate)": 1,
        "cannot be trained on (same_answers)": 1, "cannot be trained on (two_systems)": 1,
    }  # fmt: skip


def test_the_files_are_read_as_they_are_and_say_what_the_snapshot_says(tmp_path: Path) -> None:
    talk = (Message("user", "やあ"), Message("assistant", "こんにちは"), Message("user", "日本の首都は？"))
    said = [
        compared("a", "first", strength=1), compared("b", "second", "p2", prompt=talk), compared("c", "tie", "p3"),
        judgement("d", "p", Kind.CORRECTION, prompt=talk), judgement("e", "p", Kind.THUMB),
    ]  # fmt: skip
    snapshot = resolve(stored(*said), weights={"p2": Weight(0.5, 0.25)})
    folder = snapshot.write(tmp_path)

    pairs = [record for record in read([folder / "pairs.jsonl"]) if isinstance(record, Comparison)]
    decided = [comparison for comparison in snapshot.comparisons if comparison.verdict is not Verdict.TIE]
    assert [record.id for record in pairs] == [comparison.id for comparison in decided]
    for record, comparison in zip(pairs, decided, strict=True):
        sides = (comparison.first, comparison.second)
        assert (record.first, record.second) == (sides if comparison.verdict is Verdict.FIRST else sides[::-1])
        assert (record.prompt, record.weight, record.margin, record.noise) == (
            comparison.prompt, comparison.weight, comparison.margin, comparison.noise,
        )  # fmt: skip
    (chat,) = [record for record in read([folder / "sft.jsonl"]) if isinstance(record, Chat)]
    assert chat.messages == snapshot.corrections[0].messages
    assert chat.messages[1].train is False  # only the correction is learnt, not what the model said before
    (rated,) = [record for record in read([folder / "thumbs.jsonl"]) if isinstance(record, Rated)]
    assert (rated.prompt, rated.completion, rated.good) == (ASKED, snapshot.thumbs[0].completion, True)


def test_a_snapshot_is_written_once_and_mended_where_it_was_damaged(tmp_path: Path) -> None:
    snapshot = resolve(stored(compared("a", "first"), judgement("b", "p", Kind.THUMB)))
    folder = snapshot.write(tmp_path)
    assert folder == tmp_path / "snapshots" / snapshot.hash and snapshots.is_whole(folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert snapshot.write(tmp_path) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    (folder / "pairs.jsonl").write_text("")
    assert not snapshots.is_whole(folder)
    snapshot.write(tmp_path)
    assert snapshots.is_whole(folder) and not list((tmp_path / "snapshots").glob(".*"))
    shutil.rmtree(folder)


PEOPLE = st.sampled_from(["p", "q", "r"])
ANSWERS = st.permutations(["はい。", "いいえ。", "わかりません。"]).map(lambda texts: (texts[0], texts[1]))
ONE = st.builds(
    lambda kind, person, answers, prompt, verdict, up, stars: judgement(
        "", person, kind,
        {
            Kind.COMPARISON: {"verdict": verdict}, Kind.THUMB: {"answer": 0, "up": up}, Kind.RATING: {"answer": 0, "stars": stars},
        }.get(kind, VALUES[kind]),
        answers=answers, prompt=prompt,
    ),
    st.sampled_from([kind for kind in Kind if kind is not Kind.UNDO]), PEOPLE, ANSWERS, st.sampled_from([ASKED, OTHER]),
    st.sampled_from([verdict.value for verdict in Verdict]), st.booleans(), st.integers(1, 5),
)  # fmt: skip
HISTORY = st.lists(ONE, max_size=25).map(lambda said: [replace(one, id=f"j{n}") for n, one in enumerate(said)])


def contents(snapshot: Snapshot) -> dict[str, str]:
    return snapshot.files()


@given(HISTORY, st.randoms(use_true_random=False), PEOPLE)
@settings(max_examples=80)
def test_the_same_judgements_give_the_same_bytes_and_without_one_person_those_without_them(
    said: list[Judgement], random: Any, leaving: str
) -> None:
    everything = stored(*said)
    first = resolve(everything)
    shuffled = list(everything)
    random.shuffle(shuffled)
    assert contents(resolve(shuffled)) == contents(first)
    # in another database, with other numbers and times
    elsewhere = [replace(one, sequence=one.sequence * 7 + 3, received="2030-01-01") for one in everything]
    assert contents(resolve(elsewhere)) == contents(first)
    others = [one for one in said if one.person != leaving]
    left = [one for one in everything if one.judgement.person != leaving]
    assert contents(resolve(left)) == contents(resolve(stored(*others)))
    assert leaving not in resolve(left).people


@given(HISTORY)
@settings(max_examples=80)
def test_every_judgement_is_used_or_counted(said: list[Judgement]) -> None:
    snapshot = resolve(stored(*said))
    assert snapshot.judgements + sum(snapshot.left_out.values()) == len(said)
    assert not any(comparison.verdict is Verdict.BOTH_BAD for comparison in snapshot.comparisons)
