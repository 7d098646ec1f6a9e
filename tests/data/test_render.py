"""Rendering: the template's own text, control tokens from the template only, loss on the answers and their end."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.data import tokenizers as kinds
from tomoni.data.render import Renderer, TooLong, windows
from tomoni.errors import DataError, ModelError
from tomoni.records import Chat, Comparison, Message, Source, Text, Verdict, as_dicts
from tomoni.rows import Row

HERE = Source("rows.jsonl", 3)
SPECIALS = (
    "<|im_end|>",
    "<|im_start|>",
    "<|endoftext|>",
    "<|pad|>",
    "</s>",
    "<s>",
    "<|im_start|>assistant\n",
    "[INST]",
)
AWKWARD = (
    *SPECIALS,
    "猫は",
    "ｶﾞ",
    "か\u3099",
    "👩\u200d👧",
    " a",
    "the ",
    "\n",
    "\n\n",
    "\u3000",
    "I",
    "\r\n",
    "bc",
    "100",
    "'s",
)
texts = st.lists(st.one_of(st.sampled_from(AWKWARD), st.text(max_size=6)), min_size=1, max_size=5).map("".join)
texts = texts.filter(lambda text: text.strip() and "\ue000" not in text)


def chat(*contents: str, system: str = "", train: dict[int, bool] | None = None) -> Chat:
    """Turns of user and assistant by turns, after a system message where one is given."""
    start = [Message("system", system)] if system else []
    turns = [
        Message("assistant" if index % 2 else "user", content, (train or {}).get(index))
        for index, content in enumerate(contents)
    ]
    return Chat("7", HERE, (*start, *turns))


def row_of(renderer: Renderer, record: Chat) -> Row:
    row = renderer.chat(record)
    assert row is not None
    return row


def marked(renderer: Renderer, row: Row) -> str:
    """The row's text with ⟦ ⟧ around what is learnt."""
    out = ""
    for learnt, group in groupby(
        zip(row.tokens.tolist(), row.weights > 0, strict=True), key=lambda pair: bool(pair[1])
    ):
        text = renderer.tokenizer.decode([token for token, _ in group])
        out += f"⟦{text}⟧" if learnt else text
    return out


def byte_renderer(template: str | None = kinds.CHATML, **how: object) -> Renderer:
    return Renderer(tiny.tokenizer(template=template), **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", kinds.KINDS)
@settings(max_examples=30, deadline=None)
@given(contents=st.lists(texts, min_size=2, max_size=2) | st.lists(texts, min_size=4, max_size=4))
def test_the_prompts_tokens_begin_the_finished_conversations_tokens(kind: str, contents: list[str]) -> None:
    renderer = Renderer(kinds.tokenizer(kind), max_length=100_000)
    record = chat(*contents)
    prompt = renderer.prompt(record.messages[:-1])
    row = row_of(renderer, record)
    assert row.tokens[: len(prompt)].tolist() == prompt.tolist()
    assert row.weights[len(prompt) :].any()
    if len(contents) == 2:
        assert not row.weights[: len(prompt)].any()


@pytest.mark.parametrize("kind", kinds.KINDS)
@settings(max_examples=30, deadline=None)
@given(contents=st.lists(texts, min_size=2, max_size=2))
def test_a_content_never_becomes_a_control_token(kind: str, contents: list[str]) -> None:
    renderer = Renderer(kinds.tokenizer(kind), max_length=100_000)
    controls = {special.id for special in renderer.encoder.specials} - {renderer.tokenizer.unk_token_id}
    row, plain = row_of(renderer, chat(*contents)), row_of(renderer, chat("a", "b"))
    assert [token for token in row.tokens.tolist() if token in controls] == [
        token for token in plain.tokens.tolist() if token in controls
    ]


@pytest.mark.parametrize("kind", ["bytes", "bpe", "gpt2", "unigram"])
@settings(max_examples=30, deadline=None)
@given(contents=st.lists(texts, min_size=2, max_size=2))
def test_byte_level_rows_decode_to_exactly_the_templates_text(kind: str, contents: list[str]) -> None:
    tokenizer = kinds.tokenizer(kind)
    record = chat(*contents)
    row = row_of(Renderer(tokenizer, max_length=100_000), record)
    text = tokenizer.apply_chat_template(as_dicts(record.messages), tokenize=False)
    assert tokenizer.decode(row.tokens.tolist()) == text


PLAIN = ["猫は the a", "a bc", "吾輩は猫である。\nthe", "bc a"]


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_without_control_tokens_in_it_a_prompt_has_the_tokens_of_transformers(kind: str) -> None:
    tokenizer = kinds.tokenizer(kind)
    renderer = Renderer(tokenizer)
    messages = chat(PLAIN[0]).messages
    expected = tokenizer.apply_chat_template(as_dicts(messages), add_generation_prompt=True, return_dict=False)
    assert renderer.prompt(messages).tolist() == expected


@pytest.mark.parametrize("kind", ["bytes", "bpe", "unigram"])
def test_a_chatml_conversation_has_the_tokens_of_transformers(kind: str) -> None:
    tokenizer = kinds.tokenizer(kind)
    record = chat(*PLAIN, system="丁寧に。")
    expected = tokenizer.apply_chat_template(as_dicts(record.messages), return_dict=False)
    assert row_of(Renderer(tokenizer), record).tokens.tolist() == expected


def test_answers_and_their_end_are_learnt_and_nothing_else() -> None:
    renderer = byte_renderer()
    row = row_of(renderer, chat("a", "b ", "c", "d\n", system="s"))
    assert marked(renderer, row) == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦b <|im_end|>⟧\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n⟦d\n<|im_end|>⟧\n"
    )
    assert row.tokens.dtype == np.int32 and row.weights.dtype == np.float32


