"""A reward model (Stiennon et al. 2020, after Bradley and Terry 1952): the better answer is to have the higher score.

loss = - log sigmoid(score(chosen) - score(rejected) - margin)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tomoni.data.pairs import pair_item
from tomoni.losses import Loss, ranking
from tomoni.records import Record
from tomoni.report import CalibrationError, Report, State, Stats
from tomoni.rows import Item, Row
from tomoni.settings.reward import Config

if TYPE_CHECKING:
    from tomoni.data.render import Renderer
    from tomoni.data.stream import Stream
    from tomoni.engine.engine import Engine
    from tomoni.rewards.answered import Rewards


def items(record: Record, render: Renderer) -> list[Item]:
    return [item.with_rows([scored(row) for row in item.rows]) for item in pair_item(record, render)]


def loss(cfg: Config, *, calibration: bool = False) -> Loss:
    return partial(
        ranking.bradley_terry,
        label_smoothing=cfg.label_smoothing,
        center_rewards_coefficient=cfg.center_rewards_coefficient,
        calibration=calibration,
    )


def evaluate(engine: Engine, items: Sequence[Item], cfg: Config, rewards: Rewards | None = None) -> Stats:
    """With the expected calibration error: how far the choices' confidence is from how often they are right."""
    stats = engine.evaluate(items, loss(cfg, calibration=True))
    gaps = [stats.pop(f"{ranking.GAP}{number}") for number in range(ranking.BINS)]
    return stats | {"ece": CalibrationError.of([gap.sum for gap in gaps], gaps[0].count)}


def steps(engine: Engine, data: Stream, cfg: Config, state: State, rewards: Rewards | None = None) -> Iterator[Report]:
    for step in range(state.step, cfg.steps):
        pairs = data.batch(step)
        stats = engine.forward_backward(pairs, loss(cfg)) | engine.optim_step(cfg.lr_at(step))
        yield Report.after(step, pairs, stats)


def scored(row: Row) -> Row:
    """The row up to the end of its answer, where a sampled completion ends too; no token of it is trained."""
    learnt = np.flatnonzero(row.weights)
    end = int(learnt[-1]) + 1 if len(learnt) else len(row)
    return Row(row.tokens[:end], np.zeros(end, dtype=np.float32), segments=row.segments)
