"""A finished model for a task on texts without labels: what it says of each, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tomoni.data.badrows import BadRow, BadValue
from tomoni.data.files import RawRow, rows_of
from tomoni.data.labels import Labels
from tomoni.data.made import text_of
from tomoni.data.taskforms import expanded
from tomoni.data.tasks import TaskRenderer
from tomoni.data.tokenize import load_tokenizer
from tomoni.engine.engine import Engine
from tomoni.engine.features import scores
from tomoni.engine.sampler import longest_row
from tomoni.engine.setup import EngineSettings
from tomoni.engine.taskmodels import Task, is_task, open_task, read_task
from tomoni.errors import DataError, ModelError
from tomoni.evaluate.answers import best_answer
from tomoni.evaluate.calibration import probabilities
from tomoni.evaluate.spans import found_spans, tags
from tomoni.hub import locate, result_of
from tomoni.records import Question, Source, Tagged
from tomoni.rows import Float32, Item

AT_ONCE = 256  # texts; what is read is soon written
NEEDS = {"tag": ("text",), "span": ("question", "context")}
PAIR = ("sentence1", "sentence2")


@dataclass(frozen=True, slots=True)
class Asked:
    """One row: its columns as texts, or why it cannot be used."""

    line: int
    id: str | None
    texts: tuple[str, ...]
    fault: BadRow | None = None


class Predictor:
    """`open` a finished run or a model's folder; `predict` gives JSON values, one for each row, in order."""

    def __init__(self, engine: Engine, task: Task, render: TaskRenderer) -> None:
        self.engine, self.task, self.render = engine, task, render

    @classmethod
    def open(cls, name: str | Path, cfg: EngineSettings) -> Predictor:
        folder = locate(result_of(name)).folder
        task = read_task(folder)
        tokenizer = load_tokenizer(folder)
        engine, task = open_task(folder, cfg)
        if (context := longest_row(engine.model)) is not None:
            task = replace(task, max_length=min(task.max_length, context))
        return cls(engine, task, renderer_of(task, tokenizer))

    @property
    def needs(self) -> tuple[str, ...]:
        return NEEDS.get(self.task.method) or (PAIR if self.task.pair else ("text",))

    def read(self, paths: Sequence[str], columns: Mapping[str, str]) -> Iterator[Asked]:
        """Rows of files of any form; only the columns that are needed are looked at."""
        for path in paths:
            number = 1
            for raw in rows_of(Path(path)):
                for each in expanded(raw, number):
                    number += each is not raw
                    yield self._asked(each, columns)

    def typed(self, texts: Sequence[str]) -> Iterator[Asked]:
        """Texts that stand in no file, as many at a time as a row needs."""
        size = len(self.needs)
        for line, start in enumerate(range(0, len(texts), size), start=1):
            row = RawRow("", line, None, "", dict(zip(self.needs, texts[start:], strict=False)))
            yield self._asked(row, {})

    def _asked(self, raw: RawRow, columns: Mapping[str, str]) -> Asked:
        own = raw.values.get(columns.get("id", "id")) if not raw.fault else None
        id = str(own) if isinstance(own, str | int) and not isinstance(own, bool) else None
        try:
            if raw.fault:
                raise raw.fault
            return Asked(raw.line, id, tuple(self._text(raw, columns.get(name, name)) for name in self.needs))
        except BadValue as fault:
            bad = BadRow(raw.file, raw.line, raw.offset, fault.reason, fault.detail, raw.excerpt)
            return Asked(raw.line, id, (), bad)

    @staticmethod
    def _text(raw: RawRow, column: str) -> str:
        if column not in raw.values:
            raise BadValue("missing_column", f"{column}; the row has {', '.join(map(str, list(raw.values)[:20]))}")
        return text_of(raw.values[column], column)

    def predict(self, asked: Iterable[Asked], *, top: int = 3) -> Iterator[dict[str, Any]]:
        waiting = iter(asked)
        while some := list(islice(waiting, AT_ONCE)):
            good = [one for one in some if one.fault is None]
            said = iter(self._said([one.texts for one in good], top))
            for one in some:
                head = {"line": one.line} | ({"id": one.id} if one.id is not None else {})
                if one.fault is None:
                    yield head | next(said)
                else:
                    yield head | {"error": one.fault.reason, "detail": one.fault.detail}

    def _said(self, texts: Sequence[tuple[str, ...]], top: int) -> list[dict[str, Any]]:
        if not texts:
            return []
        items, cut, unknown = [], [], []
        for number, one in enumerate(texts):
            unknown.append(next((text for text in one if not self.render.knows(text)), None))
            before = self.render.truncated
            items.append(self._item(str(number), one))
            cut.append(self.render.truncated > before)
        match self.task.method:
            case "tag":
                found = [self._spans(item, rows) for item, rows in zip(items, self.engine.scores(items), strict=True)]
            case "span":
                found = [self._answer(item, rows) for item, rows in zip(items, self.engine.scores(items), strict=True)]
            case _:
                scores_NC = np.stack(scores(self.engine, items))
                found = [self._value(row) for row in scores_NC] if self.task.method == "regress" else []
                found = found or self._classes(scores_NC, top)
        return [
            (one | ({"truncated": True} if short else {})) if blank is None else _says_nothing(blank)
            for one, short, blank in zip(found, cut, unknown, strict=True)
        ]

    def _item(self, id: str, texts: tuple[str, ...]) -> Item:
        nowhere = Source("", 0)
        match self.task.method:
            case "tag":
                rows = self.render.tagged(Tagged(id, nowhere, texts[0], ()))
                return Item(id, tuple(rows), about={"text": texts[0]})
            case "span":
                rows = self.render.question(Question(id, nowhere, texts[0], texts[1], ()))
                return Item(id, tuple(rows), about={"context": texts[1]})
        row = self.render.whole(texts[0], texts[1] if len(texts) > 1 else None, f"row {id}")
        if row is None:
            raise DataError(
                f"max_length {self.task.max_length} leaves no room for a text", next_step="train with a larger one"
            )
        return Item(id, (row,))

    def _classes(self, scores_NC: np.ndarray, top: int) -> list[dict[str, Any]]:
        task = self.task
        p_NC = probabilities(scores_NC, several=task.several, temperature=task.temperature)
        found: list[dict[str, Any]] = []
        for p_C in p_NC:
            order = np.argsort(-p_C, kind="stable")[: max(1, top)]
            likely = {task.names[index]: round(float(p_C[index]), 6) for index in order}
            if task.several:
                found.append({"labels": [task.names[i] for i in np.flatnonzero(p_C > 0.5)], "probabilities": likely})
            else:
                best = int(p_C.argmax())
                sure = round(float(p_C[best]), 6)
                found.append({"label": task.names[best], "probability": sure, "probabilities": likely})
        return found

    def _value(self, scores_C: Float32) -> dict[str, Any]:
        return {"value": float(scores_C[0]) * self.task.spread + self.task.mean}

    def _spans(self, item: Item, rows: Sequence[Float32]) -> dict[str, Any]:
        text = str(item.about["text"])
        spans = [
            {"start": start, "end": end, "type": self.task.names[kind], "text": text[start:end]}
            for start, end, kind in found_spans(item.rows, rows, text)
        ]
        return {"spans": spans, "tokens": len(tags(item.rows, rows))}

    def _answer(self, item: Item, rows: Sequence[Float32]) -> dict[str, Any]:
        task = self.task
        found = best_answer(
            item.rows, rows, str(item.about["context"]), longest=task.max_answer_length, always=task.answerable
        )
        return {"answer": found.text, "start": found.start, "end": found.end, "score": found.score}


def _says_nothing(text: str) -> dict[str, Any]:
    """All such texts look alike to the model, so what it says of one would be chance."""
    return {"error": "unknown_characters", "detail": f"{text[:20]!r}: the model's vocabulary knows no character of it"}


def renderer_of(task: Task, tokenizer: Any) -> TaskRenderer:
    """As the model was trained; what is too long for it is cut."""
    labels = None
    if task.method == "classify":
        labels = Labels(task.names, (2,) * len(task.names), "list" if task.several else "text")
    return TaskRenderer(
        tokenizer,
        max_length=task.max_length,
        on_long_rows="truncate",
        labels=labels,
        labelled=task.method in ("classify", "regress"),
        types=task.names if task.method == "tag" else (),
        stride=task.stride,
        mean=task.mean,
        spread=task.spread,
        answerable=task.answerable,
    )


def is_task_model(name: str | Path) -> bool:
    """Whether a name is a finished model for a task."""
    try:
        return is_task(Path(result_of(name)).expanduser())
    except (ModelError, OSError):
        return False
