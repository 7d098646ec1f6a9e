"""Best of n, distilled (expert iteration): sample n completions, keep the best, learn it as if a person had written it.

    for each prompt:  y_1 … y_n ~ policy,   y* = the one with the highest reward
    loss = - sum_t log p(y*_t) / tokens

The safe arm of learning from a reward: the policy is only ever shown its own completions, and what is learnt is bounded
by how good the best of n is (its divergence from the sampled policy is at most ln n - (n - 1) / n nats a step).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tomoni import losses
from tomoni.data.prompts import prompt_item
from tomoni.report import Looked, Mean, Report, State
from tomoni.rewards.looking import look
from tomoni.rewards.rollouts import Rollout, from_start, require, roll_out, statistics, told
from tomoni.rows import Item
from tomoni.settings.bestofn import Config

if TYPE_CHECKING:
    from tomoni.data.stream import Stream
    from tomoni.engine.engine import Engine
    from tomoni.rewards.answered import Rewards

items = prompt_item


def evaluate(engine: Engine, items: Sequence[Item], cfg: Config, rewards: Rewards | None = None) -> Looked:
    return look(engine, items, cfg, require(rewards))


def steps(engine: Engine, data: Stream, cfg: Config, state: State, rewards: Rewards | None = None) -> Iterator[Report]:
    rewards = require(rewards)
    sampler = engine.sampler(max_batch=cfg.batch_size * cfg.num_generations)
    for step in range(state.step, cfg.steps):
        rollout = roll_out(engine, sampler, data.batch(step), cfg, rewards, step=step)
        chosen = best(rollout, cfg.min_gain)
        stats = statistics(rollout) | from_start(engine, rollout.items)
        stats |= {"kept": Mean(float(len(chosen)), len(rollout.items))}
        if chosen:
            stats |= engine.forward_backward(chosen, losses.nll) | engine.optim_step(cfg.lr_at(step))
        yield Report.after(step, chosen, stats, completions=told(rollout))


def best(rollout: Rollout, min_gain: float) -> list[Item]:
    """Each prompt's best completion; none where all are worth the same, or the best gains less than `min_gain`."""
    gains_B = rollout.rewards_BK.max(1) - rollout.rewards_BK.mean(1)
    return [
        item.with_rows([item.rows[int(np.argmax(rewards_K))]])
        for item, rewards_K, gain in zip(rollout.items, rollout.rewards_BK, gains_B, strict=True)
        if gain > 0 and gain >= min_gain
    ]
