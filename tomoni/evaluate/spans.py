"""Spans out of tags, and how many of them are right: strictly, both borders and the type. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tomoni.evaluate.classes import log_softmax
from tomoni.report import Mean, Stats
from tomoni.rows import Float32, Item, Row

Found = tuple[int, int, int]  # first character, end, number of the type


def found_spans(rows: Sequence[Row], scores: Sequence[Float32], text: str) -> list[Found]:
    """Of a text's windows and their scores [T, C], in order; each token's tag is its likeliest.

    Tag 0 is O, 2k + 1 begins the type k and 2k + 2 goes on with it. As CoNLL's script reads them, a tag that goes on
    with what has not begun begins it.
    """
    spans: list[Found] = []
    before = reached = 0
    for place, tag in tags(rows, scores):
        if place[0] < reached:
            continue  # a further part of a character, whose first token has decided
        reached = place[1]
        if tag == 0:
            before = 0
            continue
        kind, goes_on = (tag - 1) // 2, tag % 2 == 0
        if goes_on and before and (before - 1) // 2 == kind:
            spans[-1] = (spans[-1][0], place[1], kind)
        else:
            spans.append((*place, kind))
        before = tag
    return [_trimmed(span, text) for span in spans]


def tags(rows: Sequence[Row], scores: Sequence[Float32]) -> list[tuple[tuple[int, int], int]]:
    """Place and tag of every token of the text, each from the window that counts for it."""
    found = []
    for row, scores_TC in zip(rows, scores, strict=True):
        if row.offsets is None:
            raise ValueError("rows of a text have offsets")
        for index in np.flatnonzero(row.weights):
            start, end = (int(value) for value in row.offsets[index])
            found.append(((start, end), int(scores_TC[index].argmax())))
    return found


def _trimmed(span: Found, text: str) -> Found:
    """A token may begin with the space before its word."""
    start, end, kind = span
    while start < end - 1 and text[start].isspace():
        start += 1
    while end > start + 1 and text[end - 1].isspace():
        end -= 1
    return start, end, kind


def span_stats(items: Sequence[Item], scores: Sequence[Sequence[Float32]], found: Sequence[Sequence[Found]]) -> Stats:
    """Loss and share of right tags over tokens; precision, recall and F1 over spans of all texts together."""
    loss = right = tokens = 0.0
    for item, rows in zip(items, scores, strict=True):
        for row, scores_TC in zip(item.rows, rows, strict=True):
            places = np.flatnonzero(row.weights)
            targets: NDArray[np.int32] = np.asarray(row.targets)[places]
            logp = log_softmax(scores_TC[places])
            loss -= float(logp[np.arange(len(places)), targets].sum())
            right += float((scores_TC[places].argmax(1) == targets).sum())
            tokens += len(places)
    both = made = there = 0
    for item, spans in zip(items, found, strict=True):
        true = {tuple(span) for span in item.about["spans"]}
        both += len(true & set(spans))
        made += len(set(spans))
        there += len(true)
    return Stats(
        loss=Mean(loss, tokens),
        f1=Mean(2.0 * both, made + there),
        precision=Mean(both, made),
        recall=Mean(both, there),
        mean_token_accuracy=Mean(right, tokens),
    )
