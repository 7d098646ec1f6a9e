"""A model with a task's head on labelled items: what each method measures, and `tomoni evaluate` with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tomoni.engine.engine import Engine
from tomoni.engine.features import scores
from tomoni.evaluate.answers import answer_stats, best_answer
from tomoni.evaluate.classes import number_stats, several_stats, single_stats
from tomoni.evaluate.spans import found_spans, span_stats
from tomoni.losses import classes
from tomoni.report import Stats
from tomoni.rows import Item


def of_classes(engine: Engine, items: Sequence[Item]) -> Stats:
    scores_NC = np.stack(scores(engine, items))
    labels = np.stack([np.asarray(item.rows[0].label) for item in items])
    weights = [item.weight for item in items]
    if labels.ndim == 2:
        return several_stats(scores_NC, labels.astype(np.float64), weights)
    return single_stats(scores_NC, labels.astype(np.int64), weights)


def of_numbers(engine: Engine, items: Sequence[Item]) -> Stats:
    return number_stats(np.stack(scores(engine, items))[:, 0], items)


def of_spans(engine: Engine, items: Sequence[Item]) -> Stats:
    found = engine.scores(items)
    spans = [found_spans(item.rows, rows, item.about["text"]) for item, rows in zip(items, found, strict=True)]
    return span_stats(items, found, spans)


def of_answers(engine: Engine, items: Sequence[Item], *, longest: int) -> Stats:
    """`longest`: tokens of an answer."""
    measured = engine.evaluate(items, classes.span_ends)
    found = [
        best_answer(item.rows, rows, item.about["context"], longest=longest, always=item.about["answerable"])
        for item, rows in zip(items, engine.scores(items), strict=True)
    ]
    return measured | answer_stats([answer.text for answer in found], [item.about["answers"] for item in items])
