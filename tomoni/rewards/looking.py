"""How a policy does on prompts that are looked at: completions are sampled, scored, and measured; nothing is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tomoni.report import Mean, Stats
from tomoni.rewards.answered import Rewards
from tomoni.rewards.rollouts import How, divergences, roll_out, statistics, with_behaviour
from tomoni.rows import Item, with_reference

if TYPE_CHECKING:
    from tomoni.engine.engine import Engine


def look(engine: Engine, items: Sequence[Item], cfg: How, rewards: Rewards) -> Stats:
    """One completion of each prompt, drawn as in training, always with the same draws. "loss" is minus the reward, so
    that the best is the one with the highest."""
    sampler = engine.sampler(max_batch=64)
    rollout = roll_out(engine, sampler, items, cfg, rewards, step="look", generations=1)
    stats = statistics(rollout)
    for name in ("reward_std", "frac_reward_zero_std"):  # of a group, and here each has one
        stats.pop(name)
    squares = float((rollout.scores.total_N**2).sum())
    stats["reward_square"] = Mean(squares, stats["reward"].count)  # from which the report knows how sure the mean is
    stats["loss"] = Mean(-stats["reward"].sum, stats["reward"].count)
    groups = with_behaviour(engine, rollout.items)
    kl_N = divergences(with_reference(groups, engine.logprobs(groups, of="reference")))
    stats["objective/kl"] = Mean(float(kl_N.sum()), len(kl_N))
    return stats
