"""The invented world: the same from the same seed, told alike in both languages, and nothing held out leaks."""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
import sys
from itertools import islice

import pytest

from tomoni.world import (
    World,
    bundled_world,
    classified_texts,
    example_questions,
    follow_ups,
    held_out_questions,
    is_right,
    most_frequent_answers,
    pretraining_documents,
    safety_cases,
    scenes,
    span_questions,
    tagged_texts,
    taste_of,
    tuning_questions,
    what_it_knows,
)
from tomoni.world.ask import SHAPES
from tomoni.world.facts import FACTS_OF
from tomoni.world.names import LANGS, Lang
from tomoni.world.tell import tell, wording_of
from tomoni.world.wording import REGISTERS, inflect

WORLD = bundled_world()
DOCUMENTS = list(pretraining_documents(WORLD, 1, 6000))


def test_the_bundled_world_and_its_text_are_pinned() -> None:
    facts = "\n".join(
        f"{e.id} {e.split} {e.name.en} {e.name.ja} {fact.key} {fact.value.en} {fact.value.ja}"
        for e in WORLD.entities
        for fact in e.facts
    )
    assert hashlib.sha256(facts.encode()).hexdigest()[:16] == "48cb1a7b3777033a"
    text = "\n".join(DOCUMENTS[:200])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "a5e3cca8601140da"


def test_another_seed_gives_another_world_and_other_text() -> None:
    assert World.generate(8).entities != WORLD.entities
    assert list(pretraining_documents(WORLD, 2, 50)) != DOCUMENTS[:50]


def test_documents_are_hardly_ever_repeated() -> None:
    assert len(set(DOCUMENTS)) > 0.97 * len(DOCUMENTS)


def test_names_are_unique_in_both_languages() -> None:
    for lang in LANGS:
        assert len({entity.name.of(lang) for entity in WORLD.entities}) == len(WORLD.entities)


def test_every_entity_has_the_facts_of_its_kind_and_both_splits_have_every_kind() -> None:
    for entity in WORLD.entities:
        assert tuple(fact.key for fact in entity.facts) == FACTS_OF[entity.kind]
    for kind in FACTS_OF:
        assert WORLD.of(kind=kind, split="tuned")
        assert WORLD.of(kind=kind, split="held_out")


@pytest.mark.parametrize("lang", LANGS)
def test_every_fact_can_be_told_in_eight_ways_and_asked_in_eight(lang: Lang) -> None:
    for kind, keys in FACTS_OF.items():
        entity = WORLD.of(kind=kind)[0]
        for key in keys:
            wording = wording_of(entity, key, lang)
            assert wording.ways_to_tell() >= 8
            assert 3 * (len(wording.direct) + len(wording.indirect) + len(wording.topic)) >= 8


@pytest.mark.parametrize("lang", LANGS)
def test_no_answer_is_worded_like_running_text_and_no_unseen_wording_is_a_seen_one(lang: Lang) -> None:
    for kind, keys in FACTS_OF.items():
        for key in keys:
            wording = wording_of(WORLD.of(kind=kind)[0], key, lang)
            particle = "{s} " if lang == "en" else "{s}は"
            told = {*wording.sentences, *(particle + text for text in wording.predicates)}
            for register in REGISTERS:
                said = {inflect(text, register) for text in told}
                assert not said & {inflect(text, register) for text in wording.answers}
            for shape in SHAPES:
                assert not set(getattr(wording, shape)) & set(getattr(wording, f"unseen_{shape}"))


def test_no_held_out_question_or_answer_occurs_in_any_training_text() -> None:
    tuning = list(tuning_questions(WORLD, 900, seed=0))
    training = "\n".join(DOCUMENTS + [message["content"] for record in tuning for message in record["messages"]])
    held_out = [
        *held_out_questions(WORLD, 700, 0),
        *held_out_questions(WORLD, 700, 0, phrasing="unseen"),
    ]
    assert {WORLD.by_id[record["entity"]].split for record in tuning} == {"tuned"}
    assert {WORLD.by_id[record["entity"]].split for record in held_out} == {"held_out"}
    for record in held_out:
        question, answer = (message["content"] for message in record["messages"])
        assert question not in training
        assert answer not in training


