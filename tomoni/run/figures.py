"""What people read of a look at the model: a heading for each statistic, its number, and how sure it is. No torch.

A statistic that has no heading here is shown under its own name, so that a method's new one is seen at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tomoni.evaluate.metrics import Interval, mean_interval, wilson
from tomoni.report import Mean, Stats
from tomoni.run.outcome import Measured


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report: a heading, the numbers before and after."""

    what: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Heading:
    text: str
    written: Callable[[Mean, Stats], str]


def rows(before: Measured | None, after: Measured | None) -> list[Row]:
    """The figures of both, those with a heading first, in the order of `HEADINGS`."""
    if before is None or after is None:
        return []
    there = [name for name in after.stats if name in before.stats and name not in _silent(after.stats)]
    known = [name for name in HEADINGS if name in there]
    found = [_row(name, before.stats, after.stats) for name in (*known, *(name for name in there if name not in known))]
    if "mean_token_accuracy" in there:  # the loss is then that of a token
        found[0] = Row("loss (nats a token)", found[0].before, found[0].after)
        found.insert(1, Row("perplexity", number(before.perplexity), number(after.perplexity)))
    return found


def number(value: float) -> str:
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}" if abs(value) >= 1e9 else f"{value:.3f}"
    return "0.000" if text == "-0.000" else text


def _row(name: str, before: Stats, after: Stats) -> Row:
    heading = HEADINGS.get(name, Heading(_readable(name), _plain))
    return Row(heading.text, heading.written(before[name], before), heading.written(after[name], after))


def _silent(stats: Stats) -> set[str]:
    """What says nothing new: the loss is minus the reward, of a single reward its mean is the reward, and lengths are there."""
    single = [name for name in stats if _of_one_reward(name)]
    return (
        {"loss", "reward_square", "completions/log_length", *(single if len(single) == 1 else ())}
        if "reward" in stats
        else set()
    )


def _of_one_reward(name: str) -> bool:
    return name.startswith("rewards/") and name.endswith("/mean")


def _readable(name: str) -> str:
    return f"reward of {name.removeprefix('rewards/').removesuffix('/mean')}" if _of_one_reward(name) else name


def _plain(mean: Mean, stats: Stats) -> str:
    return number(mean.value)


def _share(mean: Mean, stats: Stats) -> str:
    return f"{mean.value:.1%}"


def _sure_share(mean: Mean, stats: Stats) -> str:
    """With Wilson's interval; a tie, which counts a half, is rounded."""
    if not math.isfinite(mean.value):
        return _share(mean, stats)
    found = wilson(min(round(mean.sum), round(mean.count)), round(mean.count))
    return f"{mean.value:.1%} ({100 * found.low:.1f} to {100 * found.high:.1f}%)"


def _reward(mean: Mean, stats: Stats) -> str:
    square = stats.get("reward_square")
    found = mean_interval(mean.sum, square.sum, round(mean.count)) if square else Interval(math.nan, math.nan, math.nan)
    if not math.isfinite(found.low):
        return number(mean.value)
    return f"{number(found.value)} ({number(found.low)} to {number(found.high)})"


# short: heading and both numbers with their intervals stand in one line of 80 columns
HEADINGS: dict[str, Heading] = {
    "reward": Heading("reward (95 % interval)", _reward),
    "trained_reward": Heading("reward that is trained on", _plain),
    "objective/kl": Heading("divergence, nats an answer", _plain),
    "kl_from_start": Heading("divergence from the start", _plain),
    "completions/mean_length": Heading("tokens a completion", _plain),
    "completions/clipped_ratio": Heading("completions without an end", _share),
    "completions/repetition": Heading("repeated phrases", _share),
    "completions/distinct_1": Heading("different tokens", _share),
    "completions/distinct_2": Heading("different pairs of tokens", _share),
    "entropy": Heading("entropy, nats a token", _plain),
    "loss": Heading("loss", _plain),
    "mean_token_accuracy": Heading("tokens predicted right", _share),
    "rewards/accuracies": Heading("accuracy (95 % interval)", _sure_share),
    "accuracy": Heading("accuracy (95 % interval)", _sure_share),
    "margin": Heading("score, better - worse", _plain),
    "mean_reward": Heading("mean score", _plain),
    "brier": Heading("Brier score", _plain),
    "rewards/margins": Heading("margin, chosen - rejected", _plain),
    "rewards/chosen": Heading("implicit reward, chosen", _plain),
    "rewards/rejected": Heading("implicit reward, rejected", _plain),
    "rewards/signed": Heading("implicit reward, signed", _plain),
    "logps/chosen": Heading("log p, chosen", _plain),
    "logps/rejected": Heading("log p, rejected", _plain),
    "odds_ratio_loss": Heading("odds ratio loss", _plain),
    "kl": Heading("reference point z0", _plain),
}
