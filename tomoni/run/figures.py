"""What people read of a look at the model: a heading for each statistic, its number, and how sure it is. No torch.

A statistic that has no heading here is shown under its own name, so that a method's new one is seen at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tomoni.evaluate.classes import PARTS, derived
from tomoni.evaluate.metrics import Interval, mean_interval, paired_bootstrap, wilson
from tomoni.report import Mean, Stats
from tomoni.run.outcome import Measured

NONE = "–"  # a measure of nothing: the precision where nothing was told, a correlation with one and the same number


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report: a heading, the numbers before and after."""

    what: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Heading:
    text: str
    written: Callable[[Mean, Measured], str]


def rows(before: Measured | None, after: Measured | None) -> list[Row]:
    """The figures of both, those with a heading first, in the order of `HEADINGS`."""
    if before is None or after is None:
        return []
    there = [name for name in after.stats if name in before.stats and name not in _silent(after.stats)]
    known = [name for name in HEADINGS if name in there]
    found = [_row(name, before, after) for name in (*known, *(name for name in there if name not in known))]
    first, last = derived(before.stats), derived(after.stats)
    found += [Row(DERIVED[name], _derived(first[name]), _derived(last[name])) for name in last if name in first]
    if "mean_token_accuracy" in there and "f1" not in there:  # the loss is then that of a token of the vocabulary
        found[0] = Row("loss (nats a token)", found[0].before, found[0].after)
        found.insert(1, Row("perplexity", number(before.perplexity), number(after.perplexity)))
    if after.each_reward and len(after.each_reward) == len(before.each_reward):
        gain = paired_bootstrap(before.each_reward, after.each_reward)
        found.insert(1, Row("gain, prompt by prompt", "", _with_interval(gain)))
    return found


def shown(stats: Stats) -> dict[str, float]:
    """The numbers that are told of a look: without the parts that others are computed of."""
    plain = {name: mean for name, mean in stats.finite().means().items() if not name.startswith(PARTS)}
    return plain | {name: value for name, value in derived(stats).items() if math.isfinite(value)}


def number(value: float) -> str:
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}" if abs(value) >= 1e9 else f"{value:.3f}"
    return "0.000" if text == "-0.000" else text


def _row(name: str, before: Measured, after: Measured) -> Row:
    heading = HEADINGS.get(name, Heading(_readable(name), _plain))
    return Row(heading.text, heading.written(before.stats[name], before), heading.written(after.stats[name], after))


def _silent(stats: Stats) -> set[str]:
    """What says nothing new: the loss is minus the reward, a length's logarithm the length, and of a single reward its
    mean is the reward."""
    single = [name for name in stats if _of_one_reward(name)]
    quiet = {"loss", "completions/log_length", *(single if len(single) == 1 else ())}
    parts = {name for name in stats if name.startswith(PARTS)}
    return (quiet if "reward" in stats else set()) | parts


def _of_one_reward(name: str) -> bool:
    return name.startswith("rewards/") and name.endswith("/mean")


def _readable(name: str) -> str:
    return f"reward of {name.removeprefix('rewards/').removesuffix('/mean')}" if _of_one_reward(name) else name


def _plain(mean: Mean, measured: Measured) -> str:
    return number(mean.value)


def _derived(value: float) -> str:
    return NONE if math.isnan(value) else number(value)


def _share(mean: Mean, measured: Measured) -> str:
    return f"{mean.value:.1%}" if mean.count else NONE


def _sure_share(mean: Mean, measured: Measured) -> str:
    """With Wilson's interval; a tie, which counts a half, is rounded."""
    if not math.isfinite(mean.value):
        return _share(mean, measured)
    found = wilson(min(round(mean.sum), round(mean.count)), round(mean.count))
    return f"{mean.value:.1%} ({100 * found.low:.1f} to {100 * found.high:.1f}%)"


def _reward(mean: Mean, measured: Measured) -> str:
    each = measured.each_reward
    return _with_interval(mean_interval(each)) if len(each) > 1 else number(mean.value)


def _with_interval(found: Interval) -> str:
    return f"{number(found.value)} ({number(found.low)} to {number(found.high)})"


# short: heading and both numbers with their intervals stand in one line of 80 columns
HEADINGS: dict[str, Heading] = {
    "reward": Heading("reward (95 % interval)", _reward),
    "trained_reward": Heading("reward trained on", _plain),
    "kl_from_start": Heading("nats from the start", _plain),
    "objective/kl": Heading("nats from the reference", _plain),
    "completions/mean_length": Heading("tokens a completion", _plain),
    "completions/clipped_ratio": Heading("completions without an end", _share),
    "completions/repetition": Heading("repeated 4-grams", _share),
    "completions/distinct_1": Heading("different tokens", _share),
    "completions/distinct_2": Heading("different pairs of tokens", _share),
    "entropy": Heading("entropy, nats a token", _plain),
    "loss": Heading("loss", _plain),
    "mean_token_accuracy": Heading("tokens predicted right", _share),
    "rewards/accuracies": Heading("accuracy (95 % interval)", _sure_share),
    "accuracy": Heading("accuracy (95 % interval)", _sure_share),
    "f1": Heading("F1", _share),
    "precision": Heading("precision", _share),
    "recall": Heading("recall", _share),
    "exact_match": Heading("exact answers (95 % interval)", _sure_share),
    "answer_f1": Heading("overlap with the answer (F1)", _share),
    "window_accuracy": Heading("windows right", _share),
    "mean_absolute_error": Heading("mean absolute error", _plain),
    "margin": Heading("score, better - worse", _plain),
    "mean_reward": Heading("mean score", _plain),
    "brier": Heading("Brier score", _plain),
    "ece": Heading("calibration error (ECE)", _share),
    "rewards/margins": Heading("margin, chosen - rejected", _plain),
    "rewards/chosen": Heading("implicit reward, chosen", _plain),
    "rewards/rejected": Heading("implicit reward, rejected", _plain),
    "rewards/signed": Heading("implicit reward, signed", _plain),
    "logps/chosen": Heading("log p, chosen", _plain),
    "logps/rejected": Heading("log p, rejected", _plain),
    "odds_ratio_loss": Heading("odds ratio loss", _plain),
    "kl": Heading("reference point z0", _plain),
}
DERIVED = {
    "macro_f1": "macro F1, all classes alike",
    "pearson": "correlation (Pearson)",
    "root_mean_square_error": "root mean square error",
}
