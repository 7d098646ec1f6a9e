"""The tokenizer in a GGUF file gives llama.cpp the same ids, or the export is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from tests import tiny
from tests.data import model_templates
from tests.data import tokenizers as kinds
from tests.export import models
from tomoni.data.render import Renderer
from tomoni.data.templates import CHATML
from tomoni.data.vocabulary import SPECIAL_TOKENS, train_tokenizer
from tomoni.errors import ModelError
from tomoni.evaluate.subject import open_subject
from tomoni.export import vocabulary
from tomoni.export.answers import Prompt
from tomoni.export.llamacpp import LlamaCpp
from tomoni.export.readers import written
from tomoni.export.vocabulary import vocabulary_of
from tomoni.records import Message

WORDS = [*kinds.TEXTS, *models.TEXTS, "THEY'LL 1234567 ABCdef"] * 4


def _split_by(*steps: Any, ignore_merges: bool = False) -> Any:
    """A byte-level tokenizer with its own expressions, trained on the test's texts."""
    backend = Tokenizer(tokenizer_models.BPE(ignore_merges=ignore_merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(WORDS, trainer)
    made = TokenizersBackend(tokenizer_object=backend, eos_token="<|endoftext|>")
    made.chat_template = CHATML
    return made


def _expression(text: str) -> Any:
    return pre_tokenizers.Split(Regex(text), behavior="isolated")


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
MADE = {
    "gpt-2": lambda: train_tokenizer(WORDS, vocab_size=600, pre_tokenizer="gpt2"),
    "gpt-2 learnt within scripts": lambda: train_tokenizer(
        WORDS, vocab_size=600, pre_tokenizer="gpt2", split_scripts=True
    ),
    "qwen2": lambda: train_tokenizer(WORDS, vocab_size=600),
    "smollm": lambda: _split_by(pre_tokenizers.Digits(individual_digits=True), GPT2),
    "llama-bpe": lambda: _split_by(_expression(vocabulary.LLAMA3), BYTES, ignore_merges=True),
    "dbrx": lambda: _split_by(_expression(vocabulary.LLAMA3), BYTES),
}


@pytest.mark.parametrize("name", MADE)
def test_llamacpp_splits_hard_texts_into_the_same_tokens(tmp_path: Path, name: str) -> None:
    tokenizer = MADE[name]()
    model = tiny.model("llama", vocab_size=640)
    plan = models.written(tmp_path / "m.gguf", model, tokenizer)
    assert plan.vocabulary.split == name.partition(" ")[0]
    wanted = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in models.TEXTS]
    found = models.ids_in_llamacpp(tmp_path / "m.gguf", models.TEXTS)
    assert [ids.tolist() for ids in found] == wanted


def test_the_bundled_tokenizer_has_the_split_of_gpt2(tmp_path: Path) -> None:
    subject = open_subject("bundled:small")
    models.written(tmp_path / "m.gguf", subject.model, subject.tokenizer)
    wanted = [subject.renderer.encoder.plain(text) for text in models.TEXTS]
    found = models.ids_in_llamacpp(tmp_path / "m.gguf", models.TEXTS)
    assert [ids.tolist() for ids in found] == wanted
    assert vocabulary_of(subject.tokenizer, 2048).split == "gpt-2"


def _sentencepiece(scheme: str) -> Any:
    """As Llama 2's and Mistral's tokenizers come: a mark before the first word, before each text, or by a normalizer.
    Gemma's puts none."""
    from tokenizers import normalizers

    tokenizer = copy.deepcopy(kinds.tokenizer("metaspace_always" if scheme == "always" else "metaspace"))
    if scheme == "normalizer":
        marks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(marks)
        tokenizer.backend_tokenizer.pre_tokenizer = None
    if scheme == "gemma":  # no mark in front, and a split at spaces of which none are left
        tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return tokenizer


@pytest.mark.parametrize("scheme", ["first", "always", "normalizer", "gemma"])
def test_sentencepiece_with_bytes_gives_the_same_tokens_of_texts(tmp_path: Path, scheme: str) -> None:
    tokenizer = _sentencepiece(scheme)
    model = tiny.model("llama", vocab_size=len(tokenizer))
    plan = models.written(tmp_path / "m.gguf", model, tokenizer, chats=False)
    assert plan.vocabulary.model == "llama" and plan.vocabulary.adds_bos
    texts = ("the bc the 猫は猫", "a 🙂 がabc  the", "ＡＢＣ", "he bcbc the", "行\nの文")
    found = models.ids_in_llamacpp(tmp_path / "m.gguf", texts)
    assert [ids.tolist() for ids in found] == [tokenizer(text)["input_ids"] for text in texts]


@pytest.mark.parametrize("template", [kinds.LLAMA2, model_templates.ZEPHYR])
@pytest.mark.parametrize("scheme", ["first", "always", "normalizer", "gemma"])
def test_sentencepiece_with_bytes_gives_the_same_tokens_of_chats(tmp_path: Path, scheme: str, template: str) -> None:
    """One template begins with the begin-of-text token, the other has none although the tokenizer would add it."""
    tokenizer = _sentencepiece(scheme)
    tokenizer.chat_template = template
    render = Renderer(tokenizer)
    model = tiny.model("llama", vocab_size=len(tokenizer))
    if scheme == "first" and template == model_templates.ZEPHYR:  # a mark before the first text and before no other
        with pytest.raises(ModelError, match="one way of putting ▁ in front of texts"):
            vocabulary_of(tokenizer, len(tokenizer), template)
        return
    models.written(tmp_path / "m.gguf", model, tokenizer, template=template)
    with LlamaCpp(tmp_path / "m.gguf", bos="<s>" if template == kinds.LLAMA2 else "") as program:
        for content in ("the bc the", "abc 猫は 🙂", "行 the  he"):
            prompt = Prompt("a", (Message("user", content),))
            assert program.text(prompt) == written(tokenizer, None, prompt)
            assert program.tokens(prompt).tolist() == render.prompt(prompt.messages).tolist()


def test_a_unigram_tokenizer_is_refused_by_its_name() -> None:
    with pytest.raises(ModelError, match="this Unigram tokenizer") as refused:
        vocabulary_of(kinds.tokenizer("unigram"), 400)
    assert "byte-level BPE" in refused.value.text() and "--to hf" in refused.value.next_step


def test_a_split_that_llamacpp_does_not_know_is_refused_and_named() -> None:
    tokenizer = _split_by(_expression(r"\p{Han}+|\d{2}"), BYTES)
    with pytest.raises(ModelError, match=r"has no split like this tokenizer's.*\\\\p\{Han\}\+\|\\\\d\{2\}"):
        vocabulary_of(tokenizer, 600)


def test_whole_words_before_merges_belong_to_the_split() -> None:
    """Llama 3's expression stands under two names in llama.cpp: one looks a whole word up before it merges."""
    with pytest.raises(ModelError, match="has no split like"):
        vocabulary_of(_split_by(GPT2, ignore_merges=True), 600)


def test_a_tokenizer_that_lowercases_is_refused() -> None:
    from tokenizers import normalizers

    tokenizer = _split_by(GPT2)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ModelError, match=r"changes text before it splits it \(Lowercase\)"):
        vocabulary_of(tokenizer, 600)


