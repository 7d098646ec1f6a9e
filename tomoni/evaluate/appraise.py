"""A model on held-out records, all numbers together; baselines beside it; two models compared."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomoni.data.render import LossOn, Renderer
from tomoni.engine.matrices import Weights
from tomoni.engine.sampler import Sampling
from tomoni.errors import DataError
from tomoni.evaluate.holdout import Held, difference, measure, token_counts, unigram
from tomoni.evaluate.metrics import Interval, mcnemar, most_frequent, same_answer, wilson
from tomoni.evaluate.sidebyside import Answers, Task, ask, right, tasks
from tomoni.evaluate.subject import Subject, open_subject
from tomoni.records import Chat, Record, Text, kind_of
from tomoni.rows import Item

MORE = 8  # tokens that an answer may be longer than the longest desired one, so that babbling shows
MOST_NEW_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Data:
    """`train` is what the model was trained on, empty where that is not known; only baselines need it."""

    held: tuple[Record, ...]
    train: tuple[Record, ...] = ()
    loss_on: LossOn = "assistant"
    max_length: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Appraisal:
    """What a model (or a baseline) does with the held-out records. `marks` says of each of `asked` whether the answer
    was right, `handled` counts tokens read and written, `train_items` are kept for the baselines."""

    name: str
    description: str
    held: Held | None
    asked: tuple[Task, ...] = ()
    answers: Answers | None = None
    marks: tuple[bool, ...] | None = None
    seconds: float = 0.0
    handled: int = 0
    notes: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()
    train_items: tuple[Item, ...] = ()
    vocabulary: int = 0

    @property
    def tokens(self) -> float:
        return float(self.held.tokens_B.sum()) if self.held else 0.0

    @property
    def loss(self) -> float | None:
        return self.held.loss if self.held else None

    @property
    def perplexity(self) -> float | None:
        return self.held.perplexity if self.held else None

    @property
    def token_accuracy(self) -> float | None:
        return self.held.token_accuracy if self.held else None

    @property
    def exact(self) -> Interval | None:
        return wilson(sum(self.marks), len(self.marks)) if self.marks else None

    def as_json(self) -> dict[str, Any]:
        """JSON values; numbers that are not finite are null."""
        exact = self.exact
        texts = self.answers.texts if self.answers else ()
        return {
            "name": self.name,
            "description": self.description,
            "loss": _finite(self.loss),
            "perplexity": _finite(self.perplexity),
            "mean_token_accuracy": _finite(self.token_accuracy),
            "tokens_measured": self.tokens,
            "exact_match": None if exact is None else {"value": exact.value, "low": exact.low, "high": exact.high},
            "asked": len(self.marks or ()),
            "right": sum(self.marks or ()),
            "seconds": self.seconds,
            "tokens": self.handled,
            "answers": [
                {"id": task.id, "prompt": task.shown, "desired": task.desired, "answer": text, "right": mark}
                for task, text, mark in zip(self.asked, texts, self.marks or (), strict=False)
            ],
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """`loss` is model minus base, nats a token, over the same items (None where their tokens differ, so that losses
    mean different things); `p` is McNemar's for the exact answers."""

    base: str
    model: str
    loss: Interval | None
    p: float | None

    def sentence(self) -> str:
        parts = []
        if self.loss is None:
            parts.append("the models cut text into different tokens, so their losses are not compared")
        else:
            parts.append(
                f"loss {self.loss.value:+.4f} ({self.loss.low:+.4f} to {self.loss.high:+.4f}) against {self.base}"
            )
        if self.p is not None:
            parts.append(f"p = {self.p:.2g} that both are right equally often (McNemar, exact)")
        return "; ".join(parts)

    def as_json(self) -> dict[str, Any]:
        loss = None if self.loss is None else {"value": self.loss.value, "low": self.loss.low, "high": self.loss.high}
        return {"base": self.base, "model": self.model, "loss_difference": loss, "mcnemar_p": self.p}


