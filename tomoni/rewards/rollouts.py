"""Prompts become sampled and scored completions.

A completion is named record/step/number, and its draws are keyed by that name: the same step samples the same whatever
ran before it, so a run that is taken up again goes on as it would have. Rows are made of the sampled tokens themselves;
no text is tokenised again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tomoni.engine.sampler import Completion, Sampler, Sampling
from tomoni.errors import ConfigError
from tomoni.records import Message
from tomoni.report import Mean, Stats
from tomoni.rewards.answered import Answered, Float64, Rewards, Scores
from tomoni.rewards.distance import kl_of
from tomoni.rewards.variety import length_slope, log_length, variety
from tomoni.rows import Float32, Int32, Item, Row, with_reference

if TYPE_CHECKING:
    from tomoni.engine.engine import Engine

SHOWN = 2000  # characters of a completion in completions.jsonl


class How(Protocol):
    """What is read of a method's config (`settings.rollouts`)."""

    @property
    def num_generations(self) -> int: ...
    @property
    def max_completion_length(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def top_p(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """B items of K rows each, a prompt with K completions; `answers` and `scores` are of their N = B K rows in order.
    Rows carry `behaviour` where the sampler knows the policy's own log-probabilities."""

    items: list[Item]
    answers: list[Answered]
    scores: Scores

    @property
    def rewards_BK(self) -> Float64:
        return self.scores.total_N.reshape(len(self.items), -1)

    @property
    def ended_N(self) -> np.ndarray:
        """Whether each completion came to its end."""
        return np.array([answer.finish == "stop" for answer in self.answers])

    @property
    def completions(self) -> list[Int32]:
        """The sampled tokens."""
        return [answer.row.tokens[answer.row.weights > 0] for answer in self.answers]

    def by_row(self, values: Sequence[Any]) -> Iterator[tuple[Item, list[Any]]]:
        """Each item with its part of N values."""
        start = 0
        for item in self.items:
            yield item, list(values[start : start + len(item.rows)])
            start += len(item.rows)


def roll_out(
    engine: Engine,
    sampler: Sampler,
    prompts: Sequence[Item],
    cfg: How,
    rewards: Rewards,
    *,
    step: int | str,
    generations: int | None = None,
) -> Rollout:
    """`generations` completions (the config's number unless given) of each prompt, scored."""
    count = generations or cfg.num_generations
    exact = engine.temperature == 1.0 and not engine.autocast
    how = Sampling(
        max_new_tokens=cfg.max_completion_length,
        temperature=cfg.temperature,
        top_p=cfg.top_p,
        top_k=cfg.top_k,
        seed=cfg.seed,
        logprobs=exact,
    )
    asked = list(_named(prompts, step, count))
    completions = sampler.sample([item.rows[0].tokens for item, _ in asked], how, ids=[name for _, name in asked])
    answers = [_answered(item, name, one) for (item, name), one in zip(asked, completions, strict=True)]
    items = [
        Item(item.id, tuple(answer.row for answer in answers[start : start + count]), item.weight, about=item.about)
        for item, start in zip(prompts, range(0, len(answers), count), strict=True)
    ]
    return Rollout(items, answers, rewards(answers))


def _named(prompts: Sequence[Item], step: int | str, count: int) -> Iterator[tuple[Item, str]]:
    """Each prompt `count` times. One that stands twice in a batch, over the border of two epochs, is numbered on."""
    before: Counter[str] = Counter()
    for item in prompts:
        for number in range(before[item.id], before[item.id] + count):
            yield item, f"{item.id}/{step}/{number}"
        before[item.id] += count


def require(rewards: Rewards | None) -> Rewards:
    if rewards is None:
        raise ConfigError("this method learns from rewards", next_step="set reward_funcs")
    return rewards


def with_behaviour(engine: Engine, items: Sequence[Item]) -> list[Item]:
    """Items whose rows hold the log-probabilities under the policy as it is now: the sampler's own where it has them."""
    if all(row.behaviour is not None for item in items for row in item.rows):
        return list(items)
    found = engine.logprobs(items)
    return [
        item.with_rows([row.with_(behaviour=values) for row, values in zip(item.rows, rows, strict=True)])
        for item, rows in zip(items, found, strict=True)
    ]


def divergences(items: Sequence[Item]) -> Float64:
    """[N] of each completion: the sum over its tokens of log p - log p_ref, whose mean estimates KL(policy || reference)
    in nats a completion."""
    return np.array([_gap(row).sum(dtype=np.float64) for item in items for row in item.rows])


def _gap(row: Row) -> Float32:
    if row.behaviour is None or row.reference is None:
        raise ValueError("a divergence needs the log-probabilities of policy and reference")
    return (row.behaviour - row.reference) * (row.weights > 0)


def from_start(engine: Engine, groups: Sequence[Item]) -> Stats:
    """How far the policy has gone since the run began, and how sure it is of what it says:

    kl_from_start    KL(policy || start) in nats a completion (see `distance.kl_of`)
    entropy          mean of -log p over the sampled tokens, whose expectation is the policy's entropy there, in nats

    Of all completions where the log-probabilities are at hand, else of each prompt's first: as unbiased, at a K-th of
    the work.
    """
    rows = [row for item in groups for row in item.rows]
    sampled = all(row.behaviour is not None for row in rows)
    if not (sampled and engine.reference.is_start and all(row.reference is not None for row in rows)):
        groups = with_behaviour(engine, [item.with_rows(item.rows[:1]) for item in groups])
        groups = with_reference(groups, engine.logprobs(groups, of="start"))
    gaps = [_gap(row)[row.weights > 0].astype(np.float64) for item in groups for row in item.rows]
    told = rows if sampled else [row for item in groups for row in item.rows]
    surprise = sum(float(row.behaviour.sum(dtype=np.float64)) for row in told if row.behaviour is not None)
    return Stats(
        kl_from_start=Mean(float(kl_of(gaps).sum()), len(gaps)),
        entropy=Mean(-surprise, sum(int(np.count_nonzero(row.weights)) for row in told)),
    )


def statistics(rollout: Rollout) -> Stats:
    """Rewards, lengths and variety, in the names that TRL's trainers log where they have one."""
    total_N, values_NF = rollout.scores.total_N, rollout.scores.values_NF
    count = len(total_N)
    spread_B = rollout.rewards_BK.std(1)
    lengths = [len(completion) for completion in rollout.completions]
    stats = {
        "reward": Mean(float(total_N.sum()), count),
        "reward_std": Mean(float(spread_B.sum()), len(spread_B)),
        "frac_reward_zero_std": Mean(float((spread_B < 1e-12).sum()), len(spread_B)),
        "completions/mean_length": Mean(float(sum(lengths)), count),
        "completions/clipped_ratio": Mean(float(count - rollout.ended_N.sum()), count),
    }
    for name, values_N in zip(rollout.scores.names, values_NF.T, strict=True):
        stats[f"rewards/{name}/mean"] = Mean(float(values_N.sum()), count)
    logs_BK = np.array([log_length(length) for length in lengths]).reshape(rollout.rewards_BK.shape)
    stats["completions/log_length"] = Mean(float(logs_BK.sum()), count)
    stats["completions/length_slope"] = length_slope(rollout.rewards_BK, logs_BK)
    return Stats(stats) | variety([completion.tolist() for completion in rollout.completions])


def told(rollout: Rollout) -> list[Mapping[str, Any]]:
    """Completions with each reward's score, for the run's completions.jsonl."""
    return [
        {
            "id": answer.id,
            "prompt": answer.prompt[-1].content[:SHOWN] if answer.prompt else "",
            "completion": answer.completion[:SHOWN],
            "finish": answer.finish,
            "reward": float(total),
            "scores": dict(zip(rollout.scores.names, map(float, values), strict=True)),
        }
        for answer, total, values in zip(rollout.answers, rollout.scores.total_N, rollout.scores.values_NF, strict=True)
    ]


def _answered(item: Item, name: str, completion: Completion) -> Answered:
    prompt = item.rows[0].tokens
    about = item.about
    messages = tuple(Message(part["role"], part["content"]) for part in about.get("prompt", ()))
    return Answered(
        name,
        messages,
        completion.text,
        _row(prompt, completion),
        about.get("columns", {}),
        completion.finish,
    )


def _row(prompt: np.ndarray, completion: Completion) -> Row:
    made = len(completion.tokens)
    weights = np.concatenate([np.zeros(len(prompt), dtype=np.float32), np.ones(made, dtype=np.float32)])
    behaviour = None
    if len(completion.logprobs) == made:
        behaviour = np.concatenate([np.zeros(len(prompt), dtype=np.float32), completion.logprobs])
    return Row(np.concatenate([prompt, completion.tokens]).astype(np.int32), weights, behaviour=behaviour)
