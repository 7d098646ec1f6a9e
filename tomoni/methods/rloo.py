"""REINFORCE leave-one-out (Kool et al. 2019, Ahmadian et al. 2024): the reward comes at the end, so a completion is one
action.

    for each prompt:  y_1 … y_K ~ policy,   R_i = reward(y_i) - beta sum_t (log p - log p_ref)
    A_i  = R_i - mean of the other R_j
    loss = - 1/K sum_i A_i log p(y_i)          (the clipped ratio of whole completions where num_iterations > 1)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tomoni.data.prompts import prompt_item
from tomoni.losses import policy
from tomoni.report import Looked, Mean, Report, State
from tomoni.rewards.advantages import leave_one_out, whitened
from tomoni.rewards.looking import look
from tomoni.rewards.rollouts import divergences, from_start, require, roll_out, statistics, told, with_behaviour
from tomoni.rows import Item, with_reference
from tomoni.settings.rloo import Config

if TYPE_CHECKING:
    from tomoni.data.stream import Stream
    from tomoni.engine.engine import Engine
    from tomoni.rewards.answered import Float64, Rewards

items = prompt_item


def evaluate(engine: Engine, items: Sequence[Item], cfg: Config, rewards: Rewards | None = None) -> Looked:
    return look(engine, items, cfg, require(rewards))


def steps(engine: Engine, data: Stream, cfg: Config, state: State, rewards: Rewards | None = None) -> Iterator[Report]:
    rewards = require(rewards)
    sampler = engine.sampler(max_batch=cfg.batch_size * cfg.num_generations)
    loss = partial(policy.clipped_sequence, epsilon=cfg.epsilon, epsilon_high=cfg.epsilon_high)
    for step in range(state.step, cfg.steps, cfg.num_iterations):
        rollout = roll_out(engine, sampler, data.batch(step // cfg.num_iterations), cfg, rewards, step=step)
        groups = with_behaviour(engine, rollout.items)
        groups = with_reference(groups, engine.logprobs(groups, of="reference"))
        kl_BK = divergences(groups).reshape(rollout.rewards_BK.shape)
        advantages_BK = leave_one_out(rollout.rewards_BK - cfg.beta * kl_BK)
        if cfg.normalize_advantages:
            advantages_BK = whitened(advantages_BK, shift_mean=True)
        kept_BK = rollout.ended_N.reshape(kl_BK.shape) | (not cfg.mask_truncated_completions)
        groups = with_advantages(groups, advantages_BK, kept_BK)
        stats = statistics(rollout) | from_start(engine, groups)
        stats |= {"objective/kl": Mean(float(kl_BK.sum()), kl_BK.size)}
        last = min(step + cfg.num_iterations, cfg.steps) - 1
        for update in range(step, last + 1):
            learnt = engine.forward_backward(groups, loss) | engine.optim_step(cfg.lr_at(update))
            if cfg.reference_moves(update):
                engine.move_reference(cfg.ref_model_mixup_alpha)
            yield Report.after(
                update,
                groups,
                stats | learnt,
                resumable=update == last,
                completions=told(rollout) if update == step else (),
            )


def with_advantages(groups: Sequence[Item], advantages_BK: Float64, kept_BK: np.ndarray) -> list[Item]:
    """A completion's advantage on each of its tokens; 0 for one that is left out (it is in the mean of the others)."""
    return [
        item.with_rows(
            [
                row.with_(advantages=np.full(len(row), advantage * keep, dtype=np.float32))
                for row, advantage, keep in zip(item.rows, advantages_K, kept_K, strict=True)
            ]
        )
        for item, advantages_K, kept_K in zip(groups, advantages_BK, kept_BK, strict=True)
    ]
