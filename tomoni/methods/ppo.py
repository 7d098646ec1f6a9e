"""Proximal policy optimisation (Schulman et al. 2017) of language models, after Ziegler et al. 2019.

y ~ policy for each prompt
r_t = - beta (log p_t - log p_ref,t)          + reward(y) at the last token
A, returns = GAE(r, V);   A to mean 0 and standard deviation 1 over the rollout
several passes:  loss = - min(ratio A, clip(ratio) A)  +  vf_coef / 2 max((V - R)², (clip V - R)²)
beta moves towards target_kl
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tomoni.data.prompts import prompt_item
from tomoni.data.stream import Permutation
from tomoni.losses import policy
from tomoni.report import Looked, Mean, Report, State, Stats
from tomoni.rewards.advantages import gae, whitened
from tomoni.rewards.looking import look
from tomoni.rewards.rollouts import divergences, from_start, require, roll_out, statistics, told
from tomoni.rows import Item, Row, with_reference
from tomoni.settings.ppo import Config

if TYPE_CHECKING:
    from tomoni.data.stream import Stream
    from tomoni.engine.engine import Engine
    from tomoni.rewards.answered import Float64, Rewards

items = prompt_item
LARGEST_ERROR = 0.2  # of the divergence relative to its target, as far as beta answers to it


def evaluate(engine: Engine, items: Sequence[Item], cfg: Config, rewards: Rewards | None = None) -> Looked:
    return look(engine, items, cfg, require(rewards))


def steps(engine: Engine, data: Stream, cfg: Config, state: State, rewards: Rewards | None = None) -> Iterator[Report]:
    rewards = require(rewards)
    sampler = engine.sampler(max_batch=cfg.batch_size * cfg.num_generations)
    loss = partial(policy.ppo, cliprange=cfg.cliprange, cliprange_value=cfg.cliprange_value, vf_coef=cfg.vf_coef)
    beta = float(state.values.get("kl_coef", cfg.kl_coef))
    for step in range(state.step, cfg.steps, cfg.updates_per_batch):
        rollout = roll_out(engine, sampler, data.batch(step // cfg.updates_per_batch), cfg, rewards, step=step)
        episodes = with_values(engine, rollout.items)
        episodes = with_reference(episodes, engine.logprobs(episodes, of="reference"))
        kl_N = divergences(episodes)
        scores_N = rollout.scores.total_N - cfg.missing_eos_penalty * ~rollout.ended_N
        episodes = with_advantages(episodes, scores_N, beta, cfg)
        stats = statistics(rollout) | from_start(engine, episodes) | ppo_statistics(kl_N, scores_N, beta)
        beta = adapted(beta, float(kl_N.mean()), len(kl_N), cfg)
        last = min(step + cfg.updates_per_batch, cfg.steps) - 1
        for update in range(step, last + 1):
            batch = mini_batch(episodes, update - step, cfg, key=step)
            learnt = engine.forward_backward(batch, loss) | engine.optim_step(cfg.lr_at(update))
            if cfg.reference_moves(update):
                engine.move_reference(cfg.ref_model_mixup_alpha)
            yield Report.after(
                update,
                batch,
                stats | learnt,
                resumable=update == last,
                values={"kl_coef": beta},
                completions=told(rollout) if update == step else (),
            )


def with_values(engine: Engine, groups: Sequence[Item]) -> list[Item]:
    """Each completion an item of its own, with its log-probabilities and values under the policy that sampled it."""
    singles = [
        Item(f"{item.id}/{number}", (row,), item.weight) for item in groups for number, row in enumerate(item.rows)
    ]
    found = engine.logprobs_and_scores(singles)
    return [
        item.with_rows([item.rows[0].with_(behaviour=logprobs_T, values=values_T1[:, 0])])
        for item, ((logprobs_T, values_T1),) in zip(singles, found, strict=True)
    ]


def with_advantages(episodes: Sequence[Item], scores_N: Float64, beta: float, cfg: Config) -> list[Item]:
    rewards = [_rewards(item.rows[0], score, beta) for item, score in zip(episodes, scores_N, strict=True)]
    if cfg.whiten_rewards:
        rewards = _cut(whitened(np.concatenate(rewards), shift_mean=False), rewards)
    values = [_at_completion(item.rows[0], item.rows[0].values) for item in episodes]
    found = [gae(r_T, v_T, gamma=cfg.gamma, lam=cfg.lam) for r_T, v_T in zip(rewards, values, strict=True)]
    advantages = _cut(whitened(np.concatenate([one for one, _ in found]), shift_mean=True), rewards)
    return [
        item.with_rows([_spread(item.rows[0], advantages=advantage_T, returns=returns_T)])
        for item, advantage_T, (_, returns_T) in zip(episodes, advantages, found, strict=True)
    ]


def adapted(beta: float, kl: float, completions: int, cfg: Config) -> float:
    """Ziegler et al. 2019, section 2.2: proportional to the error, at most a fifth of beta a horizon."""
    if cfg.target_kl is None:
        return beta
    error = float(np.clip(kl / cfg.target_kl - 1, -LARGEST_ERROR, LARGEST_ERROR))
    return beta * (1 + error * completions / cfg.kl_horizon)


def mini_batch(episodes: Sequence[Item], number: int, cfg: Config, *, key: int) -> list[Item]:
    """Part `number` of the rollout's passes, each in an order of its own. A last rollout with fewer episodes than parts
    gives some of them twice."""
    turn, part = divmod(number, cfg.num_mini_batches)
    order = Permutation.keyed(len(episodes), cfg.seed, key + turn)
    places = range(part % len(episodes), len(episodes), cfg.num_mini_batches)
    return [episodes[order[place]] for place in places]


def ppo_statistics(kl_N: Float64, scores_N: Float64, beta: float) -> Stats:
    count = len(kl_N)
    return Stats(
        {
            "objective/kl": Mean(float(kl_N.sum()), count),
            "objective/scores": Mean(float(scores_N.sum()), count),
            "objective/rlhf_reward": Mean(float((scores_N - beta * kl_N).sum()), count),
            "kl_coef": Mean(beta),
        }
    )


def _rewards(row: Row, score: float, beta: float) -> Float64:
    rewards_T = -beta * (_at_completion(row, row.behaviour) - _at_completion(row, row.reference))
    rewards_T[-1] += score
    return rewards_T


def _at_completion(row: Row, column: np.ndarray | None) -> Float64:
    assert column is not None
    return column[np.flatnonzero(row.weights)].astype(np.float64)


def _spread(row: Row, **columns: Float64) -> Row:
    places = np.flatnonzero(row.weights)
    spread = {name: np.zeros(len(row), dtype=np.float32) for name in columns}
    for name, values_T in columns.items():
        spread[name][places] = values_T
    return row.with_(**spread)


def _cut(values: Float64, like: Sequence[Float64]) -> list[Float64]:
    return np.split(values, np.cumsum([len(one) for one in like])[:-1])
