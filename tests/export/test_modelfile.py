"""The Ollama template writes what the model's chat template writes, or there is none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.data import model_templates
from tests.export.conversations import CONVERSATIONS
from tomoni.data.templates import CHATML
from tomoni.errors import ModelError
from tomoni.export.modelfile import Turn, modelfile, pieces


def _render(tokenizer: Any, template: str | None = None) -> Any:
    def render(turns: Sequence[Turn], asks: bool) -> str:
        more = {"chat_template": template} if template else {}
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=asks, **more))

    return render


def _told_by_go(template: str, turns: Sequence[Turn]) -> str:
    """What Go's text/template makes of it: a reader of just the actions that a Modelfile's template here may have, by
    their text, so that a wrong piece, a wrong order or a lost white space is seen."""
    system = next((turn["content"] for turn in turns if turn["role"] == "system"), "")
    head, loop = template.split("{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 }}")
    loop = loop.removesuffix("{{- end }}")
    if head.startswith("{{- if .System }}"):
        with_system, without = head.removeprefix("{{- if .System }}").removesuffix("{{- end }}").split("{{- else }}")
        head = with_system if system else without
    out = _said(head, system)
    user, rest = loop.removeprefix('{{- if eq .Role "user" }}').split('{{- else if eq .Role "assistant" }}')
    assistant, asking = rest.split('{{- end }}{{- if and $last (ne .Role "assistant") }}')
    before, after = assistant.split("{{- if not $last }}")
    for place, turn in enumerate(turns):
        last = place == len(turns) - 1
        if turn["role"] == "user":
            out += _said(user, turn["content"])
        elif turn["role"] == "assistant":
            out += _said(before, turn["content"]) + ("" if last else _said(after.removesuffix("{{- end }}"), ""))
        if last and turn["role"] != "assistant":
            out += _said(asking.removesuffix("{{- end }}"), "")
    return out


def _said(text: str, content: str) -> str:
    parts = re.findall(r'\{\{- (?:("(?:[^"\\]|\\.)*")|(\.Content|\.System)) \}\}', text)
    assert "".join(f"{{{{- {quoted or name} }}}}" for quoted, name in parts) == text
    return "".join(json.loads(quoted) if quoted else content for quoted, _ in parts)


@pytest.mark.parametrize("family", ["llama3", "qwen2.5", "zephyr", "chatml"])
def test_the_ollama_template_writes_what_the_chat_template_writes(family: str) -> None:
    tokenizer = model_templates.tokenizer("qwen2.5" if family == "chatml" else family)
    render = _render(tokenizer, CHATML if family == "chatml" else None)
    text = modelfile("m.gguf", render, stops=["<|end|>"], parameters={}).text
    found = re.search(r'TEMPLATE """(.*)"""\n', text, re.DOTALL)
    assert found
    for conversation in CONVERSATIONS:
        turns = [{"role": turn.role, "content": turn.content} for turn in conversation]
        assert _told_by_go(found[1], turns) == render(turns, True)


def test_a_begin_of_text_that_the_tokenizer_adds_is_not_written_twice() -> None:
    tokenizer = model_templates.tokenizer("gemma2")
    render = _render(tokenizer)
    turns = [{"role": "user", "content": "やあ"}]
    assert render(turns, True).startswith("<bos><start_of_turn>user\n")
    text = modelfile("m.gguf", render, stops=[], parameters={}, bos="<bos>").text
    assert "<bos>" not in text and "<start_of_turn>user" in text


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("gemma3", "a system message is written into the first user message"),
        ("mistral", "a system message is written into the first user message"),
        ("phi3", "what follows a message differs"),
    ],
)
def test_a_template_that_is_not_made_of_pieces_is_refused_with_the_reason(family: str, why: str) -> None:
    with pytest.raises(ModelError, match=why) as refused:
        pieces(_render(model_templates.tokenizer(family)))
    assert "llama.cpp" in refused.value.next_step


def test_a_template_that_counts_turns_is_found_out_by_longer_conversations() -> None:
    def render(turns: Sequence[Turn], asks: bool) -> str:
        said = "".join(f"<{turn['role']}>{turn['content']}</>" for turn in turns)
        return ("LONG" if len(turns) > 4 else "") + said + ("<assistant>" if asks else "")

    with pytest.raises(ModelError, match="LONG"):
        pieces(render)


@pytest.mark.parametrize(
    ("family", "whose"), [("llama3", "system, user, assistant"), ("gemma2", "user, assistant"), ("qwen2.5", None)]
)
def test_white_space_that_a_template_takes_off_messages_is_said(family: str, whose: str | None) -> None:
    render = _render(model_templates.tokenizer(family))
    padded = [{"role": "user", "content": " やあ\n"}]
    assert (render(padded, True) == render([{"role": "user", "content": "やあ"}], True)) is (whose is not None)
    made = modelfile("m.gguf", render, stops=[], parameters={})
    assert len(made.notes) == (whose is not None)
    if whose:
        assert f"off the ends of messages ({whose})" in made.notes[0] and f"# {made.notes[0]}\nFROM " in made.text


@pytest.mark.parametrize("taken", [str.lstrip, str.rstrip, lambda text: text.removesuffix("\n")])
def test_white_space_taken_off_one_end_of_one_persons_messages_is_found(taken: Callable[[str], str]) -> None:
    def render(turns: Sequence[Turn], asks: bool) -> str:
        said = [
            (turn["role"], taken(turn["content"]) if turn["role"] == "assistant" else turn["content"]) for turn in turns
        ]
        return "".join(f"<{role}>{text}</>" for role, text in said) + ("<assistant>" if asks else "")

    assert "(assistant)" in modelfile("m.gguf", render, stops=[], parameters={}).notes[0]


def test_a_template_that_marks_white_space_is_not_made_of_pieces() -> None:
    def render(turns: Sequence[Turn], asks: bool) -> str:
        said = "".join(f"<{turn['role']}>{turn['content']}</>" for turn in turns)
        return said.replace("\n</>", "\\n</>") + ("<assistant>" if asks else "")

    with pytest.raises(ModelError, match="with white space around a message of system"):
        modelfile("m.gguf", render, stops=[], parameters={})


def test_the_modelfile_names_file_stops_and_parameters() -> None:
    tokenizer = model_templates.tokenizer("qwen2.5")
    made = modelfile("model-f16.gguf", _render(tokenizer), stops=["<|im_end|>", 'a"b'], parameters={"temperature": 0})
    assert made.notes == ()
    lines = made.text.splitlines()
    assert lines[1] == "FROM ./model-f16.gguf"
    assert lines[-3:] == ['PARAMETER stop "<|im_end|>"', r'PARAMETER stop "a\"b"', "PARAMETER temperature 0"]