def test_held_out_values_do_occur_in_the_running_text_of_their_entity() -> None:
    told = 0
    held_out = list(held_out_questions(WORLD, 400, 0))
    for record in held_out:
        name = WORLD.by_id[record["entity"]].name.of(record["lang"])
        told += any(name in text and record["answer"] in text for text in DOCUMENTS)
    assert told > 0.98 * len(held_out)


@pytest.mark.parametrize("lang", LANGS)
def test_a_telling_names_its_entity_and_says_only_what_is_true(lang: Lang) -> None:
    rng = random.Random(4)
    for entity in WORLD.of(kind="station"):
        text = tell(entity, lang, "polite", rng)
        assert entity.name.of(lang) in text
        wrong = [value for value in WORLD.values("line", lang) if value != entity.value("line").of(lang)]
        assert not any(value in text for value in wrong)


def test_polite_japanese_ends_in_desu_or_masu_and_plain_does_not() -> None:
    rng = random.Random(5)
    for entity in WORLD.of(kind="shop")[:40]:
        for clause in tell(entity, "ja", "polite", rng).rstrip("。").split("。"):
            assert clause.endswith(("です", "ます", "ました"))
        for clause in tell(entity, "ja", "plain", rng).rstrip("。").split("。"):
            assert not clause.endswith(("です", "ます", "ました"))


def test_an_answer_is_right_only_with_the_value_and_no_other_of_its_kind() -> None:
    asked = {"fact": "opens", "lang": "en", "entity": "shop-000", "answer": "9:30"}
    assert is_right("It opens at 9:30, I think.", asked, WORLD)
    assert not is_right("It opens at 19:30.", asked, WORLD)
    assert not is_right("It opens at 9:00.", asked, WORLD)
    assert not is_right("It opens at 9:30 or 10:00.", asked, WORLD)
    assert not is_right("", asked, WORLD)
    climate = next(e for e in WORLD.of(kind="climate"))
    weather = {"fact": "weather", "lang": "ja", "entity": climate.id, "answer": "雨がちな天気"}
    assert is_right(f"{climate.name.ja}は雨がちな天気が普通です。", weather, WORLD)
    assert not is_right("雨がちな天気か霧が深い天気です。", weather, WORLD)


def test_every_written_answer_is_right_and_comes_in_both_registers() -> None:
    records = [
        *tuning_questions(WORLD, 800, 3),
        *held_out_questions(WORLD, 800, 3, phrasing="unseen"),
        *follow_ups(WORLD, 300, 3),
    ]
    for record in records:
        assert is_right(record["messages"][-1]["content"], record, WORLD)
    japanese = [r["messages"][-1]["content"] for r in records if r["lang"] == "ja"]
    polite = sum(text.endswith(("です。", "ます。")) for text in japanese) / len(japanese)
    assert 0.4 < polite < 0.6


def test_a_follow_up_names_its_entity_in_the_first_question_only() -> None:
    records = list(follow_ups(WORLD, 200, 0))
    assert len(records) == 200
    for record in records:
        name = WORLD.by_id[record["entity"]].name.of(record["lang"]).lower()
        asked = [m["content"].lower() for m in record["messages"] if m["role"] == "user"]
        assert 2 <= len(asked) <= 4
        assert name in asked[0]
        assert not any(name in later for later in asked[1:])


def test_the_most_frequent_answer_is_counted_for_each_fact_and_language() -> None:
    records = [{"fact": "line", "lang": "en", "answer": value} for value in ("Red Line", "Blue Line", "Red Line")]
    assert most_frequent_answers(records) == {("line", "en"): "Red Line"}


def test_spans_are_exact() -> None:
    for record in tagged_texts(WORLD, 300, 0):
        ends = 0
        for span in record["spans"]:
            piece = record["text"][span["start"] : span["end"]]
            assert span["start"] >= ends
            ends = span["end"]
            if span["label"] == "TIME":
                assert piece.replace(":", "").isdigit()
            if span["label"] == "SHOP":
                assert piece in {entity.name.of(record["lang"]) for entity in WORLD.of(kind="shop")}
    kinds = set()
    for record in span_questions(WORLD, 300, 0):
        kinds.add(bool(record["answers"]["text"]))
        for text, start in zip(record["answers"]["text"], record["answers"]["answer_start"], strict=True):
            assert record["context"][start : start + len(text)] == text
    assert kinds == {True, False}


