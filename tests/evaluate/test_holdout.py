"""Held-out loss against sums over plain forward passes, row by row, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests import tiny
from tomoni.evaluate.holdout import difference, measure, token_counts, unigram
from tomoni.rows import Item, Row


def item(name: str, tokens: list[int], weights: list[float], weight: float = 1.0) -> Item:
    return Item(name, (Row(np.array(tokens, dtype=np.int32), np.array(weights, dtype=np.float32)),), weight=weight)


ITEMS = [
    item("a", [1, 2, 3, 4], [0, 0, 1, 1]),
    item("b", [9, 8, 7, 6, 5, 4, 3, 2, 1], [0, 1, 0.5, 0, 0, 0, 1, 1, 1]),
    item("c", [5, 5], [0, 1], weight=2.0),
    Item("d", item("d", [3, 1, 2], [0, 1, 1]).rows * 2),
]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("tokens_at_once", [4, 4096])
def test_held_out_loss_is_the_weighted_sum_over_plain_forward_passes(architecture: str, tokens_at_once: int) -> None:
    model = tiny.model(architecture).train()
    held = measure(model, ITEMS, tokens_at_once=tokens_at_once)
    assert model.training
    model.eval()
    loss = right = count = 0.0
    for entry in ITEMS:
        for row in entry.rows:
            with torch.no_grad():
                scores = model(torch.tensor(row.tokens[None]).long()).logits[0].double().numpy()
            for at in range(1, len(row)):
                p = np.exp(scores[at - 1]) / np.exp(scores[at - 1]).sum()
                w = float(row.weights[at]) * entry.weight
                loss -= w * math.log(p[row.tokens[at]])
                right += w * (p.argmax() == row.tokens[at])
                count += w
    assert held.loss == pytest.approx(loss / count, rel=1e-5)
    assert held.token_accuracy == pytest.approx(right / count)
    assert held.tokens_B.tolist() == [2, 4.5, 2, 4]
    assert held.perplexity == pytest.approx(math.exp(loss / count), rel=1e-5)


def test_the_unigram_model_by_hand() -> None:
    """Trained on targets 3, 4, 4 of a vocabulary of 5: counts + 1 = [1, 1, 1, 2, 3] of 8.

    Held out are 4 (3/8) and 0 (1/8), the latter with weight 2: (ln 8/3 + 2 ln 8) / 3 nats; right is the 4 alone, 1/3.
    """
    train = [item("t", [1, 3, 4, 4], [0, 1, 1, 1])]
    held = unigram(token_counts(train, 5), [item("h", [2, 4, 0], [0, 1, 2])])
    assert held.loss == pytest.approx((math.log(8 / 3) + 2 * math.log(8)) / 3)
    assert held.token_accuracy == pytest.approx(1 / 3)


def test_untrained_positions_do_not_count_for_the_unigram_model() -> None:
    assert token_counts([item("t", [1, 3, 4], [0, 0, 1])], 5).tolist() == [0, 0, 0, 0, 1]


def test_two_models_are_compared_item_by_item() -> None:
    """A model against itself differs by nothing; against one that is worse on every item the interval lies above 0."""
    items = [item(str(number), [number % 7, 1 + number % 5, 2], [0, 1, 1]) for number in range(40)]
    good = unigram(token_counts(items, 260), items)
    bad = unigram(np.zeros(260), items)
    same = difference(good, good)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    worse = difference(good, bad)
    assert worse.value == pytest.approx(bad.loss - good.loss)
    assert 0 < worse.low < worse.value < worse.high
