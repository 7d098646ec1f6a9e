"""Regression: a number for a text, or for a pair of texts.

    loss = sum_i (s_i - y_i)² / n,    y = (label - mean) / spread        over the whole step

Mean and spread are those of the training labels; what people read is in the labels' own units. `train: head` solves for
the best head on the untuned body's features, and with more than that the head begins there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tomoni.data.labelled import labelled_item as items
from tomoni.evaluate import measuring
from tomoni.losses import classes
from tomoni.report import Report, State, Stats
from tomoni.rows import Item
from tomoni.settings.regress import Config

if TYPE_CHECKING:
    from tomoni.data.stream import Stream
    from tomoni.engine.engine import Engine
    from tomoni.rewards.answered import Rewards

__all__ = ["evaluate", "items", "steps"]


def evaluate(engine: Engine, items: Sequence[Item], cfg: Config, rewards: Rewards | None = None) -> Stats:
    return measuring.of_numbers(engine, items)


def steps(engine: Engine, data: Stream, cfg: Config, state: State, rewards: Rewards | None = None) -> Iterator[Report]:
    if cfg.train == "head":
        from tomoni.engine.heads import solve_head

        if state.step == 0:
            yield Report.after(0, *solve_head(engine, data.store, seed=cfg.seed, told=state.told))
        return
    for step in range(state.step, cfg.steps):
        batch = data.batch(step)
        stats = engine.forward_backward(batch, classes.squared_error)
        yield Report.after(step, batch, stats | engine.optim_step(cfg.lr_at(step)))
