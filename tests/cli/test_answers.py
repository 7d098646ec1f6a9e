"""Sample answers on a terminal of 80 columns and 24 lines."""

from __future__ import annotations

import io
import unicodedata

from rich.console import Console

from tests import tiny
from tomoni.cli import answers
from tomoni.data.render import Renderer
from tomoni.records import Chat, Message, Source
from tomoni.run.samples import samples


def columns(line: str) -> int:
    """By the Unicode standard's own table, not the library's."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in line)


def shown(blocks: list[answers.Block]) -> list[str]:
    out = io.StringIO()
    answers.show(Console(file=out, width=80), blocks)
    return out.getvalue().splitlines()


def test_four_long_samples_take_a_line_for_each_text_and_fit_on_a_screen() -> None:
    long = "駅前のパン屋は、朝の七時に開きます。\nThe bakery opens. " * 20
    lines = shown([answers.Block(long, [("desired", long), ("before", long), ("after", "短い")])] * 4)
    assert len(lines) == 16
    assert max(map(columns, lines)) <= 80
    assert sum(line.endswith("…") for line in lines) == 12
    assert lines[3] == "    after    短い"


def test_an_answer_cannot_steer_the_terminal() -> None:
    (_, line) = shown([answers.Block("q", [("after", "\x1b[2Ja\x07")])])
    assert line == "    after  \ufffd[2Ja\ufffd"


def test_of_a_long_path_the_end_names_the_model() -> None:
    assert answers.short_name("/home/someone/models/qwen/small") == "…/models/qwen/small"
    assert answers.short_name("runs/first") == "runs/first"
    assert answers.short_name("most frequent answer of training") == "most frequent answer of training"
    assert len(answers.short_name("/a/" + "長い名前" * 20)) <= answers.LABEL


def test_a_sample_of_a_conversation_is_shown_by_its_last_turn_and_reported_whole() -> None:
    tokenizer = tiny.tokenizer()
    turns = [
        ("user", "開く時刻は？"),
        ("assistant", "七時です。"),
        ("user", "閉まるのは？"),
        ("assistant", "六時です。"),
    ]
    record = Chat("1", Source("f", 1), tuple(Message(role, text) for role, text in turns))  # type: ignore[arg-type]
    (sample,) = samples([record], Renderer(tokenizer), tokenizer, count=1, context=None)
    assert sample.shown.asked == "閉まるのは？"
    assert "開く時刻は？" in sample.shown.prompt
    assert sample.shown.desired == "六時です。"
