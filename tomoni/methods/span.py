"""Extractive question answering: first and last token of the answer in a context, or none.

    loss = - (log p(first_i) + log p(last_i)) / 2        the mean over an item's windows, then over the step's items

A context longer than `max_length` is read in windows that overlap by `stride`; a window without the whole answer
has the row's first token as its answer, which stands for none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tomoni.data.labelled import question_item as items
from tomoni.evaluate import measuring
from tomoni.losses import classes
from tomoni.report import Report, State, Stats
from tomoni.rows import Item
from tomoni.settings.span import Config

if TYPE_CHECKING:
    from tomoni.data.stream import Stream
    from tomoni.engine.engine import Engine
    from tomoni.rewards.answered import Rewards

__all__ = ["evaluate", "items", "steps"]


def evaluate(engine: Engine, items: Sequence[Item], cfg: Config, rewards: Rewards | None = None) -> Stats:
    return measuring.of_answers(engine, items, longest=cfg.max_answer_length)


def steps(engine: Engine, data: Stream, cfg: Config, state: State, rewards: Rewards | None = None) -> Iterator[Report]:
    for step in range(state.step, cfg.steps):
        batch = data.batch(step)
        stats = engine.forward_backward(batch, classes.span_ends)
        yield Report.after(step, batch, stats | engine.optim_step(cfg.lr_at(step)))
