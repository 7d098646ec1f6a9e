"""Token classification: which stretches of a text are what (names, amounts …), as BIO tags over tokens.

    loss = - sum_i log p(tag_i | text) / (number of tokens)        over the whole step

A text longer than `max_length` is read in windows, and each token is learnt in one of them. What is measured are
whole spans by their characters in the text: right is a span only with both borders and its type (strict F1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tomoni.data.labelled import tagged_item as items
from tomoni.evaluate import measuring
from tomoni.losses import classes
from tomoni.report import Report, State, Stats
from tomoni.rows import Item
from tomoni.settings.tag import Config

if TYPE_CHECKING:
    from tomoni.data.stream import Stream
    from tomoni.engine.engine import Engine
    from tomoni.rewards.answered import Rewards

__all__ = ["evaluate", "items", "steps"]


def evaluate(engine: Engine, items: Sequence[Item], cfg: Config, rewards: Rewards | None = None) -> Stats:
    return measuring.of_spans(engine, items)


def steps(engine: Engine, data: Stream, cfg: Config, state: State, rewards: Rewards | None = None) -> Iterator[Report]:
    for step in range(state.step, cfg.steps):
        batch = data.batch(step)
        stats = engine.forward_backward(batch, classes.softmax_tokens)
        yield Report.after(step, batch, stats | engine.optim_step(cfg.lr_at(step)))
