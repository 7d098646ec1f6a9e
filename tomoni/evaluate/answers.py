"""Answers out of the scores of their ends, and how well they match: exactly, and by their overlap. No torch.

English is compared as SQuAD's script does (lower case, without punctuation and articles, word by word). Japanese writes
no words, so each of its characters counts as one; full and half width forms are the same.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomoni.data.characters import is_unspaced
from tomoni.report import Mean, Stats
from tomoni.rows import Float32, Row

CANDIDATES = 20  # of each end in a window


@dataclass(frozen=True, slots=True)
class FoundAnswer:
    """`text` is empty where there is none; `score` is by how much the answer beats none."""

    text: str
    start: int
    end: int
    score: float


def best_answer(
    rows: Sequence[Row], scores: Sequence[Float32], context: str, *, longest: int, always: bool
) -> FoundAnswer:
    """The best first and last token of at most `longest` in any window, rows' scores being [T, 2]; none where the row's
    first token, which stands for none, scores higher in every window, unless there `always` is an answer."""
    best: tuple[float, int, int] | None = None
    none = np.inf
    for row, scores_T2 in zip(rows, scores, strict=True):
        places = np.flatnonzero(row.weights)[1:]  # the first one stands for none
        none = min(none, float(scores_T2[0].sum()))
        if not len(places) or row.offsets is None:
            continue
        starts = _top(places, scores_T2[:, 0])
        ends = _top(places, scores_T2[:, 1])
        for first in starts:
            for last in ends:
                if first <= last < first + longest:
                    score = float(scores_T2[first, 0] + scores_T2[last, 1])
                    if best is None or score > best[0]:
                        best = (score, int(row.offsets[first, 0]), int(row.offsets[last, 1]))
    if best is None or (not always and best[0] <= none):
        return FoundAnswer("", 0, 0, (best[0] if best else 0.0) - none)
    start, end = best[1], best[2]
    text = context[start:end]
    lead = len(text) - len(text.lstrip())
    return FoundAnswer(text.strip(), start + lead, start + lead + len(text.strip()), best[0] - none)


def _top(places: np.ndarray, scores_T: np.ndarray) -> list[int]:
    order = np.argsort(-scores_T[places], kind="stable")[:CANDIDATES]
    return [int(place) for place in places[order]]


def answer_stats(found: Sequence[str], answers: Sequence[Sequence[Sequence[Any]]]) -> Stats:
    """Against the closest of the right answers of each question."""
    exact = sum(exact_match(text, [right for _, right in these]) for text, these in zip(found, answers, strict=True))
    overlap = sum(f1(text, [right for _, right in these]) for text, these in zip(found, answers, strict=True))
    count = float(len(found))
    return Stats(exact_match=Mean(float(exact), count), answer_f1=Mean(float(overlap), count))


def exact_match(found: str, right: Sequence[str]) -> float:
    return max((float(plain(found) == plain(one)) for one in right or [""]), default=0.0)


def f1(found: str, right: Sequence[str]) -> float:
    return max(_f1(parts(found), parts(one)) for one in right or [""])


def _f1(found: Sequence[str], right: Sequence[str]) -> float:
    if not found or not right:
        return float(list(found) == list(right))
    common = sum((Counter(found) & Counter(right)).values())
    return 2 * common / (len(found) + len(right))


def plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).lower()
    text = "".join(letter for letter in text if not _is_punctuation(letter))
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split())


def _is_punctuation(letter: str) -> bool:
    return letter in string.punctuation or (is_unspaced(letter) and unicodedata.category(letter).startswith(("P", "S")))


def parts(text: str) -> list[str]:
    """Words, or characters where the script has no words."""
    found: list[str] = []
    for word in plain(text).split():
        run = ""
        for letter in word:
            if is_unspaced(letter):
                found += [run, letter] if run else [letter]
                run = ""
            else:
                run += letter
        found += [run] if run else []
    return found
