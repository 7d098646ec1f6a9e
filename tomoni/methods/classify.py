"""Classification: one class a text (softmax), or any of several (sigmoids).

    loss = - sum_i w_i log p(class_i | text_i) / sum_i w_i        over the whole step

`train: head` is no training: the body stays as it is, and the best head on its features is solved for (`engine.linear`).
With more than that the head begins there (linear probing, then fine-tuning: Kumar et al. 2022), so that the body is not
pulled about by a head that knows nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tomoni.data.labelled import labelled_item as items
from tomoni.evaluate import measuring
from tomoni.losses import Loss, classes
from tomoni.report import Report, State, Stats
from tomoni.rows import Item
from tomoni.settings.classify import Config

if TYPE_CHECKING:
    from tomoni.data.stream import Stream
    from tomoni.engine.engine import Engine
    from tomoni.rewards.answered import Rewards

__all__ = ["evaluate", "items", "loss", "steps"]


def loss(cfg: Config, items: Sequence[Item]) -> Loss:
    if several(items):
        return classes.sigmoid_classes
    return partial(classes.softmax_classes, label_smoothing=cfg.label_smoothing)


def several(items: Sequence[Item]) -> bool:
    return isinstance(items[0].rows[0].label, np.ndarray)


def evaluate(engine: Engine, items: Sequence[Item], cfg: Config, rewards: Rewards | None = None) -> Stats:
    return measuring.of_classes(engine, items)


def steps(engine: Engine, data: Stream, cfg: Config, state: State, rewards: Rewards | None = None) -> Iterator[Report]:
    if cfg.train == "head":
        from tomoni.engine.heads import solve_head

        if state.step == 0:
            yield Report.after(0, *solve_head(engine, data.store, seed=cfg.seed, told=state.told))
        return
    for step in range(state.step, cfg.steps):
        batch = data.batch(step)
        stats = engine.forward_backward(batch, loss(cfg, batch))
        yield Report.after(step, batch, stats | engine.optim_step(cfg.lr_at(step)))
