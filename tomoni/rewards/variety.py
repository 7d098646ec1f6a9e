"""What shows that a policy pleases its reward and nobody else: text that repeats itself, answers that are all alike,
rewards that are bought with length. Numpy only; of sampled tokens, so that no language needs words with spaces.

N completions, B prompts of K completions each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tomoni.report import Mean, Stats
from tomoni.rewards.answered import Float64

PHRASE = 4  # tokens of which a repetition counts (seq-rep-4 of Welleck et al. 2020)


def variety(completions: Sequence[Sequence[int]]) -> Stats:
    """Of N completions as tokens:

    completions/repetition    1 - different / all 4-grams of a completion, mean of those that have one
    completions/distinct_n    different / all n-grams of all completions together (Li et al. 2016), n = 1, 2
    """
    stats = {}
    completions = [np.asarray(one).tolist() for one in completions]  # plain numbers are counted ten times as fast
    repeated = [1 - len(set(found)) / len(found) for one in completions if (found := list(_grams(one, PHRASE)))]
    if repeated:
        stats["completions/repetition"] = Mean(float(sum(repeated)), len(repeated))
    for n in (1, 2):
        every = [gram for one in completions for gram in _grams(one, n)]
        if every:
            stats[f"completions/distinct_{n}"] = Mean(len(set(every)), len(every))
    return Stats(stats)


def length_slope(rewards_BK: Float64, log_lengths_BK: Float64) -> Mean:
    """What a unit of log length brings within a prompt's completions:

        b = sum_ij (x_ij - mean_i x) (r_ij - mean_i r) / sum_ij (x_ij - mean_i x)^2,    x = ln tokens

    as a Mean of these two sums, so that steps add up to the slope over all their groups. Between prompts nothing is
    read: a question that needs a longer answer may also be an easier one.
    """
    x_BK = log_lengths_BK - log_lengths_BK.mean(1, keepdims=True)
    r_BK = rewards_BK - rewards_BK.mean(1, keepdims=True)
    return Mean(float((x_BK * r_BK).sum()), float((x_BK * x_BK).sum()))


def _grams(tokens: Sequence[int], n: int) -> Iterator[tuple[int, ...]]:
    return zip(*(tokens[start:] for start in range(n)), strict=False)


def log_length(tokens: int) -> float:
    """Of a completion of so many tokens; one token is the least there is."""
    return float(np.log(max(tokens, 1)))
