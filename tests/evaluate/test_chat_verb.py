"""`tomoni chat` from the outside, on tiny models: what is typed, what is said, what the model is given."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tomoni.cli.app import main
from tomoni.engine.sampler import Sampler, Sampling
from tomoni.errors import UserError
from tomoni.evaluate.subject import open_subject
from tomoni.evaluate.talk import Talk, printable

SHORT = ("--max-new-tokens", "6")


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(tiny.folder(tmp_path / "model"))


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the sampler is given, as text."""
    seen: list[str] = []
    add = Sampler.add

    def noting(self: Sampler, prompt: Any, how: Sampling, id: str | None = None) -> str:
        seen.append(str(tiny.tokenizer().decode(prompt)))
        return add(self, prompt, how, id)

    monkeypatch.setattr(Sampler, "add", noting)
    return seen


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]) -> None:
    """A person at a terminal; then Ctrl-D."""
    entered = iter(lines)

    def answer(prompt: str = "") -> str:
        line = next(entered, EOFError)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr("sys.stdin", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())


def piped(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_once_prints_the_answer_and_leaves(model: str, prompts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", model, "--once", "今日は?", *SHORT]) == 0
    assert prompts == ["<|im_start|>user\n今日は?<|im_end|>\n<|im_start|>assistant\n"]
    assert capsys.readouterr().out.endswith("\n")


def test_from_a_pipe_each_line_is_a_turn_and_stdout_has_the_answers_only(
    model: str, prompts: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    piped(monkeypatch, "一つ\r\n\n/seed 3\n二つ\n/quit\nnever\n")
    assert main(["chat", model, "--system", "S", *SHORT]) == 0
    assert len(prompts) == 2
    assert prompts[1].startswith(
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n一つ<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "<|im_start|>user\n二つ<|im_end|>" in prompts[1]
    shown = capsys.readouterr()
    assert "seed" not in shown.out
    assert "cut off" not in shown.out
    assert "(seed 3)" in shown.err
    assert shown.err.count("cut off") == 2  # six random bytes do not end by themselves


def test_a_failing_line_is_reported_and_the_next_one_is_answered(
    model: str, prompts: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    piped(monkeypatch, "/temprature 1\n" + "x" * 600 + "\nok\n")
    assert main(["chat", model, *SHORT]) == 2
    shown = capsys.readouterr().err
    assert 'did you mean "/temperature"' in shown
    assert "context is 512" in shown
    assert prompts[-1].count("<|im_start|>user") == 1
    assert "user\nok<|im_end|>" in prompts[-1]


def test_the_opening_is_shown_and_a_number_asks_its_question(
    model: str, prompts: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {"chat_opening": "町のことを知っています。\x1b[2J", "questions": ["When?", "店は何時に開きますか?"]}
    (Path(model) / "tomoni.json").write_text(json.dumps(said), encoding="utf-8")
    typed(monkeypatch, "2", "3", "/help", KeyboardInterrupt, "/reset", "hello")
    assert main(["chat", model, *SHORT]) == 0
    shown = capsys.readouterr().out
    assert "町のことを知っています。[2J" in shown  # without the escape that would clear the screen
    assert "  2  店は何時に開きますか?" in shown
    assert "llama" in shown
    assert "user\n店は何時に開きますか?<|im_end|>" in prompts[0]
    assert "user\n3<|im_end|>" in prompts[1]  # no third question: a turn like any other
    assert prompts[2] == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


def test_ctrl_c_stops_the_answer_only(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Sampler.step
    count = iter(range(100))

    def interrupted(self: Sampler) -> Any:
        if next(count) == 3:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Sampler, "step", interrupted)
    typed(monkeypatch, "one", "two")
    assert main(["chat", model, *SHORT]) == 0
    shown = capsys.readouterr().out
    assert shown.count("(stopped)") == 1
    assert next(count) > 8  # the second question was answered to its end


def talk(model: str, **how: Any) -> Talk:
    return Talk(open_subject(model), Sampling(**{"max_new_tokens": 8, "temperature": 0, **how}))


def drained(parts: Iterator[str]) -> str:
    return "".join(parts)


def test_the_oldest_turns_are_dropped_when_the_context_is_full_and_the_system_message_stays(
    model: str, prompts: list[str]
) -> None:
    under_test = talk(model)
    under_test.system = "stay"
    for number in range(6):
        drained(under_test.say(f"{number}" * 100))
    assert under_test.forgotten > 0
    assert prompts[-1].startswith("<|im_start|>system\nstay<|im_end|>\n<|im_start|>user\n")
    assert "0" * 100 not in prompts[-1]
    assert "5" * 100 in prompts[-1]
    assert under_test.turns[0].role == "user"


def test_an_interrupted_answer_stays_as_far_as_it_came(model: str) -> None:
    under_test = talk(model, temperature=1.0)
    parts = under_test.say("hello")
    first = next(parts)
    parts.close()  # type: ignore[attr-defined]
    assert [(turn.role, turn.content) for turn in under_test.turns] == [("user", "hello"), ("assistant", first)]


def test_a_refused_question_leaves_no_trace(model: str) -> None:
    under_test = talk(model)
    with pytest.raises(UserError, match="context is 512"):
        drained(under_test.say("x" * 600))
    assert under_test.turns == []


def test_the_same_question_is_drawn_anew_each_turn_and_again_after_a_reset(model: str) -> None:
    under_test = talk(model, temperature=1.0, max_new_tokens=20)
    first = drained(under_test.say("hello"))
    under_test.turns = []
    second = drained(under_test.say("hello"))
    under_test.reset()
    assert drained(under_test.say("hello")) == first
    assert second != first


def test_control_characters_are_not_printed() -> None:
    assert printable("a\x1b]0;t\x07\x9b31mべ\tb\nc\x7f") == "a]0;t31mべ\tb\nc"
