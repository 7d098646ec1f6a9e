"""Group relative policy optimisation (Shao et al. 2024), with what has been mended since (Liu et al. 2025, Yu et al. 2025).

for each prompt:  y_1 … y_K ~ policy,   r_i = reward(y_i)          (kl_in: reward:  r_i - beta KL_i)
A_i = r_i - mean(r)                                                divided by a std where scale_rewards says so
loss = - sum_i sum_t w_it min(ratio A_i, clip(ratio) A_i)          + beta kl where kl_in: loss
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tomoni.data.prompts import prompt_item
from tomoni.losses import Loss, Unit, policy
from tomoni.report import Looked, Mean, Report, State, Stats
from tomoni.rewards.advantages import group_relative
from tomoni.rewards.looking import look
from tomoni.rewards.rollouts import (
    Rollout,
    divergences,
    from_start,
    require,
    roll_out,
    statistics,
    told,
    with_behaviour,
)
from tomoni.rows import Item, with_reference
from tomoni.settings.grpo import Config

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
    for step in range(state.step, cfg.steps, cfg.num_iterations):
        rollout = roll_out(engine, sampler, data.batch(step // cfg.num_iterations), cfg, rewards, step=step)
        groups = with_distance(engine, rollout, cfg)
        stats = statistics(rollout) | from_start(engine, groups)
        returns_BK = rollout.rewards_BK
        if cfg.beta and (cfg.kl_in == "reward" or cfg.num_iterations > 1):
            kl_BK = divergences(groups).reshape(returns_BK.shape)
            stats |= {"objective/kl": Mean(float(kl_BK.sum()), kl_BK.size)}
            returns_BK = returns_BK - (cfg.beta * kl_BK if cfg.kl_in == "reward" else 0)
        groups = weighted(groups, group_relative(returns_BK, cfg.scale_rewards), rollout, cfg)
        taught = any(row.weights.any() for item in groups for row in item.rows)  # not where none came to its end
        last = min(step + cfg.num_iterations, cfg.steps) - 1
        for update in range(step, last + 1):
            learnt = Stats()
            if taught:
                learnt = engine.forward_backward(groups, loss_of(cfg)) | engine.optim_step(cfg.lr_at(update))
            if cfg.reference_moves(update):
                engine.move_reference(cfg.ref_model_mixup_alpha)
            yield Report.after(
                update,
                groups,
                stats | learnt,
                resumable=update == last,
                completions=told(rollout) if update == step else (),
            )


def with_distance(engine: Engine, rollout: Rollout, cfg: Config) -> list[Item]:
    """Groups with what the loss needs of the policy that sampled them, and of the reference."""
    groups = rollout.items
    if cfg.num_iterations > 1 or (cfg.beta and cfg.kl_in == "reward"):
        groups = with_behaviour(engine, groups)
    return with_reference(groups, engine.logprobs(groups, of="reference")) if cfg.beta else groups


def weighted(groups: Sequence[Item], advantages_BK: Float64, rollout: Rollout, cfg: Config) -> list[Item]:
    """Advantages on every token, and how much each token counts:

    dapo      1, divided by all tokens of the step: long completions count more than short ones
    grpo      1 / own length, divided by the number of completions: each counts the same, a long one's token less
    dr_grpo   1 / (K max_completion_length), divided by the number of prompts: no length in it at all
    """
    kept = rollout.ended_N.reshape(advantages_BK.shape) | (not cfg.mask_truncated_completions)
    found = []
    for item, advantages_K, kept_K in zip(groups, advantages_BK, kept, strict=True):
        rows = []
        for row, advantage, keep in zip(item.rows, advantages_K, kept_K, strict=True):
            sampled = row.weights > 0
            count = {
                "dapo": 1.0,
                "grpo": 1 / np.count_nonzero(sampled),
                "dr_grpo": 1 / (len(item.rows) * cfg.max_completion_length),
            }[cfg.loss_type]
            weights = (sampled * (count * keep)).astype(np.float32)
            rows.append(row.with_(weights=weights, advantages=(sampled * advantage).astype(np.float32)))
        found.append(item.with_rows(rows))
    return found


def loss_of(cfg: Config) -> Loss:
    unit: Unit = "item" if cfg.loss_type == "dr_grpo" else "token"
    beta = cfg.beta if cfg.kl_in == "loss" else 0.0
    return partial(
        policy.clipped_policy,
        epsilon=cfg.epsilon,
        epsilon_high=cfg.epsilon_high,
        unit=unit,
        beta=beta,
        kl=cfg.kl_estimator,
    )