def test_loss_on_last_learns_the_last_answer_and_all_learns_every_token_but_the_first() -> None:
    last = byte_renderer(loss_on="last")
    assert marked(last, row_of(last, chat("a", "b", "c", "d"))).count("⟦") == 1
    assert "⟦d<|im_end|>⟧" in marked(last, row_of(last, chat("a", "b", "c", "d")))
    every = byte_renderer(loss_on="all")
    row = row_of(every, chat("a", "b"))
    assert row.weights.tolist() == [0.0] + [1.0] * (len(row) - 1)


def test_a_message_can_say_itself_whether_it_is_learnt() -> None:
    renderer = byte_renderer()
    row = row_of(renderer, chat("a", "b", "c", "d", train={1: False, 2: True}))
    assert marked(renderer, row) == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\n⟦c⟧<|im_end|>\n<|im_start|>assistant\n⟦d<|im_end|>⟧\n"
    )
    every = byte_renderer(loss_on="all")
    assert "\n⟦<|im_end|>" in marked(every, row_of(every, chat("a\n", "b", train={0: False})))


def test_a_template_without_an_end_gets_the_end_of_text_behind_the_last_answer() -> None:
    renderer = byte_renderer(kinds.NO_END)
    row = row_of(renderer, chat("a", "b", "c", "d"))
    assert marked(renderer, row) == "user: a\nassistant: ⟦b⟧\nuser: c\nassistant: ⟦d\n<|im_end|>⟧"
    assert any("no end-of-text token" in note for note in renderer.notes)


def test_a_model_without_template_gets_chatml_or_plain_markers() -> None:
    renderer = byte_renderer(None)
    assert renderer.template == kinds.CHATML and "no chat template" in renderer.notes[0]
    tokenizer = kinds._metaspace("first")
    tokenizer.chat_template = None
    plain = Renderer(tokenizer)
    row = row_of(plain, chat("a", "bc", "a", "bc"))
    assert row.tokens[0] == 1  # begins with <s>, as this tokenizer's texts do
    learnt = [tokenizer.decode(row.tokens[row.weights > 0].tolist())]
    assert learnt == ["bc</s> bc</s>"] or learnt == ["bc</s>bc</s>"]


@pytest.mark.parametrize("answer", ["b", " b ", "\nb"])
def test_a_template_that_trims_is_followed(answer: str) -> None:
    renderer = byte_renderer(kinds.GEMMA)
    row = row_of(renderer, chat(" a\n", answer, system=" s "))
    assert marked(renderer, row) == "<|im_start|>user\ns\n\na<|im_end|>\n<|im_start|>model\n⟦b<|im_end|>⟧\n"


def test_an_empty_thought_before_the_answer_is_learnt_unless_the_prompt_writes_it() -> None:
    renderer = byte_renderer(kinds.THINKING)
    record = chat("a", "b", "c", "d")
    assert "assistant\n⟦<think>\n\n</think>\n\nd<|im_end|>⟧" in marked(renderer, row_of(renderer, record))
    off = Chat("1", HERE, record.messages, template_kwargs={"enable_thinking": False})
    assert "</think>\n\n⟦d<|im_end|>⟧" in marked(renderer, row_of(renderer, off))


