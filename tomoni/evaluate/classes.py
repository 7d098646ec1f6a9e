"""What is measured of classes and numbers, as sums with counts, so that parts add up to the whole. No torch.

A statistic whose name begins with "parts/" is only what others are computed of (`derived`): of the F1 of a class its two
sums, of a correlation its moments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tomoni.report import Mean, Stats
from tomoni.rows import Item

PARTS = "parts/"
MANY = 1000  # classes of which each's F1 is not kept
Scores = NDArray[np.floating]


def log_softmax(scores_NC: Scores) -> NDArray[np.float64]:
    exact = scores_NC.astype(np.float64)
    exact -= exact.max(1, keepdims=True)
    shifted: NDArray[np.float64] = exact - np.log(np.exp(exact).sum(1, keepdims=True))
    return shifted


def single_stats(scores_NC: Scores, labels_N: NDArray[np.integer], weights: Sequence[float]) -> Stats:
    """One class a text: the loss as it is trained (by the items' weights), the share that is right, and what the F1 of
    each class is made of."""
    logp_NC = log_softmax(scores_NC)
    weight_N = np.asarray(weights, dtype=np.float64)
    loss_N = -logp_NC[np.arange(len(labels_N)), labels_N]
    best_N = scores_NC.argmax(1)
    stats = Stats(
        loss=Mean(float(loss_N @ weight_N), float(weight_N.sum())),
        accuracy=Mean(float((best_N == labels_N).sum()), float(len(labels_N))),
    )
    return stats | _of_classes(_marks(labels_N, scores_NC.shape[1]), _marks(best_N, scores_NC.shape[1]))


def several_stats(scores_NC: Scores, labels_NC: NDArray[np.floating], weights: Sequence[float]) -> Stats:
    """Any number of classes a text: those with a score above 0 (a probability above a half) are found."""
    exact = scores_NC.astype(np.float64)
    weight_N = np.asarray(weights, dtype=np.float64)
    loss_N = (np.maximum(exact, 0) - exact * labels_NC + np.log1p(np.exp(-np.abs(exact)))).mean(1)
    found_NC, true_NC = exact > 0, labels_NC > 0.5
    both = float((found_NC & true_NC).sum())
    stats = Stats(
        loss=Mean(float(loss_N @ weight_N), float(weight_N.sum())),
        f1=Mean(2 * both, float(found_NC.sum() + true_NC.sum())),
        accuracy=Mean(float((found_NC == true_NC).all(1).sum()), float(len(exact))),
    )
    return stats | _of_classes(true_NC, found_NC)


def number_stats(found_N: Scores, items: Sequence[Item]) -> Stats:
    """Numbers, measured in the labels' own units; "loss" is the mean square in units of the training labels' spread."""
    labels_N = np.asarray([item.rows[0].label for item in items], dtype=np.float64)
    spread, mean = float(items[0].about["spread"]), float(items[0].about["mean"])
    gap_N = found_N.astype(np.float64) - labels_N
    count = float(len(gap_N))
    x, y = found_N.astype(np.float64) * spread + mean, labels_N * spread + mean
    moments = {"x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}
    return Stats(
        loss=Mean(float(np.square(gap_N).sum()), count),
        mean_absolute_error=Mean(float(np.abs(gap_N).sum()) * spread, count),
        **{f"{PARTS}{name}": Mean(float(values.sum()), count) for name, values in moments.items()},
    )


def derived(stats: Mapping[str, Mean]) -> dict[str, float]:
    """What is computed of parts: macro F1 (the mean over classes that occur or were found), the correlation, root mean square."""
    found: dict[str, float] = {}
    classes = [mean.value for name, mean in stats.items() if name.startswith(f"{PARTS}f1/") and mean.count]
    if classes:
        found["macro_f1"] = float(np.mean(classes))
    if f"{PARTS}xy" in stats:
        x, y, xx, yy, xy = (stats[f"{PARTS}{name}"].value for name in ("x", "y", "xx", "yy", "xy"))
        spread = math.sqrt(max(0.0, xx - x * x) * max(0.0, yy - y * y))
        found["pearson"] = (xy - x * y) / spread if spread > 0 else math.nan
        found["root_mean_square_error"] = math.sqrt(max(0.0, xx - 2 * xy + yy))
    return found


def _marks(classes_N: NDArray[np.integer], size: int) -> NDArray[np.bool_]:
    return np.asarray(classes_N)[:, None] == np.arange(size)[None]


def _of_classes(true_NC: NDArray[np.bool_], found_NC: NDArray[np.bool_]) -> Stats:
    """F1 = 2 TP / (2 TP + FP + FN), each class's two sums."""
    if true_NC.shape[1] > MANY:
        return Stats()
    both_C, sum_C = (true_NC & found_NC).sum(0), true_NC.sum(0) + found_NC.sum(0)
    return Stats(
        {
            f"{PARTS}f1/{number}": Mean(2.0 * float(both), float(total))
            for number, (both, total) in enumerate(zip(both_C, sum_C, strict=True))
        }
    )
