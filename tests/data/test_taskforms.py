"""Data of encoders' tasks: every form becomes its record, and every bad row is named with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tomoni.data.characters import inside_character
from tomoni.data.labels import Survey
from tomoni.data.read import Reading, read
from tomoni.data.tasks import TaskRenderer
from tomoni.errors import DataError
from tomoni.records import Labelled, Question, Span, Tagged, Text, TextPair

FAMILY = "👨‍👩‍👧"


def write(folder: Path, rows: list[Any], name: str = "rows.jsonl") -> Path:
    path = folder / name
    text = json.dumps(rows[0], ensure_ascii=False) if name.endswith(".json") else ""
    path.write_text(text or "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def quarantined(path: Path, **how: Any) -> tuple[list[Any], list[tuple[int, str]]]:
    reading = read([path], on_bad_rows="quarantine", **how)
    records = list(reading)
    return records, [(row.line, row.reason) for row in reading.bad]


@pytest.mark.parametrize(
    ("row", "form", "record"),
    [
        ({"text": "晴れ", "label": "天気"}, "labelled", ("晴れ", "天気")),
        ({"text": "晴れ", "label": 3}, "labelled", ("晴れ", 3.0)),
        ({"text": "晴れ", "label": True}, "labelled", ("晴れ", "true")),
        ({"text": "晴れ", "label": ["空", "天気"]}, "labelled", ("晴れ", ("空", "天気"))),
        ({"text": "晴れ", "label": []}, "labelled", ("晴れ", ())),
    ],
)
def test_texts_with_labels_are_found_by_their_columns(tmp_path: Path, row: Any, form: str, record: Any) -> None:
    reading = read([write(tmp_path, [row])])
    [found] = list(reading)
    assert isinstance(found, Labelled)
    assert (reading.form, (found.text, found.label)) == (form, record)


def test_a_method_of_plain_text_reads_a_file_with_a_label_column_as_text(tmp_path: Path) -> None:
    path = write(tmp_path, [{"text": "晴れ", "label": "天気"}])
    assert isinstance(next(iter(read([path], wanted=("text",)))), Text)
    assert isinstance(next(iter(read([path], wanted=("labelled", "text_pair")))), Labelled)


def test_of_several_forms_that_fit_the_one_that_the_method_learns_from_is_meant(tmp_path: Path) -> None:
    path = write(tmp_path, [{"text": "東京へ", "label": "旅", "spans": [[0, 2, "地名"]]}])
    with pytest.raises(DataError, match="several forms"):
        list(read([path]))
    assert isinstance(next(iter(read([path], wanted=("spans", "tokens")))), Tagged)
    assert isinstance(next(iter(read([path], wanted=("labelled", "text_pair")))), Labelled)


def test_a_pair_has_two_texts_and_one_label(tmp_path: Path) -> None:
    [pair] = list(read([write(tmp_path, [{"sentence1": "犬", "sentence2": "猫", "label": 0.5}])]))
    assert isinstance(pair, TextPair) and (pair.first, pair.second, pair.label) == ("犬", "猫", 0.5)


@pytest.mark.parametrize(
    "spans",
    [
        [{"start": 0, "end": 2, "type": "地名"}],
        [{"start": 0, "end": 2, "label": "地名"}],
        [[0, 2, "地名"]],
        [{"name": "東京", "span": [0, 2], "type": "地名"}],
    ],
)
def test_spans_may_be_written_in_the_usual_ways(tmp_path: Path, spans: Any) -> None:
    [record] = list(read([write(tmp_path, [{"text": "東京へ", "spans": spans}])]))
    assert isinstance(record, Tagged) and record.spans == (Span(0, 2, "地名"),)


def test_words_with_tags_become_a_text_with_spans_joined_as_their_script_is(tmp_path: Path) -> None:
    rows = [
        {"tokens": ["山田", "は", "New", "York", "へ"], "ner_tags": ["B-人", "O", "B-地", "I-地", "O"]},
        {"tokens": ["Mary", "and", "Jo"], "ner_tags": ["I-P", "O", "B-P"]},
    ]
    first, second = list(read([write(tmp_path, rows)]))
    assert isinstance(first, Tagged) and isinstance(second, Tagged)
    assert (first.text, first.spans) == ("山田はNew Yorkへ", (Span(0, 2, "人"), Span(3, 11, "地")))
    assert (second.text, second.spans) == ("Mary and Jo", (Span(0, 4, "P"), Span(9, 11, "P")))


NESTED = {
    "version": "1.1",
    "data": [
        {
            "title": "町",
            "paragraphs": [
                {
                    "context": "東京は日本の首都。",
                    "qas": [
                        {"id": "q1", "question": "首都は?", "answers": [{"text": "東京", "answer_start": 0}]},
                        {"id": "q2", "question": "何人?", "answers": [], "is_impossible": True},
                        {"id": "q3", "question": "国は?", "answers": [{"text": "日本", "answer_start": 2}]},
                    ],
                }
            ],
        }
    ],
}


def test_squad_is_read_nested_and_flat_question_by_question(tmp_path: Path) -> None:
    records, bad = quarantined(write(tmp_path, [NESTED], "squad.json"))
    assert [record.id for record in records] == ["q1", "q2"]
    assert [record.answers for record in records] == [((0, "東京"),), ()]
    assert bad == [(3, "elsewhere")]
    flat = {"question": "首都は?", "context": "東京は", "answers": {"text": ["東京"], "answer_start": [0]}}
    [record] = list(read([write(tmp_path, [flat])]))
    assert isinstance(record, Question) and record.answers == ((0, "東京"),)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "", "label": "a"}, "empty"),
        ({"text": "x", "label": ""}, "empty"),
        ({"text": "x", "label": None}, "empty"),
        ({"text": "x", "label": ["a", "a"]}, "wrong_value"),
        ({"text": "x", "label": {"a": 1}}, "wrong_value"),
        ({"text": "東京", "spans": [[0, 3, "地"]]}, "outside"),
        ({"text": "東京", "spans": [[1, 1, "地"]]}, "outside"),
        ({"text": "東京都", "spans": [[0, 2, "地"], [1, 3, "地"]]}, "overlap"),
        ({"text": "か\u3099く", "spans": [[0, 1, "地"]]}, "splits_character"),
        ({"text": "ｶﾞｽ", "spans": [[0, 1, "物"]]}, "splits_character"),
        ({"text": FAMILY + "と", "spans": [[0, 1, "家"]]}, "splits_character"),
        ({"text": "東京", "spans": [{"start": 0, "end": 1, "type": "地", "name": "京"}]}, "elsewhere"),
        ({"text": "東京", "spans": [[0.0, 1, "地"]]}, "wrong_value"),
        ({"tokens": ["a"], "ner_tags": ["O", "O"]}, "wrong_value"),
        ({"tokens": ["a"], "ner_tags": [1]}, "wrong_value"),
        ({"tokens": ["a"], "ner_tags": ["X-P"]}, "wrong_value"),
        ({"question": "?", "context": "東京", "answers": {"text": ["京"], "answer_start": [0]}}, "elsewhere"),
        ({"question": "?", "context": "ｶﾞｽ", "answers": {"text": ["ｶ"], "answer_start": [0]}}, "splits_character"),
        ({"question": "", "context": "東京", "answers": {"text": [], "answer_start": []}}, "empty"),
        ({"question": "?", "context": "x", "answers": {"text": ["x"], "answer_start": []}}, "wrong_value"),
    ],
)
def test_a_bad_row_is_named_with_its_reason_and_the_good_ones_go_on(tmp_path: Path, row: Any, reason: str) -> None:
    good: dict[str, Any] = {
        "text": {"text": "良い", "label": "a"},
        "spans": {"text": "良い", "spans": []},
        "tokens": {"tokens": ["良い"], "ner_tags": ["O"]},
        "question": {"question": "?", "context": "良い", "answers": {"text": [], "answer_start": []}},
    }
    kind = next(name for name in ("spans", "tokens", "question", "text") if name in row)
    path = write(tmp_path, [good[kind], row, {**good[kind], "id": "2"}])
    records, bad = quarantined(path)
    assert (len(records), bad) == (2, [(2, reason)])
    with pytest.raises(DataError, match=reason):
        list(read([path]))


# what can only be seen of the whole file, or by the model's tokenizer


def checked(path: Path, **options: Any) -> tuple[list[Any], list[tuple[int, str]], TaskRenderer]:
    survey = Survey().of(Reading([path], on_bad_rows="quarantine"))
    options.setdefault("labels", survey.labels)
    render = TaskRenderer(tiny.encoder_tokenizer(), types=sorted(survey.types), **options)
    return *quarantined(path, check=render.check), render


def test_labels_of_another_kind_than_most_are_named(tmp_path: Path) -> None:
    rows = [{"text": f"文{n}", "label": "ab"[n % 2]} for n in range(6)] + [{"text": "数", "label": 1}]
    records, bad, render = checked(write(tmp_path, rows))
    assert (len(records), bad) == (6, [(7, "mixed_labels")])
    assert render.labels is not None and render.labels.names == ("a", "b")


def test_the_only_example_of_a_class_is_named_and_the_class_is_left_out(tmp_path: Path) -> None:
    rows = [{"text": f"文{n}", "label": str(10 - n % 3)} for n in range(9)] + [{"text": "独り", "label": "x"}]
    records, bad, render = checked(write(tmp_path, rows))
    assert (len(records), bad) == (9, [(10, "single_example")])
    assert render.labels is not None and render.labels.names == ("8", "9", "10")  # numbers by their value


def test_a_label_that_is_a_text_of_its_own_leaves_no_good_row_and_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, [{"text": f"文{n}", "label": f"番号{n}"} for n in range(10_000)])
    with pytest.raises(DataError, match="10000 bad rows"):
        checked(path)


def test_many_classes_are_learnt_but_not_without_a_word(tmp_path: Path) -> None:
    path = write(tmp_path, [{"text": f"文{n}", "label": f"番号{n % 1500}"} for n in range(3000)])
    records, bad, render = checked(path)
    assert (len(records), bad) == (3000, [])
    assert render.labels is not None and any("1,500 classes" in note for note in render.labels.notes())


def test_a_class_that_training_never_saw_is_named(tmp_path: Path) -> None:
    train = write(tmp_path, [{"text": f"文{n}", "label": "ab"[n % 2]} for n in range(6)])
    _, _, render = checked(train)
    held = write(tmp_path, [{"text": "文", "label": "c"}, {"text": "文", "label": "a"}], "held.jsonl")
    assert quarantined(held, check=render.check)[1] == [(1, "unknown_class")]


def test_a_text_of_which_the_vocabulary_knows_nothing_is_named(tmp_path: Path) -> None:
    from tests.data.japanese import wordpiece

    rows = [{"text": text, "label": "ab"[n % 2]} for n, text in enumerate(["東京", "東京 へ", "𠮷𩸽", "東京"])]
    path = write(tmp_path, rows)
    render = TaskRenderer(wordpiece(["東京", "へ"]), labels=Survey().of(Reading([path])).labels)
    records, bad = quarantined(path, check=render.check)
    assert (len(records), bad) == (3, [(3, "unknown_characters")])


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("がぎ", []),
        ("か\u3099ぎ", [1]),
        ("ﾊﾟﾝ", [1]),
        ("e\u0301a", [1]),
        (FAMILY, [1, 2, 3, 4]),
        ("👍🏽!", [1]),
        ("🇯🇵🇫🇷", [1, 3]),
        ("☀\ufe0f", [1]),
        ("a\r\nb", [2]),
    ],
)
def test_a_cut_through_what_people_see_as_one_character_is_seen(text: str, inside: list[int]) -> None:
    assert [place for place in range(1, len(text)) if inside_character(text, place)] == inside