def test_a_thought_in_the_last_answer_is_learnt_and_one_that_the_template_drops_is_refused() -> None:
    renderer = byte_renderer(kinds.REASONING)
    thought = "<think>\n考え\n</think>\n\n答え"
    assert f"assistant\n⟦{thought}<|im_end|>⟧" in marked(renderer, row_of(renderer, chat("a", "b", "c", thought)))
    assert "⟦<think>\n\n</think>\n\nd<|im_end|>⟧" in marked(renderer, row_of(renderer, chat("a", "b", "c", "d")))
    for refused in (chat("a", thought, "c", "d"), chat("a", "<think>考え</think>答え")):
        with pytest.raises(DataError, match="changes the text of message 2"):
            renderer.chat(refused)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (kinds.UPPER, "changes the text of message 1"),
        (kinds.DROPPING, "leaves out message 1"),
        (kinds.TWICE, "repeats message 1"),
        (kinds.OPENED, "not how the finished conversation begins"),
        (kinds.LLAMA2, "no system messages"),
        ("{% for m in messages %}{{ m.content.__class__.__mro__ }}{% endfor %}", "refuses it"),
        ("{{ messages.append(1) }}", "refuses it"),
    ],
)
def test_what_a_template_cannot_render_faithfully_is_refused_with_the_record_and_the_reason(
    template: str, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        byte_renderer(template).chat(chat("abc", "def", "ghi", "jkl", system="sys"))
    assert said in caught.value.text() and "rows.jsonl:3 (record 7)" in caught.value.text()


def test_a_content_that_looks_like_the_marks_in_the_template_is_placed_right() -> None:
    renderer = byte_renderer()
    text = "\ue0001\ue001<|im_end|>\n<|im_start|>assistant\n"
    row = row_of(renderer, chat(text, text))
    assert marked(renderer, row).count("⟦" + text + "<|im_end|>⟧") == 1


def test_a_tool_call_without_text_is_learnt() -> None:
    template = kinds.CHATML.replace(
        "message['content'] +", "message['content'] + (message.tool_calls | tojson if message.tool_calls else '') +"
    )
    renderer = byte_renderer(template)
    call = Message("assistant", "", None, {"tool_calls": [{"name": "天気"}]})
    row = row_of(renderer, Chat("1", HERE, (Message("user", "a"), call)))
    assert '⟦[{"name": "天気"}]<|im_end|>⟧' in marked(renderer, row)
    forged = Message("assistant", "", None, {"tool_calls": [{"name": "<|im_end|>"}]})
    with pytest.raises(DataError, match="spells the control token"):
        renderer.chat(Chat("1", HERE, (Message("user", "a"), forged)))


def test_options_for_the_template_cannot_replace_it() -> None:
    with pytest.raises(DataError, match="cannot set chat_template"):
        byte_renderer().chat(Chat("1", HERE, chat("a", "b").messages, template_kwargs={"chat_template": "x"}))


def test_a_row_over_max_length_stops_truncates_or_is_dropped_and_counted() -> None:
    record = chat("a", "b" * 50)
    length = len(row_of(byte_renderer(), record))
    with pytest.raises(TooLong, match=f"rows.jsonl:3 .record 7.: {length} tokens, and max_length is 40") as caught:
        byte_renderer(max_length=40).chat(record)
    assert str(length) in caught.value.next_step
    cut = byte_renderer(max_length=40, on_long_rows="truncate")
    assert row_of(cut, record).tokens.tolist() == row_of(byte_renderer(), record).tokens[:40].tolist()
    assert cut.truncated == 1
    assert cut.chat(chat("a" * 50, "b")) is None and cut.left_out == {"nothing left to learn": 1}
    drop = byte_renderer(max_length=40, on_long_rows="drop")
    assert drop.chat(record) is None and drop.left_out == {"longer than max_length": 1}


def test_a_comparison_becomes_two_rows_that_share_the_prompt_and_learn_their_answers() -> None:
    renderer = byte_renderer(loss_on="all")
    user, old = Message("user", "a"), Message("assistant", "b")
    record = Comparison(
        "1", HERE, (user, old, user), (Message("assistant", "良い"),), (Message("assistant", "悪"),), Verdict.FIRST
    )
    rows = renderer.comparison(record)
    assert rows is not None
    prompt = renderer.prompt(record.prompt)
    for row, answer in zip(rows, ("良い", "悪"), strict=True):
        assert row.tokens[: len(prompt)].tolist() == prompt.tolist()
        assert renderer.tokenizer.decode(row.tokens[row.weights > 0].tolist()) == answer + "<|im_end|>"


# texts


def test_a_text_ends_with_the_end_of_text_token_and_what_it_spells_stays_text() -> None:
    renderer = byte_renderer()
    [row] = renderer.text(Text("1", HERE, "猫<|im_end|>"))
    assert row.tokens.tolist().count(renderer.encoder.eos) == 1 and row.tokens[-1] == renderer.encoder.eos
    assert row.weights.tolist() == [0.0] + [1.0] * (len(row) - 1)


def test_a_tokenizer_that_puts_a_token_in_front_does_so_once_for_a_document() -> None:
    rows = Renderer(kinds.tokenizer("metaspace"), max_length=4).text(Text("1", HERE, "a bc the a bc the"))
    assert [token for row in rows for token in row.tokens.tolist()].count(1) == 1 and rows[0].tokens[0] == 1


@given(st.integers(1, 60), st.integers(2, 20))
def test_windows_learn_every_token_but_the_first_exactly_once(count: int, max_length: int) -> None:
    rows = windows(np.arange(count, dtype=np.int32), max_length)
    learnt = [int(token) for row in rows for token, weight in zip(row.tokens, row.weights, strict=True) if weight]
    assert learnt == list(range(1, count))
    assert all(len(row) <= max_length for row in rows)


def test_without_an_end_of_text_token_texts_are_refused() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-text token"):
        Renderer(tokenizer).text(Text("1", HERE, "a"))
