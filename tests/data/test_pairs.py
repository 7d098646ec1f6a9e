"""What people preferred becomes items, and what says nothing becomes none and is counted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from tests.rewards import encoder
from tomoni.data.pairs import pair_item, rated_item
from tomoni.data.prompts import prompt_item
from tomoni.data.render import Renderer, TooLong
from tomoni.data.textpairs import PairRenderer
from tomoni.errors import DataError
from tomoni.methods import dpo, kto, reward
from tomoni.records import Comparison, Message, Prompt, Rated, Source, Text, Verdict

SOURCE = Source("pairs.jsonl", 1)
ASKED = (Message("user", "何時に開きますか。"),)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<|"), min_size=1, max_size=12).filter(
    lambda text: bool(text.strip())
)


def answer(text: str) -> tuple[Message, ...]:
    return (Message("assistant", text),)


def comparison(first: str = "九時です。", second: str = "知らない", verdict: Verdict = Verdict.FIRST) -> Comparison:
    return Comparison("問-1", SOURCE, ASKED, answer(first), answer(second), verdict, weight=0.5, margin=2.0, noise=0.1)


def renderer(**options: object) -> Renderer:
    return Renderer(tiny.tokenizer(), **({"max_length": 200} | options))  # type: ignore[arg-type]


def learnt(row: object) -> str:
    """The text whose tokens are trained, without the token that ends it."""
    tokens = row.tokens[np.flatnonzero(row.weights)]  # type: ignore[attr-defined]
    return str(tiny.tokenizer().decode(tokens[:-1]))


@pytest.mark.parametrize("verdict", [Verdict.TIE, Verdict.BOTH_BAD])
@pytest.mark.parametrize("method", [dpo, reward])
def test_a_tie_and_two_bad_answers_give_no_item_and_are_counted(method: object, verdict: Verdict) -> None:
    render = renderer()
    assert method.items(comparison(verdict=verdict), render) == []  # type: ignore[attr-defined]
    assert sum(render.left_out.values()) == 1 and "neither" in next(iter(render.left_out))


@given(first=TEXTS, second=TEXTS)
def test_the_other_verdict_swaps_the_rows_and_nothing_else(first: str, second: str) -> None:
    chosen, other = (
        pair_item(comparison(first, second, verdict), renderer()) for verdict in (Verdict.FIRST, Verdict.SECOND)
    )
    assert bool(chosen) == bool(other) == (first != second)
    for one, two in zip(chosen, other, strict=True):
        assert [learnt(row) for row in one.rows] == [first, second]
        assert [learnt(row) for row in two.rows] == [second, first]
        assert (one.id, one.weight, one.margin, one.noise) == ("問-1", 0.5, 2.0, 0.1) == (two.id, two.weight, two.margin, two.noise)  # fmt: skip


def test_the_same_answer_twice_is_left_out_and_counted() -> None:
    render = renderer()
    assert pair_item(comparison("はい。", "はい。"), render) == []
    assert dict(render.left_out) == {"chosen and rejected are the same tokens": 1}


def test_answers_that_differ_only_behind_the_cut_are_the_same_answer() -> None:
    render = renderer(max_length=60, on_long_rows="truncate")
    assert pair_item(comparison("あ" * 60 + "良", "あ" * 60 + "悪"), render) == []
    assert render.left_out["chosen and rejected are the same tokens"] == 1


def test_contradictory_duplicates_are_kept_and_counted() -> None:
    render = renderer()
    judged = [Verdict.FIRST, Verdict.FIRST, Verdict.SECOND, Verdict.FIRST, Verdict.TIE]
    kept = [item for verdict in judged for item in pair_item(comparison(verdict=verdict), render)]
    assert len(kept) == 4
    assert render.contradictions == 2  # the third says the opposite of two, the fourth that of the third
    render.begin_part()
    assert pair_item(comparison(), render) and render.contradictions == 0


def test_a_prompt_that_fills_the_row_leaves_the_pair_out_or_stops_as_the_user_said() -> None:
    long = replace(comparison(), prompt=(Message("user", "長い。" * 100),))
    with pytest.raises(TooLong, match="max_length is 200"):
        pair_item(long, renderer())
    for how in ("truncate", "drop"):
        render = renderer(on_long_rows=how)
        assert pair_item(long, render) == []
        assert sum(render.left_out.values()) == 1
    thumb = Rated("t", SOURCE, long.prompt, answer("はい"), True)
    render = renderer(on_long_rows="truncate")
    assert rated_item(thumb, render) == [] and sum(render.left_out.values()) == 1


def test_a_prompt_to_sample_for_is_never_cut() -> None:
    long = Prompt("p", SOURCE, (Message("user", "長い。" * 100),))
    render = renderer(on_long_rows="truncate")
    assert prompt_item(long, render) == []
    assert dict(render.left_out) == {"prompt longer than max_length": 1}
    with pytest.raises(TooLong):
        prompt_item(long, renderer())


def test_an_encoder_reads_a_tie_and_the_same_answers_as_a_decoder_does() -> None:
    render = PairRenderer(encoder.tokenizer(), max_length=64)
    assert pair_item(comparison(verdict=Verdict.TIE), render) == []  # type: ignore[arg-type]
    assert pair_item(comparison("yes", "yes"), render) == []  # type: ignore[arg-type]
    assert sum(render.left_out.values()) == 2
    (item,) = reward.items(comparison("yes", "no"), render)  # type: ignore[arg-type]
    assert [int(row.segments.sum()) for row in item.rows if row.segments is not None] == [4, 3]  # letters and [SEP]


def test_a_thumb_becomes_its_label() -> None:
    for good in (True, False):
        (item,) = kto.items(Rated("t", SOURCE, ASKED, answer("はい"), good), renderer())
        assert item.rows[0].label == int(good) and learnt(item.rows[0]) == "はい"


@pytest.mark.parametrize("make", [pair_item, rated_item, prompt_item])
def test_records_of_another_kind_are_refused_by_name(make: object) -> None:
    with pytest.raises(DataError, match=r"pairs\.jsonl:1: .*not .*plain text"):
        make(Text("x", SOURCE, "物語"), renderer())  # type: ignore[operator]


def test_no_weight_of_an_item_is_anything_but_a_number() -> None:
    (item,) = pair_item(comparison(), renderer())
    assert all(math.isfinite(value) for value in (item.weight, item.margin, item.noise))
