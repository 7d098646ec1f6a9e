"""Losses of heads that classify, measure or mark: on one vector a row, or on every trained position. Torch only."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from tomoni.losses import Outputs, Rows, Term


def softmax_classes(outputs: Outputs, rows: Rows, *, label_smoothing: float = 0.0) -> dict[str, Term]:
    """One of C classes a row: - w log softmax(s)[label], divided by the sum of the items' weights w."""
    scores_NC, label_N = _of_rows(outputs, rows)
    weight_N = rows.weight_B[rows.item_N]
    loss_N = cross_entropy(scores_NC, label_N, reduction="none", label_smoothing=label_smoothing)
    right_N = (scores_NC.detach().argmax(1) == label_N).float()
    return {
        "loss": Term((loss_N * weight_N).sum(), "item"),
        "accuracy": Term((right_N * weight_N).sum(), "item", metric=True),
    }


def sigmoid_classes(outputs: Outputs, rows: Rows) -> dict[str, Term]:
    """Any of C classes a row, each by itself: the mean over classes of binary cross-entropy."""
    scores_NC, label_NC = _of_rows(outputs, rows)
    weight_N = rows.weight_B[rows.item_N]
    loss_N = binary_cross_entropy_with_logits(scores_NC, label_NC, reduction="none").mean(1)
    exact_N = ((scores_NC.detach() > 0) == (label_NC > 0.5)).all(1).float()
    return {
        "loss": Term((loss_N * weight_N).sum(), "item"),
        "accuracy": Term((exact_N * weight_N).sum(), "item", metric=True),
    }


def squared_error(outputs: Outputs, rows: Rows) -> dict[str, Term]:
    """A number a row: (s - label)²."""
    scores_NC, label_N = _of_rows(outputs, rows)
    weight_N = rows.weight_B[rows.item_N]
    loss_N = (scores_NC[:, 0] - label_N).square()
    return {"loss": Term((loss_N * weight_N).sum(), "item")}


def softmax_tokens(outputs: Outputs, rows: Rows) -> dict[str, Term]:
    """One of C tags a token: - w log softmax(s)[target] over trained positions, divided by the sum of their weights."""
    assert outputs.scores_P is not None and rows.targets_P is not None
    loss_P = cross_entropy(outputs.scores_P, rows.targets_P, reduction="none")
    right_P = (outputs.scores_P.detach().argmax(1) == rows.targets_P).float()
    return {
        "loss": Term((loss_P * rows.weights_P).sum(), "token"),
        "mean_token_accuracy": Term((right_P * rows.weights_P).sum(), "token", metric=True),
    }


def span_ends(outputs: Outputs, rows: Rows) -> dict[str, Term]:
    """First and last token of an answer (Devlin et al. 2019, section 4.2): the mean of two cross-entropies, each over
    the row's own trained positions; the mean over an item's windows."""
    assert outputs.scores_P is not None and rows.place_P is not None and rows.label_N is not None
    weight_N = rows.weight_B[rows.item_N]
    windows_B = torch.zeros_like(rows.weight_B).index_add(0, rows.item_N, torch.ones_like(weight_N))
    loss_N = torch.zeros_like(weight_N)
    right_N = torch.ones_like(weight_N)
    for end in (0, 1):
        scores_P = outputs.scores_P[:, end]
        hit_P = rows.place_P == rows.label_N[rows.row_P, end]
        total_N = _logsumexp_per_row(scores_P, rows)
        target_N = rows.sum_per_row(scores_P * hit_P)
        loss_N = loss_N + (total_N - target_N) / 2
        best_N = _max_per_row(scores_P.detach().masked_fill(hit_P, -torch.inf), rows)
        right_N = right_N * (target_N.detach() > best_N).float()  # a tie, as of a new head, is no hit
    share_N = weight_N / windows_B[rows.item_N]
    return {
        "loss": Term((loss_N * share_N).sum(), "item"),
        "window_accuracy": Term((right_N * share_N).sum(), "item", metric=True),
    }


def _of_rows(outputs: Outputs, rows: Rows) -> tuple[Tensor, Tensor]:
    assert outputs.scores_N is not None and rows.label_N is not None
    return outputs.scores_N, rows.label_N


def _max_per_row(values_P: Tensor, rows: Rows) -> Tensor:
    lowest_N = values_P.new_full((len(rows.item_N),), -torch.inf)
    return lowest_N.scatter_reduce(0, rows.row_P, values_P, "amax")


def _logsumexp_per_row(values_P: Tensor, rows: Rows) -> Tensor:
    highest_N = _max_per_row(values_P.detach(), rows)
    return highest_N + rows.sum_per_row((values_P - highest_N[rows.row_P]).exp()).log()
