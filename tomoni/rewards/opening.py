"""Rewards by the names that stand in a config, and what is done with all of them alike: counting, checking, weighing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tomoni.errors import ConfigError, RunError
from tomoni.rewards.answered import Answered, Rewards, Scores
from tomoni.rewards.functions import SHOWN, FunctionReward, load_function

LARGEST = 1e18  # of a reward: its square is still a number in float32

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tomoni.settings.common import TrainingSettings


class Reward(Protocol):
    """`name` is a heading in metrics; a call gives one number for each answer."""

    @property
    def name(self) -> str: ...
    def __call__(self, answers: Sequence[Answered], /) -> list[Any]: ...


class Weighed:
    """Several rewards as one (`answered.Rewards`). What is no finite number stops the run and names the completion: a
    score of 0 would be an answer that nobody gave."""

    def __init__(self, rewards: Sequence[Reward], weights: Sequence[float] = ()) -> None:
        self.rewards = tuple(rewards)
        self.names = _distinct([reward.name for reward in rewards])
        self.weights = tuple(weights) or (1.0,) * len(self.rewards)

    def __call__(self, answers: Sequence[Answered], /) -> Scores:
        columns = [_checked(reward.name, reward(answers), answers) for reward in self.rewards]
        values_NF = np.array(columns, dtype=np.float64).T.reshape(len(answers), len(columns))
        return Scores(self.names, values_NF, self.weights)


def unread(rewards: Rewards) -> list[str]:
    """Columns that a function names and that no record had so far."""
    functions = [reward for reward in getattr(rewards, "rewards", ()) if isinstance(reward, FunctionReward)]
    return [f"{name} (of {reward.name})" for reward in functions for name in sorted(reward.unread)]


def open_rewards(cfg: TrainingSettings, tokenizer: PreTrainedTokenizerBase) -> Weighed:
    """`tokenizer` is the policy's: a reward model that has the same one reads the sampled tokens as they are."""
    names: tuple[str, ...] = cfg.reward_funcs  # type: ignore[attr-defined]
    return Weighed(_opened(names, cfg, tokenizer), cfg.reward_weights)  # type: ignore[attr-defined]


def open_eval_rewards(trained: Weighed, cfg: TrainingSettings, tokenizer: PreTrainedTokenizerBase) -> Weighed:
    """What scores held-out completions: `eval_reward_funcs`, with those that are trained on beside them for nothing; or
    these themselves."""
    names: tuple[str, ...] = cfg.eval_reward_funcs  # type: ignore[attr-defined]
    if not names:
        return trained
    others = _opened(names, cfg, tokenizer)
    return Weighed([*trained.rewards, *others], (0.0,) * len(trained.rewards) + (1.0,) * len(others))


def _opened(names: Sequence[str], cfg: TrainingSettings, tokenizer: PreTrainedTokenizerBase) -> list[Reward]:
    key = getattr(cfg, "reward_api_key_env", None)
    return [_open(name, cfg, tokenizer, key) for name in names]


def _open(name: str, cfg: TrainingSettings, tokenizer: PreTrainedTokenizerBase, key: str | None) -> Reward:
    if name.startswith(("http://", "https://")):
        from tomoni.rewards.endpoint import Endpoint

        return Endpoint(name, key_from=key)
    if Path(name).expanduser().is_dir():
        from tomoni.rewards.model import RewardModel

        return RewardModel(Path(name).expanduser(), cfg, tokenizer)
    if ":" not in name or "://" in name:
        raise ConfigError(
            f"reward_funcs: {name!r} is no folder of a reward model, no function and no address",
            choices=["file.py:name", "package.module:name", "the folder of a reward run", "https://…"],
            next_step="write one of these",
        )
    return load_function(name)


def _checked(name: str, found: Sequence[Any], answers: Sequence[Answered]) -> list[float]:
    if len(found) != len(answers):
        raise RunError(
            f"reward {name} gave {len(found)} numbers for {len(answers)} completions",
            next_step="return one number for each completion, in their order",
        )
    for value, answer in zip(found, answers, strict=True):
        number = not isinstance(value, bool | str) and isinstance(value, int | float | np.integer | np.floating)
        if not number or not -LARGEST <= value <= LARGEST:  # NaN is neither
            raise RunError(
                f"reward {name} gave {_short(value)} for completion {answer.id}: {answer.completion[:SHOWN]!r}",
                next_step=f"return a number for every completion, from {-LARGEST:g} to {LARGEST:g}; one that cannot be judged "
                "must be decided by you",
            )
    return [float(value) for value in found]


def _short(value: Any) -> str:
    """Python refuses to write out an integer of thousands of digits."""
    return (
        "an integer of hundreds of digits"
        if isinstance(value, int) and value.bit_length() > 1_000
        else repr(value)[:SHOWN]
    )


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The second of the same name gets #2, and so on."""
    found: list[str] = []
    for name in names:
        count = 1 + sum(other == name or other.startswith(f"{name}#") for other in found)
        found.append(name if count == 1 else f"{name}#{count}")
    return tuple(found)
