"""Losses of heads for tasks against PyTorch's own in float64, and by hand."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from tomoni.losses import Outputs, Rows
from tomoni.losses.classes import sigmoid_classes, softmax_classes, softmax_tokens, span_ends, squared_error

NONE = torch.zeros(0)


def rows(weights: list[float], **columns: torch.Tensor) -> Rows:
    """One row an item."""
    count = len(weights)
    ones = torch.zeros(count)
    given = {"row_P": torch.zeros(0, dtype=torch.int64), "item_N": torch.arange(count), "weights_P": NONE} | columns
    return Rows(weight_B=torch.tensor(weights), margin_B=ones, noise_B=ones, **given)


def mean(term: object, count: float) -> float:
    return float(term.sum) / count  # type: ignore[attr-defined]


def test_classes_are_torchs_cross_entropy_with_its_class_weights() -> None:
    """PyTorch's weighted mean divides by the sum of the weights of the labels; so do items that carry them."""
    scores, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 0])
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0])
    each = weights[labels].tolist()
    found = softmax_classes(Outputs(NONE, NONE, scores_N=scores), rows(each, label_N=labels))
    expected = functional.cross_entropy(scores.double(), labels, weight=weights.double())
    assert math.isclose(mean(found["loss"], sum(each)), float(expected), rel_tol=1e-5)
    smoothed = softmax_classes(
        Outputs(NONE, NONE, scores_N=scores), rows([1.0] * 6, label_N=labels), label_smoothing=0.1
    )
    expected = functional.cross_entropy(scores.double(), labels, label_smoothing=0.1)
    assert math.isclose(mean(smoothed["loss"], 6), float(expected), rel_tol=1e-5)


def test_several_classes_are_each_a_coin_of_its_own() -> None:
    """Scores 0: every class costs ln 2, whatever the label."""
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    found = sigmoid_classes(Outputs(NONE, NONE, scores_N=torch.zeros(2, 2)), rows([1.0, 1.0], label_N=labels))
    assert math.isclose(mean(found["loss"], 2), math.log(2), rel_tol=1e-6)
    found = sigmoid_classes(
        Outputs(NONE, NONE, scores_N=torch.tensor([[2.0, -1.0], [-3.0, -1.0]])), rows([1.0, 1.0], label_N=labels)
    )
    assert mean(found["accuracy"], 2) == 1.0


def test_numbers_cost_their_squared_distance() -> None:
    found = squared_error(
        Outputs(NONE, NONE, scores_N=torch.tensor([[1.0], [3.0]])), rows([1.0, 2.0], label_N=torch.tensor([2.0, 5.0]))
    )
    assert float(found["loss"].sum) == 1 * 1 + 2 * 4


def test_tags_are_torchs_cross_entropy_over_tokens() -> None:
    scores, targets = torch.randn(5, 3), torch.tensor([0, 2, 1, 0, 0])
    given = rows([1.0], weights_P=torch.ones(5), targets_P=targets, row_P=torch.zeros(5, dtype=torch.int64))
    found = softmax_tokens(Outputs(NONE, NONE, scores_P=scores), given)
    expected = functional.cross_entropy(scores.double(), targets)
    assert math.isclose(mean(found["loss"], 5), float(expected), rel_tol=1e-5)


def test_an_answers_ends_are_two_softmaxes_over_each_windows_own_tokens_and_windows_are_averaged() -> None:
    """Two windows of one item, of 3 and 2 trained positions (tokens 0, 4, 5 and 0, 2), against torch row by row."""
    scores = torch.randn(5, 2)
    row_P = torch.tensor([0, 0, 0, 1, 1])
    place_P = torch.tensor([0, 4, 5, 0, 2])
    label_N = torch.tensor([[4, 5], [0, 0]])
    given = Rows(
        row_P=row_P,
        item_N=torch.tensor([0, 0]),
        weights_P=torch.ones(5),
        weight_B=torch.ones(1),
        margin_B=torch.zeros(1),
        noise_B=torch.zeros(1),
        label_N=label_N,
        place_P=place_P,
    )
    found = span_ends(Outputs(NONE, NONE, scores_P=scores), given)
    exact = scores.double()
    first = [functional.cross_entropy(exact[:3, end][None], torch.tensor([1 + end])) for end in (0, 1)]
    second = [functional.cross_entropy(exact[3:, end][None], torch.tensor([0])) for end in (0, 1)]
    expected = (sum(first) / 2 + sum(second) / 2) / 2
    assert math.isclose(float(found["loss"].sum), float(expected), rel_tol=1e-5)


def test_a_head_that_scores_all_tokens_alike_finds_no_answer() -> None:
    """Two windows of three tokens: only where both ends stand out alone is the window right."""
    scores = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
    row = torch.tensor([0, 0, 0, 1, 1, 1])
    given = rows(
        [1.0, 1.0], row_P=row, place_P=torch.tensor([0, 1, 2, 0, 1, 2]), label_N=torch.tensor([[0, 0], [1, 2]]),
        weights_P=torch.ones(6),
    )  # fmt: skip
    found = span_ends(Outputs(NONE, NONE, scores_P=scores), given)
    assert float(found["window_accuracy"].sum) == 1.0
