"""How well a model predicts held-out items, beside a unigram model; per item, so that two models can be paired."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tomoni.engine.batch import MicroBatch, collate, micro_batches
from tomoni.engine.forward import Forward, in_eval_mode
from tomoni.engine.head import target_logprobs
from tomoni.evaluate.metrics import Interval, paired_bootstrap, perplexity
from tomoni.rows import Int32, Item

TOKENS_AT_ONCE = 4096

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Per item float64 [B]: summed loss in nats, sum of right tokens, and the count of trained tokens, each by weight."""

    loss_B: Float64
    right_B: Float64
    tokens_B: Float64

    @property
    def loss(self) -> float:
        """Nats a token."""
        return _share(self.loss_B, self.tokens_B)

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss)

    @property
    def token_accuracy(self) -> float:
        """How often the likeliest token is the right one, given the tokens before it."""
        return _share(self.right_B, self.tokens_B)


@torch.no_grad()
def measure(model: nn.Module, items: Sequence[Item], *, tokens_at_once: int = TOKENS_AT_ONCE) -> Held:
    """The model's loss on the items' trained positions. The model is in eval mode meanwhile and afterwards as before."""
    with in_eval_mode(model):
        return _measure(Forward(model), items, tokens_at_once)


def _measure(forward: Forward, items: Sequence[Item], tokens_at_once: int) -> Held:
    device = next(forward.model.parameters()).device
    place = {id(item): index for index, item in enumerate(items)}
    loss, right, tokens = (np.zeros(len(items)) for _ in range(3))
    for group in micro_batches(items, tokens_at_once):
        batch = collate(group, causal=forward.causal, limit=tokens_at_once, device=device)
        logprobs_P, correct_P = _predictions(forward, batch)
        weights_P = batch.rows.weights_P.double()
        item_P = batch.rows.item_N[batch.rows.row_P]
        sums = torch.zeros(3, len(group), dtype=torch.float64, device=device)
        columns = torch.stack([-logprobs_P.double() * weights_P, correct_P.double() * weights_P, weights_P])
        sums.index_add_(1, item_P, columns)
        where = [place[id(item)] for item in batch.items]
        loss[where], right[where], tokens[where] = sums.cpu().numpy()
    return Held(loss, right, tokens)


def _predictions(forward: Forward, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the targets, and whether they are the likeliest, at the batch's trained positions [P]."""
    before_head_P, _ = forward.trained(batch, with_hidden=False)
    return target_logprobs(forward.head, before_head_P, batch.targets_P, vocabulary=forward.vocabulary)


def difference(first: Held, second: Held) -> Interval:
    """How much lower (negative) the second's loss a token is, with the interval over items."""
    scale = len(first.tokens_B) / float(first.tokens_B.sum())
    return paired_bootstrap((first.loss_B * scale).tolist(), (second.loss_B * scale).tolist())


def token_counts(items: Iterable[Item], vocabulary: int) -> Float64:
    """float64 [V]: how often each token is what a trained position predicts, by weight."""
    counts_V = np.zeros(vocabulary)
    for _, targets, weights in _trained(items):
        counts_V += np.bincount(targets, weights=weights, minlength=vocabulary)
    return counts_V


def unigram(counts_V: Float64, items: Sequence[Item]) -> Held:
    """The model that gives each token its share of the training tokens, one added to each count (Laplace), whatever
    stands before it."""
    logprobs_V = np.log((counts_V + 1) / (counts_V.sum() + len(counts_V)))
    likeliest = int(counts_V.argmax())
    loss, right, tokens = (np.zeros(len(items)) for _ in range(3))
    for index, targets, weights in _trained(items):
        loss[index] -= weights @ logprobs_V[targets]
        right[index] += weights @ (targets == likeliest)
        tokens[index] += weights.sum()
    return Held(loss, right, tokens)


def _trained(items: Iterable[Item]) -> Iterator[tuple[int, Int32, Float64]]:
    """Each row's item number, targets and weights, at its trained positions."""
    for index, item in enumerate(items):
        for row in item.rows:
            places = np.flatnonzero(row.weights)
            targets = row.tokens if row.targets is None else row.targets
            yield index, targets[places], row.weights[places].astype(np.float64) * item.weight


def _share(sums: Float64, tokens: Float64) -> float:
    total = float(tokens.sum())
    return float(sums.sum()) / total if total else math.nan
