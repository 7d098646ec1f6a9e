"""Where tokens stand in the text, exactly, through every layout of Japanese tokenizers."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from tests.data import japanese
from tomoni.data.align import nfkc, normalised, places_of
from tomoni.data.encode import TextEncoder
from tomoni.data.tasks import TaskRenderer
from tomoni.data.words import word_places
from tomoni.records import Source, Span, Tagged, Text

WILD = st.text(
    alphabet=st.one_of(
        st.sampled_from(list(japanese.TEXT)),
        st.sampled_from(list("ｶﾞﾊﾟｱｲＡ１ａがパか\u3099ハ\u309a㌔㍻①ﬁé́☀️👍🏽👨‍👩‍👧🇯🇵𠮷　 \n")),
    ),
    min_size=1,
    max_size=24,
)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextEncoder]:
    root = tmp_path_factory.mktemp("字")
    made: dict[str, Any] = {
        "mecab": japanese.tohoku(root / "mecab"),
        "characters": japanese.tohoku(root / "characters", parts="character"),
        "sudachi": japanese.tohoku(root / "sudachi", words="sudachi"),
        "lower": japanese.tohoku(root / "lower", lower=True),
        "sentencepiece": japanese.unigram(["▁", *japanese.letters(), "東京", "ガス", "パン"]),
        "wordpiece": japanese.wordpiece([*japanese.letters(), *(f"##{one}" for one in japanese.letters()), "東京"]),
        "bytes": tiny.encoder_tokenizer(),
    }
    return {name: TextEncoder(tokenizer) for name, tokenizer in made.items()}


LAYOUTS = ("mecab", "characters", "sudachi", "lower", "sentencepiece", "wordpiece", "bytes")


@pytest.mark.parametrize("name", LAYOUTS)
@given(text=WILD)
def test_the_tokens_are_the_tokenizers_own_and_their_places_cover_all_but_white_space(
    layouts: dict[str, TextEncoder], name: str, text: str
) -> None:
    encoder = layouts[name]
    pieces = encoder.pieces(text)
    own = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert list(pieces.ids) == list(own)
    assert all(0 <= start < end <= len(text) for start, end in pieces.places)
    assert list(pieces.places) == sorted(pieces.places)
    covered = np.zeros(len(text), dtype=bool)
    for start, end in pieces.places:
        covered[start:end] = True
    missed = [letter for letter, seen in zip(text, covered, strict=True) if not seen and not letter.isspace()]
    invisible = [one for one in missed if unicodedata.category(one) in ("Cf", "Mn") or not nfkc(one).strip()]
    assert missed == invisible


@pytest.mark.parametrize("name", ["mecab", "characters", "sudachi", "sentencepiece", "wordpiece"])
def test_a_known_tokens_place_holds_the_token_itself(layouts: dict[str, TextEncoder], name: str) -> None:
    encoder = layouts[name]
    text = "山田さんは東京のﾊﾟﾝ、ガスとＡＢＣ。"
    for id, (start, end) in zip(encoder.pieces(text).ids, encoder.pieces(text).places, strict=True):
        token = encoder.tokenizer.convert_ids_to_tokens(int(id)).removeprefix("##").replace("▁", "")
        if id != encoder.unknown and token:
            assert nfkc(token) in nfkc(text[start:end])


@given(text=WILD)
def test_every_part_of_a_normalised_text_is_normalised_by_itself(text: str) -> None:
    known = normalised(text, nfkc)
    assert known.text == nfkc(text)
    assert len(known.places) == len(known.text)
    parts = list(dict.fromkeys(known.places))
    assert "".join(nfkc(text[start:end]) for start, end in parts) == known.text


def test_words_are_found_one_after_another_or_not_at_all() -> None:
    text = normalised("ｶﾞｽ と ガス", nfkc)
    assert places_of(["ガス", "と", "ガス"], text) == [(0, 2), (3, 4), (5, 7)]
    assert text.place(0, 2) == (0, 3)
    assert places_of(["ガス", "を", "ガス"], text) is None
    assert places_of(["ガス"], text) is None


def test_a_control_token_that_a_text_spells_is_only_its_characters(layouts: dict[str, TextEncoder]) -> None:
    for name in ("mecab", "sentencepiece", "wordpiece", "bytes"):
        encoder = layouts[name]
        specials = set(encoder.tokenizer.all_special_ids) - {encoder.unknown}
        assert specials.isdisjoint(encoder.pieces("前[SEP]後[CLS]").ids), name


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_text_and_two_are_framed_as_the_tokenizer_frames_them(layouts: dict[str, TextEncoder], name: str) -> None:
    encoder = layouts[name]
    one, two = "東京の大学", "ガスとパン"
    for texts in ((one,), (one, two)):
        framed = encoder.framed(*(encoder.pieces(text) for text in texts))
        own = encoder.tokenizer(*texts, return_token_type_ids=True)
        assert framed.tokens.tolist() == list(own["input_ids"])
        assert framed.segments.tolist() == list(own["token_type_ids"])


def test_a_tokenizer_that_makes_ha_of_ba_is_told_of() -> None:
    stripped = japanese.wordpiece(["ハ", "ス", "か", "へ", "##ス"], strip_accents=True, lowercase=True)
    assert any("バ becomes ハ" in note for note in TextEncoder(stripped).notes)
    kept = japanese.wordpiece(["バ", "ハ", "が", "か", "ペ", "へ"])
    assert TextEncoder(kept).notes == ()


@given(st.data())
def test_marked_spans_come_back_from_their_tags_whole(data: st.DataObject) -> None:
    """Through bytes, where every character has tokens of its own."""
    from tomoni.evaluate.spans import found_spans

    text = data.draw(st.text(alphabet="東京はéか\u3099👍ｶﾞ a", min_size=4, max_size=40).filter(lambda t: t.strip()))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=6, unique=True)))
    spans = tuple(
        Span(start, end, "ab"[n % 2])
        for n, (start, end) in enumerate(zip(cuts[::2], cuts[1::2], strict=False))
        if not text[start].isspace() and not text[end - 1].isspace()
    )
    render = TaskRenderer(
        tiny.encoder_tokenizer(), max_length=data.draw(st.sampled_from([12, 40, 512])), types=("a", "b"), stride=4
    )
    rows = render.tagged(Tagged("1", Source("f", 1), text, spans))
    scores = [np.eye(5, dtype=np.float32)[row.targets] for row in rows]
    found = found_spans(rows, scores, text)
    assert found == [(span.start, span.end, "ab".index(span.type)) for span in spans]
    assert sum(int(row.weights.sum()) for row in rows) == len(render.encoder.pieces(text))


@pytest.mark.parametrize("name", ["mecab", "sentencepiece", "bytes"])
def test_the_tokens_of_a_word_have_one_number(layouts: dict[str, TextEncoder], name: str) -> None:
    render = TaskRenderer(layouts[name].tokenizer)
    text = "山田さんは東京都の大学へ。New York!"
    [row] = render.words(Text("1", Source("f", 1), text))
    pieces = layouts[name].pieces(text)
    numbers = row.offsets[1:-1, 0] if row.offsets is not None else []
    assert len(numbers) == len(pieces)
    assert list(numbers) == sorted(numbers)
    for word in ("大学", "山田", "York"):
        start = text.index(word)
        inside = {
            int(n) for n, place in zip(numbers, pieces.places, strict=True) if start <= place[0] < start + len(word)
        }
        assert len(inside) == 1, word


def test_japanese_words_are_those_of_mecab() -> None:
    text = "山田さんは東京の大学でパンを食べた。I am here!"
    words = [text[start:end] for start, end in word_places(text)]
    assert {"山田", "東京", "大学", "パン", "am", "!"} <= set(words)
    assert "".join(words) == text.replace(" ", "")
