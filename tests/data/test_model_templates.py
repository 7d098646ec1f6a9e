"""The chat templates of known model families: what is learnt, what ends an answer, what is refused."""

from __future__ import annotations

from datetime import datetime

import pytest
from transformers.utils import chat_template_utils

from tests.data.model_templates import FAMILIES, tokenizer
from tests.data.test_render import HERE, chat, marked, row_of
from tomoni.data.render import Renderer
from tomoni.errors import DataError
from tomoni.records import Chat, Message

# two turns, without and with a system message; written by hand after each family's published format
EXPECTED = {
    ("llama3", ""): "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n猫は？<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟦います。<|eot_id|>⟧"
    "<|start_header_id|>user<|end_header_id|>\n\nwhere<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟦here<|eot_id|>⟧",
    ("qwen2.5", ""): "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n猫は？<|im_end|>\n"
    "<|im_start|>assistant\n⟦います。<|im_end|>⟧\n<|im_start|>user\nwhere<|im_end|>\n"
    "<|im_start|>assistant\n⟦here<|im_end|>⟧\n",
    ("qwen2.5", "丁寧に"): "<|im_start|>system\n丁寧に<|im_end|>\n<|im_start|>user\n猫は？<|im_end|>\n"
    "<|im_start|>assistant\n⟦います。<|im_end|>⟧\n<|im_start|>user\nwhere<|im_end|>\n"
    "<|im_start|>assistant\n⟦here<|im_end|>⟧\n",
    ("gemma2", ""): "<bos><start_of_turn>user\n猫は？<end_of_turn>\n<start_of_turn>model\n⟦います。<end_of_turn>⟧\n"
    "<start_of_turn>user\nwhere<end_of_turn>\n<start_of_turn>model\n⟦here<end_of_turn>⟧\n",
    ("gemma3", "丁寧に"): "<bos><start_of_turn>user\n丁寧に\n\n猫は？<end_of_turn>\n"
    "<start_of_turn>model\n⟦います。<end_of_turn>⟧\n"
    "<start_of_turn>user\nwhere<end_of_turn>\n<start_of_turn>model\n⟦here<end_of_turn>⟧\n",
    # nothing but the end of the question asks for the answer: the space in front is the model's to write, in each turn
    ("mistral", "丁寧に"): "<s>[INST] 丁寧に\n\n猫は？[/INST]⟦ います。</s>⟧[INST] where[/INST]⟦ here</s>⟧",
    # the control tokens swallow the line breaks behind them
    ("phi3", "丁寧に"): "<|system|>丁寧に<|end|><|user|>猫は？<|end|><|assistant|>⟦います。<|end|>⟧"
    "<|user|>where<|end|><|assistant|>⟦here<|end|>⟧<|endoftext|>",
    # the prompt stops before the line break, so the model has to write that too
    (
        "zephyr",
        "",
    ): "<|user|>\n猫は？</s>\n<|assistant|>⟦\nいます。</s>⟧\n<|user|>\nwhere</s>\n<|assistant|>⟦\nhere</s>⟧\n",
}


@pytest.mark.parametrize(("family", "system"), EXPECTED)
def test_the_answers_of_each_family_are_learnt_with_the_token_that_ends_them(family: str, system: str) -> None:
    renderer = Renderer(tokenizer(family))
    record = chat("猫は？", "います。", "where", "here", system=system)
    row = row_of(renderer, record)
    assert marked(renderer, row) == EXPECTED[family, system]
    for turns in (1, 3):  # each answer begins where the prompt for it ends
        messages = record.messages[: turns + len(record.messages) - 4]
        prompt = renderer.prompt(messages)
        assert row.tokens[: len(prompt)].tolist() == prompt.tolist()
        assert row.weights[len(prompt)] == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversations_tokens_are_those_of_transformers(family: str) -> None:
    renderer = Renderer(tokenizer(family))
    record = chat("猫は？", "います。", "where", "here")
    dicts = [{"role": message.role, "content": message.content} for message in record.messages]
    own = renderer.tokenizer.apply_chat_template(dicts, tokenize=True, return_dict=False)
    assert row_of(renderer, record).tokens.tolist() == list(own)


@pytest.mark.parametrize(
    ("family", "says"),
    [("gemma2", "System role not supported"), ("mistral_last", r"leaves out message 1 \(of the system\)")],
)
def test_a_system_message_that_a_family_cannot_tell_is_refused(family: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        Renderer(tokenizer(family)).chat(chat("a", "b", system="s"))


@pytest.mark.parametrize(
    ("family", "stops"),
    [
        ("llama3", ["<|eot_id|>"]),
        ("gemma3", ["<end_of_turn>", "<eos>"]),
        ("phi3", ["<|end|>", "<|endoftext|>"]),
        ("zephyr", ["</s>"]),
    ],
)
def test_an_answer_is_ended_by_what_the_template_puts_behind_it_and_by_the_end_of_text(
    family: str, stops: list[str]
) -> None:
    renderer = Renderer(tokenizer(family))
    assert renderer.tokenizer.convert_ids_to_tokens(list(renderer.stop_tokens)) == stops


def test_a_template_that_writes_the_date_is_noted_and_outlives_midnight(monkeypatch: pytest.MonkeyPatch) -> None:
    dated = FAMILIES["llama3"].template.replace(
        "{{ system + ", "{{ 'Today: ' + strftime_now('%d') + '\\n\\n' }}{{ system + "
    )
    renderer = Renderer(tokenizer("llama3"), template=dated)
    assert any("date" in note for note in renderer.notes)
    record = chat("a", "b")

    class Clock(datetime):
        today_is = 30

        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(2026, 12, cls.today_is)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    before = marked(renderer, row_of(renderer, record))
    Clock.today_is = 31
    behind = marked(renderer, row_of(renderer, record))
    assert "Today: 30" in before
    assert behind == before.replace("Today: 30", "Today: 31")


@pytest.mark.parametrize(
    ("family", "told"),
    [("llama3", '"{\\"天気\\": \\"晴れ\\"}"'), ("qwen2.5", '<tool_response>\n{"天気": "晴れ"}\n</tool_response>')],
)
def test_a_tools_result_is_seen_and_the_call_and_the_answer_are_learnt(family: str, told: str) -> None:
    function = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
    call = {"tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"place": "京都"}}}]}
    turns = (
        Message("user", "天気は？"),
        Message("assistant", "", extra=call),
        Message("tool", '{"天気": "晴れ"}'),
        Message("assistant", "晴れです。"),
    )
    renderer = Renderer(tokenizer(family))
    text = marked(renderer, row_of(renderer, Chat("1", HERE, turns, ({"type": "function", "function": function},))))
    learnt = [part.split("⟧")[0] for part in text.split("⟦")[1:]]
    end = renderer.tokenizer.convert_ids_to_tokens(renderer.stop_tokens[0])
    assert len(learnt) == 2
    assert '{"place": "京都"}' in learnt[0]
    assert learnt[0].endswith(end)
    assert learnt[1] == f"晴れです。{end}"
    assert told in text