def test_composition_of_characters_is_told_because_llamacpp_leaves_it_out() -> None:
    from tokenizers import normalizers

    tokenizer = _split_by(GPT2)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    assert "NFC" in " ".join(vocabulary_of(tokenizer, 600).notes)


def test_a_tokenizer_without_an_end_is_refused() -> None:
    tokenizer = tiny.tokenizer(template=None)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="has a token that ends an answer"):
        vocabulary_of(tokenizer, tiny.VOCABULARY)


def test_rows_of_the_embeddings_without_a_token_are_unused() -> None:
    found = vocabulary_of(tiny.tokenizer(), tiny.VOCABULARY + 4)
    assert found.kinds[-4:] == (vocabulary.UNUSED,) * 4 and len(set(found.tokens)) == tiny.VOCABULARY + 4
    assert found.kinds[:256] == (vocabulary.NORMAL,) * 256
    assert found.kinds[256:260] == (vocabulary.CONTROL,) * 4


@pytest.mark.parametrize("eos", ["<|endoftext|>", "<|im_end|>"])
def test_an_answer_ends_at_eos_and_at_the_end_of_the_turn_and_nowhere_else(tmp_path: Path, eos: str) -> None:
    tokenizer = train_tokenizer(WORDS, vocab_size=600)
    tokenizer.eos_token = eos
    models.written(tmp_path / "m.gguf", tiny.model("llama", vocab_size=600), tokenizer)
    asked = np.array([300, 301], dtype=np.int32)
    with LlamaCpp(tmp_path / "m.gguf") as program:
        ending = {token for token in [*range(len(SPECIAL_TOKENS)), 11, 300] if program.ends_at(token, asked)}
    turn_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert {tokenizer.eos_token_id, turn_end} <= ending
    assert ending <= {tokenizer.convert_tokens_to_ids("<|endoftext|>"), turn_end}


def test_the_template_in_the_file_writes_the_same_text(tmp_path: Path) -> None:
    from tests.export.conversations import CONVERSATIONS

    tokenizer = train_tokenizer(WORDS, vocab_size=600)
    models.written(tmp_path / "m.gguf", tiny.model("llama", vocab_size=600), tokenizer)
    with LlamaCpp(tmp_path / "m.gguf") as program:
        for turns in CONVERSATIONS:
            asked = [{"role": turn.role, "content": turn.content} for turn in turns]
            wanted = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
            assert program.text(Prompt("a", turns)) == wanted
