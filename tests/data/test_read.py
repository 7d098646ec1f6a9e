"""Readers: every row is kept as it stands, or named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomoni.data.badrows import REASONS
from tomoni.data.files import parse_line
from tomoni.data.read import Reading, read
from tomoni.errors import DataError
from tomoni.records import Chat, Comparison, Message, Rated, Text, Verdict

GOOD = '{"text": "良い行です。"}'


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def quarantined(path: Path, **how: object) -> tuple[list[object], Reading]:
    reading = read([path], on_bad_rows="quarantine", **how)  # type: ignore[arg-type]
    return list(reading), reading


def chat_of(tmp_path: Path, row: object, **how: object) -> Chat:
    path = write(tmp_path, "one.jsonl", json.dumps(row, ensure_ascii=False))
    [record] = read([path], **how)  # type: ignore[arg-type]
    assert isinstance(record, Chat)
    return record


def turns(record: Chat) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in record.messages]


# bad lines of JSONL: (the line, the reason)
BAD_LINES: list[tuple[bytes, str]] = [
    (b'{"text": "cut', "broken_json"),
    (b'{"text": "a",}', "broken_json"),
    (b"{'text': 'a'}", "broken_json"),
    (b'{"text": "a"} // comment', "broken_json"),
    (b'{"text": "a\x01"}', "broken_json"),
    (b'{"text": "a"}\x00\x00', "broken_json"),
    (b'{"text": "a", "n": 007}', "broken_json"),
    (b'{"text": "a"} {"text": "b"}', "two_values"),
    (b'"a"', "not_an_object"),
    (b'["a"]', "not_an_object"),
    (b"null", "not_an_object"),
    (b'{"text": "a", "text": "b"}', "duplicate_key"),
    (b'{"text": "a", "label": NaN}', "not_a_number"),
    (b'{"text": "a", "label": -Infinity}', "not_a_number"),
    (b'{"text": "a", "label": 1e999}', "number_too_large"),
    (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "number_too_large"),
    (b'{"text": "a", "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too_deep"),
    ('{"text": "表示"}'.encode("cp932"), "not_utf8"),
    (b'{"text": "\xff"}', "not_utf8"),
    (b'{"text": "\xc0\xaf"}', "not_utf8"),
    (b'{"text": "\\ud800"}', "lone_surrogate"),
    (b'{"text": "a", "deep": {"x": ["\\udc00"]}}', "lone_surrogate"),
    (b'{"text": 7}', "not_text"),
    (b'{"text": ["a"]}', "not_text"),
    (b'{"text": null}', "not_text"),
    (b'{"text": ""}', "empty"),
    ('{"text": " \u3000\\n"}'.encode(), "empty"),
    (b'{"txet": "a"}', "missing_column"),
    (b'{"text": "a", "id": 1.5}', "wrong_value"),
]


@pytest.mark.parametrize(
    ("line", "reason"), BAD_LINES, ids=[f"{n}-{reason}" for n, (_, reason) in enumerate(BAD_LINES)]
)
def test_a_bad_line_is_named_and_the_good_ones_around_it_are_kept(tmp_path: Path, line: bytes, reason: str) -> None:
    path = write(tmp_path, "rows.jsonl", GOOD.encode() + b"\n\n" + line + b"\n" + '{"text": "次"}'.encode())
    records, reading = quarantined(path)
    assert [record.text for record in records] == ["良い行です。", "次"]
    [bad] = reading.bad
    assert (bad.reason, bad.line, bad.offset) == (reason, 3, len(GOOD.encode()) + 2)
    assert len(bad.excerpt) <= 80 * len("\\U0001f600")
    assert bad.reason in REASONS


def test_stop_names_every_bad_row_in_one_error_and_gives_no_record_after_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.jsonl", "\n".join([GOOD, *["{"] * 25, '{"text": "次"}']))
    seen = []
    with pytest.raises(DataError) as caught:
        for record in read([path]):
            seen.append(record)
    assert len(seen) == 1
    text = caught.value.text()
    assert "25 bad rows" in text and f"{path}:2 " in text and f"{path}:21 " in text
    assert f"{path}:22 " not in text and "… and 5 more" in text and "25 × broken_json" in text


def test_shift_jis_is_recognised_and_the_conversion_named(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.jsonl", '{"text": "表示能力"}'.encode("cp932"))
    with pytest.raises(DataError, match="Shift_JIS"):
        list(read([path]))


def test_utf16_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.jsonl", GOOD.encode("utf-16"))
    with pytest.raises(DataError, match="iconv -f UTF-16"):
        list(read([path]))


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + f"{GOOD}\r\n{GOOD}\r\n".encode(),  # byte order mark and CRLF
        f"{GOOD}\r{GOOD}\r".encode(),  # CR alone
        f"[{GOOD},\n {GOOD}]".encode(),  # an array under the name .jsonl
        f"  \n{GOOD}\n\t\n{GOOD}".encode(),
    ],
)
def test_harmless_variations_of_jsonl_give_the_same_records(tmp_path: Path, content: bytes) -> None:
    records, reading = quarantined(write(tmp_path, "rows.jsonl", content))
    assert [record.text for record in records] == ["良い行です。"] * 2
    assert not reading.bad


def test_unusual_but_valid_characters_come_through_unchanged(tmp_path: Path) -> None:
    text = "ｶﾞ ガ カ\u3099 \u2028 \u200b \u202e 👩\u200d👧 \ufffd \x00 2024-01-01"
    [record] = read([write(tmp_path, "rows.jsonl", json.dumps({"text": text}))])
    assert record.text == text


@given(st.text(min_size=1).filter(lambda text: text.strip() and "\r" not in text))
def test_any_text_comes_back_from_json(text: str) -> None:
    assert parse_line(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n") == {"text": text}


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_with_a_reason(line: bytes) -> None:
    from tomoni.data.badrows import BadValue

    try:
        assert isinstance(parse_line(line), dict)
    except BadValue as fault:
        assert fault.reason in REASONS


def test_json_arrays_and_objects_in_a_row_are_read_across_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tomoni.data.files.CHUNK", 7)
    rows = [{"text": f"行{n}" * 5, "n": n} for n in range(20)]
    array = write(tmp_path, "a.json", json.dumps(rows, ensure_ascii=False, indent=1))
    objects = write(tmp_path, "b.json", "\n".join(json.dumps(row, indent=1) for row in rows))
    for path in (array, objects):
        records = list(read([path]))
        assert [(record.text, record.extra["n"], record.source.line) for record in records] == [
            (row["text"], row["n"], place + 1) for place, row in enumerate(rows)
        ]


def test_a_cut_json_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cut short after row 1"):
        list(read([write(tmp_path, "a.json", f"[{GOOD}")]))
    with pytest.raises(DataError, match="row 2"):
        list(read([write(tmp_path, "a.json", f"[{GOOD}, {GOOD[:9]}")]))


def test_csv_values_stay_the_strings_they_are(tmp_path: Path) -> None:
    words = ["NA", "None", "null", "007", "2024-01-01", "true", "=1+1", '"quoted"', "two\nlines", "全角，カンマ"]
    lines = ["text,note"] + ['"' + word.replace('"', '""') + '",nan' for word in words]
    records, _reading = quarantined(write(tmp_path, "rows.csv", "\r\n".join(lines)))
    assert [record.text for record in records] == words
    assert {record.extra["note"] for record in records} == {"nan"}
    assert records[-1].source.line == 12  # the row before it takes two lines


def test_csv_rows_with_too_few_or_too_many_fields_or_foreign_bytes_are_named(tmp_path: Path) -> None:
    content = b"text,b\nx,1\ny\nz,1,2\n" + "表,1\n".encode("cp932") + b",1\nend,1\n"
    records, reading = quarantined(write(tmp_path, "rows.csv", content))
    assert [record.text for record in records] == ["x", "end"]
    assert [(bad.line, bad.reason) for bad in reading.bad] == [
        (3, "wrong_field_count"), (4, "wrong_field_count"), (5, "not_utf8"), (6, "empty")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('text,b\n"open,1\nx,2\n', "quotation mark"),
        ("text,text\na,b\n", "a column twice: text"),
        ("text;label\na;b\n", "semicolons"),
        ("hello,world\na,b\n", "fit no known form"),
        ("", "no rows"),
        ("text\n", "no rows"),
    ],
)
def test_a_csv_file_that_cannot_be_read_as_a_whole_is_refused(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(read([write(tmp_path, "rows.csv", content)], on_bad_rows="quarantine"))


def test_a_zipped_file_reads_like_the_plain_one_and_a_cut_one_is_refused(tmp_path: Path) -> None:
    zipped = gzip.compress("\n".join([GOOD] * 500).encode(), mtime=0)
    assert len(list(read([write(tmp_path, "a.jsonl.gz", zipped)]))) == 500
    with pytest.raises(DataError, match="cut short"):
        list(read([write(tmp_path, "b.jsonl.gz", zipped[:-12])]))


def test_parquet_reads_like_jsonl_and_values_that_are_not_text_are_named(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "やあ"}, {"role": "assistant", "content": "はい"}]
    table = pyarrow.table({"messages": [talk, None], "n": [1, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    records, reading = quarantined(tmp_path / "a.parquet")
    assert turns(records[0]) == [("user", "やあ"), ("assistant", "はい")]  # type: ignore[arg-type]
    assert [(bad.line, bad.reason) for bad in reading.bad] == [(2, "not_a_list")]


def test_a_text_file_is_one_document_or_those_between_break_lines(tmp_path: Path) -> None:
    whole = write(tmp_path, "a.txt", "\u3000吾輩は\n\n猫である。\n")
    assert [record.text for record in read([whole])] == ["\u3000吾輩は\n\n猫である。"]
    parts = write(tmp_path, "b.txt", "一つ\n<|endoftext|>\n\n二つ\nめ\n\f\n<|endoftext|>\n三つ <|endoftext|> \n")
    records = list(read([parts]))
    assert [record.text for record in records] == ["一つ", "二つ\nめ", "三つ <|endoftext|> "]
    assert [record.source.line for record in records] == [1, 4, 8]


# forms


def test_messages_keep_tools_template_kwargs_train_and_further_keys(tmp_path: Path) -> None:
    record = chat_of(
        tmp_path,
        {
            "messages": [
                {"role": "user", "content": "東京の天気は？", "name": "太郎"},
                {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather"}}]},
                {"role": "tool", "content": "晴れ"},
                {"role": "assistant", "content": "晴れです。", "train": False},
            ],
            "tools": [{"name": "weather"}],
            "chat_template_kwargs": {"enable_thinking": False},
            "topic": "weather",
        },
    )
    assert record.messages[0] == Message("user", "東京の天気は？", None, {"name": "太郎"})
    assert record.messages[1].content == "" and record.messages[1].extra["tool_calls"]
    assert record.messages[3].train is False
    assert record.tools == ({"name": "weather"},)
    assert record.template_kwargs == {"enable_thinking": False} and record.extra == {"topic": "weather"}


def test_alpaca_becomes_system_history_question_with_input_and_answer(tmp_path: Path) -> None:
    row = {"instruction": "訳して", "input": "cat", "output": "猫", "system": "丁寧に", "history": [["やあ", "はい"]]}
    assert turns(chat_of(tmp_path, row)) == [
        ("system", "丁寧に"), ("user", "やあ"), ("assistant", "はい"), ("user", "訳して\n\ncat"), ("assistant", "猫")
    ]  # fmt: skip
    assert turns(chat_of(tmp_path, {"instruction": "訳して", "input": "", "output": "猫"}))[0] == ("user", "訳して")


def test_sharegpt_roles_become_ours_and_a_function_call_a_tool_call(tmp_path: Path) -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "天気"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {}}'},
            {"from": "observation", "value": "晴れ"},
            {"from": "gpt", "value": "晴れです"},
        ],
        "system": "s",
        "tools": '[{"name": "weather"}]',
    }
    record = chat_of(tmp_path, row)
    assert turns(record) == [
        ("system", "s"),
        ("user", "天気"),
        ("assistant", ""),
        ("tool", "晴れ"),
        ("assistant", "晴れです"),
    ]
    [call] = record.messages[2].extra["tool_calls"]
    assert call["function"]["name"] == "weather" and record.tools == ({"name": "weather"},)


def test_prompt_and_completion_learn_the_completion_only(tmp_path: Path) -> None:
    record = chat_of(tmp_path, {"prompt": "問い", "completion": "答え"})
    assert turns(record) == [("user", "問い"), ("assistant", "答え")]
    lists = {
        "prompt": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        "completion": [{"role": "assistant", "content": "d"}],
    }
    assert [message.train for message in chat_of(tmp_path, lists).messages] == [None, False, None, None]


def test_preference_takes_a_prompt_or_finds_the_common_beginning(tmp_path: Path) -> None:
    user = {"role": "user", "content": "問い"}
    good, poor = {"role": "assistant", "content": "良い"}, {"role": "assistant", "content": "悪い"}
    rows = [
        {"prompt": "問い", "chosen": "良い", "rejected": "悪い", "margin": 0.5},
        {"chosen": [user, good], "rejected": [user, poor]},
        {"prompt": [user], "chosen": good, "rejected": poor},
    ]
    path = write(tmp_path, "p.jsonl", "\n".join(json.dumps(row) for row in rows))
    records = [record for record in read([path]) if isinstance(record, Comparison)]
    for record in records:
        assert [message.content for message in (*record.prompt, *record.first, *record.second)] == [
            "問い",
            "良い",
            "悪い",
        ]
        assert record.verdict is Verdict.FIRST
    assert [record.margin for record in records] == [0.5, 0.0, 0.0]


BAD_ROWS: list[tuple[object, str]] = [
    ({"messages": "hi"}, "not_a_list"),
    ({"messages": []}, "empty"),
    ({"messages": ["hi"]}, "wrong_value"),
    ({"messages": [{"role": "user"}]}, "missing_column"),
    ({"messages": [{"role": "bot", "content": "a"}]}, "wrong_role"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}, "empty"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, "not_text"),
    ({"messages": [{"role": "user", "content": "a"}]}, "no_answer"),
    ({"messages": [{"role": r, "content": "a"} for r in ("user", "assistant", "user")]}, "ends_with_user"),
    ({"messages": [{"role": r, "content": "a"} for r in ("system", "system", "user", "assistant")]}, "two_systems"),
    ({"messages": [{"role": r, "content": "a"} for r in ("user", "system", "assistant")]}, "late_system"),
    ({"conversations": [{"from": "alien", "value": "a"}]}, "wrong_role"),
    ({"conversations": [{"from": "human"}]}, "missing_column"),
    ({"instruction": "a", "output": None}, "not_text"),
    ({"instruction": "a", "output": "b", "history": ["x"]}, "wrong_value"),
    ({"prompt": "a", "completion": ""}, "empty"),
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, "same_answers"),
    ({"chosen": "a", "rejected": "b"}, "no_prompt"),
    ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}, "hh_rlhf"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "much"}, "wrong_value"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "weight": 0}, "wrong_value"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "weight": "1"}, "wrong_value"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "noise": 0.5}, "wrong_value"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "noise": True}, "wrong_value"),
    ({"prompt": "a", "completion": "b", "label": True, "weight": -1}, "wrong_value"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS, ids=[f"{n}-{reason}" for n, (_, reason) in enumerate(BAD_ROWS)])
def test_a_row_that_does_not_fit_its_form_is_named(tmp_path: Path, row: object, reason: str) -> None:
    path = write(tmp_path, "rows.jsonl", json.dumps(row))
    reading = read([path], on_bad_rows="quarantine")
    with pytest.raises(DataError, match=reason):
        list(reading)
    assert [bad.reason for bad in reading.bad] == [reason]


def test_columns_are_mapped_and_the_rest_is_kept_as_extra(tmp_path: Path) -> None:
    record = chat_of(
        tmp_path,
        {"q": "問い", "a": "答え", "topic": "x"},
        form="prompt_completion",
        columns={"prompt": "q", "completion": "a"},
    )
    assert turns(record) == [("user", "問い"), ("assistant", "答え")] and record.extra == {"topic": "x"}


def test_columns_that_fit_two_forms_or_none_are_an_error_that_lists_the_choices(tmp_path: Path) -> None:
    both = write(tmp_path, "a.jsonl", '{"text": "a", "instruction": "b", "output": "c"}')
    with pytest.raises(DataError) as caught:
        list(read([both]))
    assert caught.value.choices == ("text", "alpaca")
    assert isinstance(next(iter(read([both], form="text"))), Text)
    none = write(tmp_path, "b.jsonl", '{"question": "a", "answer": "b"}')
    with pytest.raises(DataError, match="prompt: question, completion: answer"):
        list(read([none]))
    with pytest.raises(DataError, match='did you mean "alpaca"'):
        read([none], form="alpacca")


def test_ids_are_the_rows_own_or_from_the_content_and_always_differ(tmp_path: Path) -> None:
    rows = ['{"text": "a", "id": "x"}', '{"text": "a", "id": 7}', GOOD, '{"text": "b"}', GOOD, GOOD]
    path = write(tmp_path, "a.jsonl", "\n".join(rows))
    first = [record.id for record in read([path])]
    assert first[:2] == ["x", "7"] and first[4] == first[2] + "#2" and first[5] == first[2] + "#3"
    assert len(set(first)) == 6
    moved = write(tmp_path, "b.jsonl", "\n".join(reversed(rows)))
    assert set(first) == {record.id for record in read([moved])}


def test_equal_ids_of_their_own_are_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": "a", "id": "x"}\n{"text": "b", "id": "x"}')
    records, reading = quarantined(path)
    assert len(records) == 1 and [bad.reason for bad in reading.bad] == ["duplicate_id"]


def test_a_missing_file_and_an_unknown_ending_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        list(read([tmp_path / "none.jsonl"]))
    with pytest.raises(DataError, match="no known ending"):
        list(read([write(tmp_path, "a.xlsx", "x")]))


def test_how_much_a_row_counts_and_how_sure_its_judge_is_are_read_and_change_no_other_rows_name(tmp_path: Path) -> None:
    plain = {"prompt": "問い", "chosen": "良い", "rejected": "悪い"}
    rows = [plain, plain | {"weight": 1, "noise": None}, plain | {"weight": 0.25, "noise": 0.2}]
    path = write(tmp_path, "pairs.jsonl", "\n".join(json.dumps(row) for row in rows))
    records = [record for record in read([path]) if isinstance(record, Comparison)]
    assert [(record.weight, record.noise) for record in records] == [(1.0, 0.0), (1.0, 0.0), (0.25, 0.2)]
    assert records[1].id == f"{records[0].id}#2" and records[0].id not in records[2].id
    thumb = {"prompt": "問い", "completion": "答え", "label": False}
    path = write(tmp_path, "thumbs.jsonl", "\n".join(json.dumps(row) for row in [thumb, thumb | {"weight": 2}]))
    assert [record.weight for record in read([path]) if isinstance(record, Rated)] == [1.0, 2.0]
