"""Direct preference optimisation (Rafailov et al. 2023): raise the chosen answer above the rejected one, relative to a
reference.

    h = log p(chosen) / p_ref(chosen) - log p(rejected) / p_ref(rejected)
    loss = - log sigmoid(beta h)                  (or another function of h: `losses.preference.dpo`)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from tomoni.data.pairs import pair_item
from tomoni.losses import Loss, preference
from tomoni.report import Report, State, Stats
from tomoni.rows import Item, with_reference
from tomoni.settings.dpo import Config

if TYPE_CHECKING:
    from tomoni.data.stream import Stream
    from tomoni.engine.engine import Engine
    from tomoni.rewards.answered import Rewards

items = pair_item


def loss(cfg: Config) -> Loss:
    return partial(preference.dpo, beta=cfg.beta, loss_type=cfg.loss_type, label_smoothing=cfg.label_smoothing)


def evaluate(engine: Engine, items: Sequence[Item], cfg: Config, rewards: Rewards | None = None) -> Stats:
    pairs = with_reference(items, engine.logprobs(items, of="reference", keep=True))
    return engine.evaluate(pairs, loss(cfg))


def steps(engine: Engine, data: Stream, cfg: Config, state: State, rewards: Rewards | None = None) -> Iterator[Report]:
    for step in range(state.step, cfg.steps):
        pairs = data.batch(step)
        pairs = with_reference(pairs, engine.logprobs(pairs, of="reference", keep=True))
        stats = engine.forward_backward(pairs, loss(cfg)) | engine.optim_step(cfg.lr_at(step))
        if cfg.reference_moves(step):
            engine.move_reference(cfg.ref_model_mixup_alpha)
        yield Report.after(step, pairs, stats)
