"""Prompts for parity: the user's own in any of the forms that people write them, else some in both languages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tomoni.errors import DataError
from tomoni.export.prompts import built_in, from_file, of_records
from tomoni.records import Chat, Message, Source, Text


def test_a_file_of_prompts_has_lines_of_text_or_of_json(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(
        "\ufeffこんにちは\n\n"
        '{"prompt": "Hi {there}"}\n'
        '{"messages": [{"role": "system", "content": "短く"}, {"role": "user", "content": "1+1"},'
        ' {"role": "assistant", "content": "2"}]}\n',
        encoding="utf-8",
    )
    found = from_file(path, 10)
    assert [prompt.messages for prompt in found] == [
        (Message("user", "こんにちは"),),
        (Message("user", "Hi {there}"),),
        (Message("system", "短く"), Message("user", "1+1")),
    ]
    assert len(from_file(path, 2)) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": ', "line 1 is not a prompt"),
        ('{"text": "a"}', "it has no messages and no prompt"),
        ('{"messages": [{"role": "robot", "content": "a"}]}', "the role 'robot'"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "has an answer and no question"),
        ("", "has no prompts"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=said):
        from_file(path, 10)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the prompts"):
        from_file(tmp_path / "none.txt", 10)


def test_prompts_of_records_are_what_stands_before_the_last_answer_evenly_spread() -> None:
    source = Source("a.jsonl", 1)
    chats = [Chat(str(at), source, (Message("user", f"q{at}"), Message("assistant", "a"))) for at in range(10)]
    found = of_records([*chats, Text("t", source, "あ" * 100), Text("short", source, "a")], 5)
    assert [prompt.id for prompt in found] == ["0", "2", "4", "6", "8"]
    assert found[1].messages == (Message("user", "q2"),)
    assert of_records([Text("t", source, "あ" * 100)], 5)[0].text == "あ" * 80


def test_the_built_in_prompts_are_in_two_languages() -> None:
    for chats in (True, False):
        shown = "".join(prompt.shown for prompt in built_in(chats=chats))
        assert any("ぁ" <= letter <= "ん" for letter in shown) and "the" in shown
    assert any(len(prompt.messages) == 3 for prompt in built_in(chats=True))
