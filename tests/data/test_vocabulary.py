"""Trained tokenizers: lossless on any text, the same on every run, split as llama.cpp splits."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import tokenizers as kinds
from tomoni.data.tokenize import Encoder, fingerprint, load_tokenizer
from tomoni.data.vocabulary import SPECIAL_TOKENS, train_tokenizer
from tomoni.errors import ConfigError, ModelError

TRAINED = ("bpe", "gpt2", "unigram")


@pytest.mark.parametrize("kind", TRAINED)
@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_every_text_comes_back_unchanged(kind: str, text: str) -> None:
    encoder = Encoder(kinds.tokenizer(kind))
    assert encoder.tokenizer.decode(encoder.plain(text)) == text


@pytest.mark.parametrize("kind", TRAINED)
def test_normal_forms_half_width_and_control_characters_are_kept(kind: str) -> None:
    text = "が か\u3099 ｶﾞ Ａ１ \u3000 👩\u200d👧 \r\n\t\x00 <|im_end|><|mask|> ＝＝"
    encoder = Encoder(kinds.tokenizer(kind))
    assert encoder.tokenizer.decode(encoder.plain(text)) == text
    assert not set(encoder.plain(text)) & set(range(len(SPECIAL_TOKENS)))


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_the_same_text_gives_the_same_tokenizer_and_another_text_another(kind: str) -> None:
    made = [train_tokenizer(kinds.TEXTS, kind=kind, vocab_size=350) for _ in range(2)]  # type: ignore[arg-type]
    assert fingerprint(made[0]) == fingerprint(made[1])
    other = train_tokenizer(["まったく別の文章です。"] * 9, kind=kind, vocab_size=350)  # type: ignore[arg-type]
    assert fingerprint(other) != fingerprint(made[0])


@pytest.mark.parametrize("kind", TRAINED)
def test_what_is_common_becomes_one_token_and_special_tokens_have_the_first_ids(kind: str) -> None:
    tokenizer = kinds.tokenizer(kind)
    assert len(tokenizer) == 400
    assert tokenizer.convert_ids_to_tokens(list(range(len(SPECIAL_TOKENS)))) == list(SPECIAL_TOKENS)
    assert tokenizer.eos_token == "<|endoftext|>" and tokenizer.pad_token == "<|pad|>"
    text = kinds.TEXTS[0]
    assert len(Encoder(tokenizer).plain(text)) < 0.7 * len(text.encode())


def test_qwen2_takes_digits_one_by_one_and_gpt2_together() -> None:
    texts = ["2024年2024年 2024 2024"] * 50
    qwen, gpt = (train_tokenizer(texts, vocab_size=300, pre_tokenizer=name) for name in ("qwen2", "gpt2"))
    assert qwen.tokenize("2024") == ["2", "0", "2", "4"] and gpt.tokenize("2024") == ["2024"]


def test_a_tokenizer_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    tokenizer = kinds.tokenizer("bpe")
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert fingerprint(loaded) == fingerprint(tokenizer) and loaded.chat_template == tokenizer.chat_template


def test_too_small_a_vocabulary_and_no_text_are_errors() -> None:
    with pytest.raises(ConfigError, match="too small: bytes and special tokens alone are 263"):
        train_tokenizer(["a"], vocab_size=262)
    for kind in ("bpe", "unigram"):
        with pytest.raises(ConfigError, match="no text"):
            train_tokenizer([], vocab_size=300, kind=kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, "there is no folder"),
        ({}, "holds no tokenizer"),
        ({"tokenizer.json": "{"}, "cannot be read"),
        ({"tokenizer.json": "{}", "tokenizer_config.json": "["}, "not valid JSON"),
        ({"tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["own.Own", null]}}'}, "code of its own"),
    ],
)
def test_a_folder_without_a_sound_tokenizer_is_refused(tmp_path: Path, files: dict[str, str] | None, said: str) -> None:
    folder = tmp_path / "model"
    if files is not None:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(content)
    with pytest.raises(ModelError, match=said):
        load_tokenizer(folder)
