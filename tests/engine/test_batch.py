"""How a step is cut: everything once, nothing wasted."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.items import random_items
from tomoni.engine.batch import RECTANGLE_COST, collate, counts, micro_batches, rectangles
from tomoni.rows import Item, Row

lengths = st.lists(st.integers(1, 300), min_size=1, max_size=60)


@given(lengths, st.integers(1, 5000))
def test_every_row_stands_in_exactly_one_rectangle_within_the_limit(lengths: list[int], limit: int) -> None:
    groups = rectangles(lengths, limit)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or max(lengths[index] for index in group) * len(group) <= limit


@given(lengths)
def test_no_other_cut_of_the_rows_in_order_of_length_costs_less(lengths: list[int]) -> None:
    def cost(groups: list[list[int]]) -> int:
        return sum(max(lengths[i] for i in group) * len(group) + RECTANGLE_COST for group in groups)

    found = cost(rectangles(lengths, 10**9))
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    rng = np.random.default_rng(len(lengths))
    for _ in range(20):
        cuts = sorted({0, len(order), *rng.integers(0, len(order) + 1, rng.integers(0, 6)).tolist()})
        assert found <= cost([order[a:b] for a, b in pairwise(cuts) if a < b])


@given(lengths, st.integers(1, 2000))
def test_micro_batches_hold_every_item_once_and_keep_to_the_budget(lengths: list[int], budget: int) -> None:
    items = [Item(str(i), (Row(np.zeros(n, np.int32), np.zeros(n, np.float32)),)) for i, n in enumerate(lengths)]
    groups = list(micro_batches(items, budget))
    assert sorted(item.id for group in groups for item in group) == sorted(item.id for item in items)
    assert all(len(group) == 1 or sum(item.tokens for item in group) <= budget for group in groups)


@given(st.integers(0, 1000), st.integers(1, 4))
def test_the_flat_order_gives_each_trained_position_its_source_and_target(seed: int, rows: int) -> None:
    items = random_items(4, seed=seed, rows=rows)
    batch = collate(items, causal=True, limit=200, device=torch.device("cpu"))
    flat = [
        (r, i) for r, row in enumerate(row for item in items for row in item.rows) for i in np.flatnonzero(row.weights)
    ]
    all_rows = [row for item in items for row in item.rows]
    assert batch.rows.row_P.tolist() == [r for r, _ in flat]
    assert batch.targets_P.tolist() == [all_rows[r].tokens[i] for r, i in flat]
    for tile in batch.tiles:
        width = tile.tokens_NT.shape[1]
        for source, place in zip(tile.source_Q.tolist(), tile.place_Q.tolist(), strict=True):
            row, position = flat[place]
            assert (tile.rows[source // width], source % width) == (row, position - 1)


def test_counts_are_weighted_sums_over_the_step() -> None:
    row = Row(np.arange(4, dtype=np.int32), np.array([0, 1, 0.5, 1], np.float32))
    assert counts([Item("a", (row, row), weight=2.0), Item("b", (row,))]) == {"token": 2 * 5.0 + 2.5, "item": 3.0}