def appraise(
    name: str,
    data: Data,
    *,
    answers: int = 500,
    max_new_tokens: int | None = None,
    device: str = "auto",
    weights: Weights = "float32",
) -> Appraisal:
    """Open the model, measure it, ask it at most `answers` of the records (its answers are made with
    `weights`, the loss always with its own), and let go of it.

    Raises DataError where there is nothing to measure, and what `open_subject` raises.
    """
    subject = open_subject(name, device=device, loss_on=data.loss_on, max_length=data.max_length, weights=weights)
    begin = time.monotonic()
    items = rows_of(data.held, subject.renderer)
    if not items:
        raise DataError("nothing in the data can be measured", next_step="see `tomoni check` for what the rows become")
    notes = _notes(subject)
    held = measure(subject.model, items)
    asked = tuple(tasks(data.held)[:answers])
    told = ask(subject, asked, _how(subject, asked, max_new_tokens)) if asked else None
    seconds = time.monotonic() - begin
    seen = Appraisal(
        subject.name,
        subject.description,
        held,
        asked,
        told,
        tuple(right(told, asked)) if told else None,
        seconds,
        sum(item.tokens for item in items) + (told.tokens if told else 0),
        (*notes, *_unanswered(subject, told)),
        tuple(items),
        tuple(rows_of(data.train, subject.renderer)),
        subject.model.config.get_text_config().vocab_size,
    )
    del subject
    gc.collect()  # a second model comes next; the two need not be in memory together
    return seen


def baselines(seen: Appraisal, data: Data) -> list[Appraisal]:
    """A unigram model of the training data, and always its most frequent answer; without training data the most
    frequent answer of the held-out data itself, which no model of one answer can beat."""
    found = []
    if seen.train_items:
        held = unigram(token_counts(seen.train_items, seen.vocabulary), seen.items)
        found.append(Appraisal("unigram model", "", held))
    if seen.asked:
        known = [task.desired for task in tasks(data.train)]
        answer = most_frequent(known or [task.desired for task in seen.asked])
        marks = tuple(same_answer(answer, task.desired) for task in seen.asked)
        where = "of training" if known else "of this data"
        found.append(Appraisal(f"most frequent answer {where}", answer, None, seen.asked, marks=marks))
    return found


def compare(base: Appraisal, model: Appraisal) -> Comparison:
    same_tokens = len(base.items) == len(model.items) and all(
        len(one.rows) == len(other.rows)
        and all(np.array_equal(a.tokens, b.tokens) for a, b in zip(one.rows, other.rows, strict=True))
        for one, other in zip(base.items, model.items, strict=True)
    )
    loss = difference(base.held, model.held) if same_tokens and base.held and model.held else None
    p = mcnemar(base.marks, model.marks) if base.marks and model.marks else None
    return Comparison(base.name, model.name, loss, p)


def rows_of(records: Sequence[Record], render: Renderer) -> list[Item]:
    """Items of conversations and texts, as fine-tuning would make them; other records raise DataError."""
    found: list[Item] = []
    for record in records:
        match record:
            case Chat():
                row = render.chat(record)
                found += [] if row is None else [Item(record.id, (row,))]
            case Text():
                found += [Item(f"{record.id}/{part}", (row,)) for part, row in enumerate(render.text(record))]
            case _:
                raise DataError(
                    f"{record.source}: evaluate measures desired answers and texts, not {kind_of(record)}",
                    choices=["text", "messages", "prompt_completion", "alpaca", "sharegpt"],
                    next_step="name a file that has them with --file; what the run itself measured is in its report.md",
                )
    return found


def _how(subject: Subject, asked: Sequence[Task], max_new_tokens: int | None) -> Sampling:
    if max_new_tokens is None:
        lengths = (len(subject.renderer.encoder.plain(task.desired)) for task in asked)
        max_new_tokens = min(max(lengths) + MORE, MOST_NEW_TOKENS)
    return Sampling(max_new_tokens=max_new_tokens, temperature=0.0)


def _notes(subject: Subject) -> tuple[str, ...]:
    render = subject.renderer
    notes = [f"{subject.name}: {note}" for note in render.notes]
    notes += [f"{subject.name}: {count:,} records left out: {reason}" for reason, count in render.left_out.items()]
    if render.truncated:
        notes.append(f"{subject.name}: {render.truncated:,} rows cut to {render.max_length:,} tokens")
    return tuple(notes)


def _unanswered(subject: Subject, told: Answers | None) -> tuple[str, ...]:
    too_long = told.finishes.count("too long") if told else 0
    return (f"{subject.name}: {too_long:,} prompts fill the context and count as wrong",) if too_long else ()


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
