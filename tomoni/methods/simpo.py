"""Simple preference optimisation (Meng et al. 2024).

    loss = - log sigmoid(beta (mean log p(chosen) - mean log p(rejected)) - gamma)

Means over an answer's tokens, so that length does not pay; no reference is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from tomoni.data.pairs import pair_item
from tomoni.losses import Loss, preference
from tomoni.report import Report, State, Stats
from tomoni.rows import Item
from tomoni.settings.simpo import Config

if TYPE_CHECKING:
    from tomoni.data.stream import Stream
    from tomoni.engine.engine import Engine
    from tomoni.rewards.answered import Rewards

items = pair_item


def loss(cfg: Config) -> Loss:
    return partial(preference.simpo, beta=cfg.beta, gamma=cfg.simpo_gamma, label_smoothing=cfg.label_smoothing)


def evaluate(engine: Engine, items: Sequence[Item], cfg: Config, rewards: Rewards | None = None) -> Stats:
    return engine.evaluate(items, loss(cfg))


def steps(engine: Engine, data: Stream, cfg: Config, state: State, rewards: Rewards | None = None) -> Iterator[Report]:
    for step in range(state.step, cfg.steps):
        pairs = data.batch(step)
        stats = engine.forward_backward(pairs, loss(cfg)) | engine.optim_step(cfg.lr_at(step))
        yield Report.after(step, pairs, stats)
