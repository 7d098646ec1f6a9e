"""How a policy does on prompts that are looked at: completions are sampled, scored, and measured; nothing is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tomoni.report import Looked, Mean
from tomoni.rewards.answered import Rewards
from tomoni.rewards.rollouts import How, divergences, from_start, roll_out, statistics, with_behaviour
from tomoni.rewards.variety import log_length
from tomoni.rows import Item, with_reference

if TYPE_CHECKING:
    from tomoni.engine.engine import Engine


class Watched(How, Protocol):
    @property
    def reward_funcs(self) -> tuple[str, ...]: ...
    @property
    def reward_weights(self) -> tuple[float, ...]: ...
    @property
    def eval_reward_funcs(self) -> tuple[str, ...]: ...


def look(engine: Engine, items: Sequence[Item], cfg: Watched, rewards: Rewards) -> Looked:
    """One completion of each prompt, drawn as in training, always with the same draws. "loss" is minus the reward, so
    that the best is the one with the highest. Where `eval_reward_funcs` score instead, "reward" is theirs, and
    "trained_reward" what the policy is trained on."""
    sampler = engine.sampler(max_batch=64)
    rollout = roll_out(engine, sampler, items, cfg, rewards, step="look", generations=1)
    stats = statistics(rollout)
    for name in ("reward_std", "frac_reward_zero_std", "completions/length_slope"):  # of a group, and here each has one
        stats.pop(name)
    scores = rollout.scores
    each = {
        "reward": scores.total_N.tolist(),
        "log_length": [log_length(len(completion)) for completion in rollout.completions],
    }
    stats["loss"] = Mean(-stats["reward"].sum, stats["reward"].count)
    if cfg.eval_reward_funcs:
        trained_NF = scores.values_NF[:, : len(cfg.reward_funcs)]
        trained_N = trained_NF @ np.asarray(cfg.reward_weights or (1.0,) * len(cfg.reward_funcs))
        stats["trained_reward"] = Mean(float(trained_N.sum()), len(trained_N))
        each["trained_reward"] = trained_N.tolist()
    groups = with_behaviour(engine, rollout.items)
    groups = with_reference(groups, engine.logprobs(groups, of="reference"))
    kl_N = divergences(groups)
    stats["objective/kl"] = Mean(float(kl_N.sum()), len(kl_N))
    return Looked(stats | from_start(engine, groups), each)