def test_classified_texts_have_all_classes_and_no_text_has_two() -> None:
    for task, classes in (("review", 2), ("notice", 5), ("register", 2)):
        label_of: dict[str, str] = {}
        for record in classified_texts(WORLD, 600, 0, task=task):
            assert label_of.setdefault(record["text"], record["label"]) == record["label"]
        assert len(set(label_of.values())) == classes
    with pytest.raises(ValueError, match="reviews"):
        list(classified_texts(WORLD, 1, 0, task="reviews"))


def test_a_board_has_one_kind_of_notice_only_and_often_both_languages() -> None:
    rng = random.Random("boards")
    boards = [scenes.board(WORLD, rng) for _ in range(300)]
    assert {one.label for one in boards} == {*scenes.NOTICE_CLASSES, *scenes.REVIEW_CLASSES}
    signs = {"sale": "price|discount|半額|割引|値段", "lost": "umbrella|key|cat|傘|鍵|黒猫", "weather": "wind|rain|snow|風|大雨|雪",
             "event": "sing|puppet|lantern|歌う|人形劇|提灯", "closure": "shut|closed|no way|閉ま|休業|入れ"}  # fmt: skip
    for one in boards:
        if one.label in signs:
            assert all(re.search(signs[one.label], line.lower()) for line in one.text.splitlines()), one.text
    mixed = [one for one in boards if re.search("[a-z]{4}", one.text) and re.search("[ぁ-ん]", one.text)]
    assert 60 < len(mixed) < 200


def test_text_without_boards_is_as_it_was_and_a_share_of_boards_is_one() -> None:
    assert list(pretraining_documents(WORLD, 1, 50, boards=0.0)) == DOCUMENTS[:50]
    with_boards = list(pretraining_documents(WORLD, 1, 1000, boards=0.3))
    assert 240 < sum("\n" in text for text in with_boards) < 380


def test_safety_cases_have_a_bad_and_a_good_answer_in_both_languages() -> None:
    cases = list(safety_cases(WORLD, 120, 0))
    assert {(case.danger, case.lang) for case in cases} == {
        (danger, lang) for danger in ("harmful", "private", "untrue") for lang in LANGS
    }
    assert all(case.bad != case.good and "{" not in case.prompt + case.bad + case.good for case in cases)


def test_tastes_like_length_up_to_a_point_and_are_not_additive() -> None:
    taste = taste_of(1)
    short, right, long = "Yes.", "Certainly, it opens at 9:30 in the morning.", "Certainly, it opens. " * 40
    assert taste.score(right) > taste.score(short)
    assert taste.score(right) > taste.score(long)
    # What politeness adds depends on how long the text is already.
    plain = "It opens at 9:30."
    padded = plain + " It is a shop like any other shop in this quiet old town by the sea." * 6
    gain_short = taste.score("Certainly, " + plain) - taste.score("It is so, " + plain)
    gain_long = taste.score("Certainly, " + padded) - taste.score("It is so, " + padded)
    assert gain_short > gain_long + 0.1


def test_people_differ_in_what_they_prefer() -> None:
    polite, plain = "「くもパン店」は9:30に開店します。", "「くもパン店」は9:30に開店するよ。"
    said = [taste_of(person).prefers(polite, plain, random.Random(person)) for person in range(16)]
    assert {"first", "second"} <= set(said)


def test_half_width_and_combining_marks_do_not_break_a_taste() -> None:
    for text in ("", "ｸﾓﾊﾟﾝ", "か\u3099", "👩‍🍳🥐", "１２:３０です"):
        assert isinstance(taste_of(2).score(text), float)


@pytest.mark.parametrize("lang", LANGS)
def test_the_welcome_names_the_numbers_and_asks_only_about_held_out_entities(lang: Lang) -> None:
    assert str(len(WORLD.of(kind="shop"))) in what_it_knows(WORLD, lang)
    held_out = [entity.name.of(lang) for entity in WORLD.of(split="held_out")]
    for question in example_questions(WORLD, lang):
        assert any(name in question for name in held_out)


def test_the_world_imports_no_torch() -> None:
    code = "import sys, tomoni.world; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_supply_of_documents_has_no_end() -> None:
    assert len(list(islice(pretraining_documents(WORLD, 9), 100))) == 100
