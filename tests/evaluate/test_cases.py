"""What several models are asked alike, and the classical baseline."""

from __future__ import annotations

from pathlib import Path

import pytest

from tomoni.errors import ConfigError, DataError
from tomoni.evaluate.cases import PROMPT, Case, Cases, cases_of, check_prompt, is_right, messages_of
from tomoni.evaluate.classical import fit, load, save
from tomoni.records import Chat, Labelled, Message, Source, Tagged, TextPair

HERE = Source("held.jsonl", 3)
WORDS = {"天気": ("晴れ", "雨", "雪"), "食べ物": ("寿司", "パン", "うどん"), "sport": ("ball", "run", "swim")}


def texts(count: int = 60) -> Cases:
    found = []
    for number in range(count):
        label, words = list(WORDS.items())[number % 3]
        found.append(Labelled(str(number), HERE, f"{words[number // 3 % 3]}の話{number}", label))
    return cases_of(found)


def talk(asked: str, answer: str) -> Chat:
    return Chat(asked, HERE, (Message("user", asked), Message("assistant", answer)))


def test_labels_pairs_and_conversations_become_cases() -> None:
    some = cases_of([Labelled("1", HERE, "雨", "天気"), TextPair("2", HERE, "a", "b", 1.0)])
    assert some.classes == ("1", "天気")
    assert some.cases[1].texts == ("a", "b")
    chat = cases_of([talk("首都は?", "東京")])
    assert chat.classes == ()
    assert chat.cases[0] == Case("首都は?", ("首都は?",), "東京", (("user", "首都は?"),))


@pytest.mark.parametrize(
    "record",
    [Labelled("1", HERE, "雨", ("a", "b")), Labelled("1", HERE, "雨", 1.5), Tagged("1", HERE, "雨", ())],
)
def test_what_has_no_single_right_answer_is_named(record: Labelled | Tagged) -> None:
    with pytest.raises(DataError, match=r"held\.jsonl:3"):
        cases_of([record])


def test_labels_and_conversations_are_not_mixed() -> None:
    with pytest.raises(DataError, match="mixed"):
        cases_of([Labelled("1", HERE, "雨", "天気"), talk("a", "b")])


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("天気", True),
        ("「天気」。", True),
        ("\n 天気 \n because it rains", True),
        ("天気です", False),
        ("", False),
        ("食べ物", False),
    ],
)
def test_a_class_is_right_alone_on_the_first_line(answer: str, right: bool) -> None:
    assert is_right(Case("1", ("雨",), "天気"), answer) is right
    assert is_right(Case("1", ("x",), "Card Lost"), "card lost.")  # case and a full stop do not matter


def test_a_conversation_is_judged_as_evaluate_judges_it() -> None:
    case = Case("1", ("q",), "ﾄｳｷｮｳ", (("user", "q"),))
    assert is_right(case, "トウキョウ")
    assert not is_right(case, "トウキョウ。")


def test_the_prompt_holds_text_classes_and_examples_in_turn() -> None:
    turns = messages_of(Case("1", ("雨{x}",), "天気"), ("天気", "食べ物"), PROMPT, [Case("0", ("寿司",), "食べ物")])
    assert [turn.role for turn in turns] == ["user", "assistant", "user"]
    assert turns[1].content == "食べ物"
    assert "雨{x}" in turns[2].content
    assert "天気, 食べ物" in turns[2].content


@pytest.mark.parametrize("prompt", ["no place", "{text} {other}", "{text", "{}"])
def test_a_prompt_without_a_place_for_the_text_is_refused(prompt: str) -> None:
    with pytest.raises(ConfigError, match="--prompt"):
        check_prompt(prompt)


def test_cases_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    for some in (texts(5), cases_of([talk("首都は?", "東京")])):
        some.save(tmp_path / "cases.json")
        assert Cases.load(tmp_path / "cases.json") == some


@pytest.mark.parametrize("classes", [2, 3])
def test_the_classical_model_learns_classes_and_is_the_same_from_disk(tmp_path: Path, classes: int) -> None:
    some = texts()
    kept = Cases(tuple(case for case in some.cases if case.desired in list(WORDS)[:classes]), some.classes)
    model = fit(kept)
    asked = [case.texts for case in kept.cases]
    assert model.answer(asked) == [case.desired for case in kept.cases]
    save(model, tmp_path / "m")
    assert load(tmp_path / "m").answer(asked) == model.answer(asked)


def test_free_answers_are_those_of_the_most_similar_text(tmp_path: Path) -> None:
    model = fit(
        cases_of([talk(f"{place}の名物は?", f"{place}まんじゅう") for place in ("熊本", "青森", "奈良", "Osaka")])
    )
    assert model.answer([("青森で名物は何ですか",), ("Osaka?",)]) == ["青森まんじゅう", "Osakaまんじゅう"]
    save(model, tmp_path / "m")
    assert load(tmp_path / "m").answer([("奈良",)]) == ["奈良まんじゅう"]


def test_one_answer_alone_cannot_be_learnt() -> None:
    with pytest.raises(DataError, match="the same"):
        fit(cases_of([talk("a", "yes"), talk("b", "yes")]))
