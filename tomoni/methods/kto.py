"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024): a thumb on a single answer is enough.

z0 = max(0, mean of log p(y')/p_ref(y') over answers y' to other prompts of the step)         no gradient
r  = log p(y) / p_ref(y)
loss = w_d (1 - sigmoid(beta (r - z0)))   for a thumb up,      w_u (1 - sigmoid(beta (z0 - r)))   for a thumb down
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tomoni.data.pairs import rated_item
from tomoni.losses import Loss, preference
from tomoni.report import Mean, Report, State, Stats
from tomoni.rows import Item, Row, with_reference
from tomoni.settings.kto import Config

if TYPE_CHECKING:
    from tomoni.data.stream import Stream
    from tomoni.engine.engine import Engine
    from tomoni.rewards.answered import Rewards

items = rated_item


def loss(cfg: Config, reference_point: float) -> Loss:
    return partial(
        preference.kto,
        beta=cfg.beta,
        reference_point=reference_point,
        desirable_weight=cfg.desirable_weight,
        undesirable_weight=cfg.undesirable_weight,
    )


def evaluate(engine: Engine, items: Sequence[Item], cfg: Config, rewards: Rewards | None = None) -> Stats:
    z0 = reference_point(engine, items, cfg)
    answers = with_reference(items, engine.logprobs(items, of="reference", keep=True))
    return engine.evaluate(answers, loss(cfg, z0)) | {"kl": Mean(z0 * len(items), len(items))}


def steps(engine: Engine, data: Stream, cfg: Config, state: State, rewards: Rewards | None = None) -> Iterator[Report]:
    for step in range(state.step, cfg.steps):
        answers = data.batch(step)
        z0 = reference_point(engine, answers, cfg)
        answers = with_reference(answers, engine.logprobs(answers, of="reference", keep=True))
        stats = engine.forward_backward(answers, loss(cfg, z0)) | engine.optim_step(cfg.lr_at(step))
        if cfg.reference_moves(step):
            engine.move_reference(cfg.ref_model_mixup_alpha)
        yield Report.after(step, answers, stats | {"kl": Mean(z0)})


def reference_point(engine: Engine, answers: Sequence[Item], cfg: Config) -> float:
    """z0 over the whole step: each prompt with the answer to the next one."""
    crossed = [
        Item(one.id, (_crossed(one.rows[0], other.rows[0], cfg.max_length),))
        for one, other in zip(answers, [*answers[1:], answers[0]], strict=True)
    ]
    policy, reference = engine.logprobs(crossed), engine.logprobs(crossed, of="reference")
    ratios = [float((p - r).sum(dtype=np.float64)) for (p,), (r,) in zip(policy, reference, strict=True)]
    return max(0.0, float(np.mean(ratios)))


def _crossed(prompt: Row, answer: Row, most: int) -> Row:
    """The prompt of one row with the answer of another, at most `most` tokens."""
    start, other = int(np.flatnonzero(prompt.weights)[0]), int(np.flatnonzero(answer.weights)[0])
    tokens = np.concatenate([prompt.tokens[:start], answer.tokens[other:]])
    weights = np.concatenate([np.zeros(start, dtype=np.float32), answer.weights[other:]])
    return Row(tokens[: max(most, start + 1)], weights[: max(most, start + 1)])
