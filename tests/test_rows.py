"""Rows check their columns where they are made."""

from __future__ import annotations

import numpy as np
import pytest

from tomoni.report import Mean, Stats
from tomoni.rows import Item, Row, with_reference

TOKENS = np.arange(3, dtype=np.int32)
WEIGHTS = np.array([0, 1, 1], np.float32)


@pytest.mark.parametrize("column", ["targets", "segments", "behaviour", "reference", "advantages", "returns", "values"])
def test_a_column_of_another_length_is_refused_by_name(column: str) -> None:
    with pytest.raises(ValueError, match=column):
        Row(TOKENS, WEIGHTS, **{column: np.zeros(2)})


def test_weights_of_another_length_no_tokens_and_misshapen_offsets_are_refused() -> None:
    with pytest.raises(ValueError, match="2 weights for 3 tokens"):
        Row(TOKENS, WEIGHTS[:2])
    with pytest.raises(ValueError, match="at least one token"):
        Row(TOKENS[:0], WEIGHTS[:0])
    with pytest.raises(ValueError, match="offsets"):
        Row(TOKENS, WEIGHTS, offsets=np.zeros((3, 3), np.int32))


def test_a_causal_row_cannot_train_its_first_token_but_a_masked_one_can() -> None:
    with pytest.raises(ValueError, match="first token"):
        Row(TOKENS, np.ones(3, np.float32))
    Row(TOKENS, np.ones(3, np.float32), targets=TOKENS)


def test_an_item_has_rows_and_counts_their_tokens() -> None:
    with pytest.raises(ValueError, match="no rows"):
        Item("x", ())
    assert Item("x", (Row(TOKENS, WEIGHTS), Row(TOKENS[:2], WEIGHTS[:2]))).tokens == 5


def test_with_reference_fills_the_column_row_by_row_and_refuses_a_missing_row() -> None:
    item = Item("x", (Row(TOKENS, WEIGHTS), Row(TOKENS, WEIGHTS)), weight=0.5, margin=1, noise=0.1)
    filled = with_reference([item], [(WEIGHTS, -WEIGHTS)])[0]
    assert np.array_equal(filled.rows[1].reference, -WEIGHTS)  # type: ignore[arg-type]
    assert (filled.id, filled.weight, filled.margin, filled.noise) == ("x", 0.5, 1, 0.1)
    with pytest.raises(ValueError, match="zip"):
        with_reference([item], [(WEIGHTS,)])


def test_statistics_add_by_sums_and_counts() -> None:
    total = Stats(loss=Mean(6, 3)) + Stats(loss=Mean(1, 1), reward=Mean(2, 4))
    assert total["loss"].value == pytest.approx(7 / 4)
    assert total["reward"].value == 0.5
    assert (Stats(a=Mean(1)) | Stats(a=Mean(2)))["a"].value == 2
