"""All numbers of a finished model for a task on labelled records: overall, and class by class."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from tomoni.data.labelled import labelled_item, question_item, tagged_item
from tomoni.engine.features import scores
from tomoni.errors import DataError
from tomoni.evaluate import measuring
from tomoni.evaluate.calibration import expected_error, probabilities
from tomoni.evaluate.classes import derived
from tomoni.evaluate.predict import Predictor
from tomoni.evaluate.spans import found_spans
from tomoni.records import Record
from tomoni.report import Stats
from tomoni.rows import Item

AT_ONCE = 256
SHOWN = 8  # confusions
ITEMS_OF = {"classify": labelled_item, "regress": labelled_item, "tag": tagged_item, "span": question_item}


@dataclass(frozen=True, slots=True)
class OfClass:
    name: str
    right: int
    found: int
    examples: int

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else math.nan

    @property
    def recall(self) -> float:
        return self.right / self.examples if self.examples else math.nan

    @property
    def f1(self) -> float:
        both = self.found + self.examples
        return 2 * self.right / both if both else math.nan


@dataclass(frozen=True)
class Appraised:
    stats: Stats
    items: int
    seconds: float
    classes: tuple[OfClass, ...] = ()
    confusions: tuple[tuple[tuple[str, str], int], ...] = ()
    more: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        plain = {name: value for name, value in self.stats.means().items() if not name.startswith("parts/")}
        numbers = plain | derived(self.stats) | self.more
        return {
            "items": self.items,
            "seconds": self.seconds,
            **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
            "classes": [
                {"name": one.name, "right": one.right, "found": one.found, "examples": one.examples}
                for one in self.classes
            ],
            "confusions": [{"class": a, "taken_for": b, "times": count} for (a, b), count in self.confusions],
        }


def appraise_task(predictor: Predictor, records: Iterable[Record]) -> Appraised:
    """Raises DataError where there is nothing to measure."""
    items: list[Item] = []
    for record in records:
        items += ITEMS_OF[predictor.task.method](record, predictor.render)
    if not items:
        raise DataError("nothing in the data can be measured", next_step="see `tomoni check` for what the rows become")
    begin = time.monotonic()
    stats = Stats()
    for start in range(0, len(items), AT_ONCE):
        part = _measured(predictor, items[start : start + AT_ONCE])
        stats = part if not stats else stats + part
    seconds = time.monotonic() - begin
    match predictor.task.method:
        case "classify":
            classes, confusions, more = _classes(predictor, items)
        case "tag":
            classes, confusions, more = _types(predictor, items), (), {}
        case "regress":
            classes, confusions, more = (), (), {"spearman": _spearman(predictor, items)}
        case _:
            classes, confusions, more = (), (), {}
    return Appraised(stats, len(items), seconds, classes, confusions, more)


def _measured(predictor: Predictor, items: Sequence[Item]) -> Stats:
    engine, task = predictor.engine, predictor.task
    match task.method:
        case "classify":
            return measuring.of_classes(engine, items)
        case "regress":
            return measuring.of_numbers(engine, items)
        case "tag":
            return measuring.of_spans(engine, items)
        case _:
            return measuring.of_answers(engine, items, longest=task.max_answer_length)


def _classes(
    predictor: Predictor, items: Sequence[Item]
) -> tuple[tuple[OfClass, ...], tuple[tuple[tuple[str, str], int], ...], dict[str, float]]:
    task = predictor.task
    scores_NC = np.stack(scores(predictor.engine, items))
    labels = np.stack([np.asarray(item.rows[0].label) for item in items])
    p_NC = probabilities(scores_NC, several=task.several, temperature=task.temperature)
    true_NC = labels > 0.5 if task.several else labels[:, None] == np.arange(len(task.names))[None]
    found_NC = p_NC > 0.5 if task.several else p_NC.argmax(1)[:, None] == np.arange(len(task.names))[None]
    classes = tuple(
        OfClass(name, int((true_NC[:, c] & found_NC[:, c]).sum()), int(found_NC[:, c].sum()), int(true_NC[:, c].sum()))
        for c, name in enumerate(task.names)
    )
    if task.several:
        return classes, (), {"expected_calibration_error": expected_error(p_NC.ravel(), true_NC.ravel())}
    best_N = p_NC.argmax(1)
    wrong = Counter(
        (task.names[label], task.names[best]) for label, best in zip(labels, best_N, strict=True) if label != best
    )
    error = expected_error(p_NC.max(1), best_N == labels)
    return classes, tuple(wrong.most_common(SHOWN)), {"expected_calibration_error": error}


def _types(predictor: Predictor, items: Sequence[Item]) -> tuple[OfClass, ...]:
    right: Counter[int] = Counter()
    found: Counter[int] = Counter()
    there: Counter[int] = Counter()
    for start in range(0, len(items), AT_ONCE):
        some = items[start : start + AT_ONCE]
        for item, rows in zip(some, predictor.engine.scores(some), strict=True):
            true = {tuple(span) for span in item.about["spans"]}
            spans = set(found_spans(item.rows, rows, item.about["text"]))
            right.update(kind for _, _, kind in true & spans)
            found.update(kind for _, _, kind in spans)
            there.update(kind for _, _, kind in true)
    return tuple(OfClass(name, right[k], found[k], there[k]) for k, name in enumerate(predictor.task.names))


def _spearman(predictor: Predictor, items: Sequence[Item]) -> float:
    found = np.stack(scores(predictor.engine, items))[:, 0]
    labels = [float(item.rows[0].label) for item in items]  # type: ignore[arg-type]
    return float(spearmanr(found, labels).statistic) if len(items) > 1 else math.nan
