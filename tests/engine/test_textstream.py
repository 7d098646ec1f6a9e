"""Streamed text against text decoded at once, for byte-level tokenizers and for SentencePiece's kind."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tomoni.engine.textstream import TextStream


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Pieces with "▁" for a space, which is dropped before a text's first word; bytes for what is no piece."""
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "日", "a", "b", "▁time", "</s>"]
    backend = Tokenizer(
        models.BPE(
            vocab={piece: at for at, piece in enumerate(pieces)}, merges=[], byte_fallback=True, unk_token="<unk>"
        )
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<s>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")


TOKENIZERS = {"byte-level": tiny.tokenizer(), "sentencepiece": sentencepiece_like()}
TEXTS = st.text(alphabet="ab 日本語ﾊﾟが🙂👩‍👧\n<", max_size=20)


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_the_parts_together_are_the_text_and_no_part_breaks_a_character(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    tokens = tokenizer.encode(text, add_special_tokens=False)
    stream = TextStream(tokenizer)
    parts = [*map(stream.add, tokens), stream.finish()]
    assert "".join(parts) == tokenizer.decode(tokens)
    assert not any("\ufffd" in part for part in parts)


@settings(max_examples=80, deadline=None)
@given(text=TEXTS, stops=st.lists(st.text(alphabet="ab日🙂 ", min_size=1, max_size=3), min_size=1, max_size=3))
def test_what_is_told_ends_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    tokenizer = TOKENIZERS["byte-level"]
    stream = TextStream(tokenizer, stop=stops)
    told = ""
    for token in tokenizer.encode(text):
        told += stream.add(token)
        assert not any(told.endswith(stop) for stop in stops)
        if stream.stopped:
            break
    told += stream.finish()
    # by trying every end: the longest beginning of the text in which no stop string is complete, up to where one begins
    ends = [at for stop in stops for at in [text.find(stop)] if at >= 0]
    complete = min((text.find(stop) + len(stop) for stop in stops if stop in text), default=None)
    if complete is None:
        assert told == text
    else:
        assert stream.stopped
        assert told in {text[:at] for at in ends}
        assert not any(stop in told for stop in stops)


def test_the_space_before_the_first_word_is_kept_behind_a_text_and_not_behind_a_control_token() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    time = tokenizer.convert_tokens_to_ids("▁time")
    behind_text = TextStream(tokenizer, prompt=tokenizer.encode("ab", add_special_tokens=False))
    behind_control = TextStream(tokenizer, prompt=[tokenizer.convert_tokens_to_ids("<s>")])
    assert behind_text.add(time) == " time"
    assert behind_control.add(time) == "time"


def test_a_prompt_that_ends_within_a_character_is_completed() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    tokens = tokenizer.encode("語")
    stream = TextStream(tokenizer, prompt=[*tokenizer.encode("x"), *tokens[:1]])
    parts = [stream.add(token) for token in [*tokens[1:], *tokenizer.encode("b")]]
    assert "".join(parts).endswith("b")


def test_a_replacement_character_that_stands_in_the_text_is_told() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    stream = TextStream(tokenizer)
    parts = [*map(stream.add, tokenizer.encode("a\ufffdb")), stream.finish()]
    assert "".join(parts) == "a\ufffdb"


def test_no_text_is_told_twice() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    stream = TextStream(tokenizer, stop=("zz",))
    told = [""]
    for token in tokenizer.encode("azbzzc"):
        told.append(told[-1] + stream.add(token))
    assert all(later.startswith(earlier) for earlier, later in pairwise(told))
    assert told[-1] == "azb"
    assert stream.finish() == ""
