"""How completions are sampled for learning, and what scores them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from tomoni.config import Frozen
from tomoni.settings.common import Filled, Positive
from tomoni.settings.watching import WatchSettings

FORMS = ("prompt", "messages", "prompt_completion", "alpaca", "sharegpt", "preference")


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str | int | float) else value


Names = Annotated[tuple[Filled, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
Numbers = Annotated[tuple[float, ...], BeforeValidator(_as_tuple)]


SCORERS = (
    "what scores a completion: file.py:name or package.module:name (a Python function), the folder of a reward run, or "
    "http(s)://… (docs/rewards.md)"
)


class RewardSettings(Frozen):
    """`reward_funcs` names Python functions ("file.py:name", "package.module:name"), folders of trained reward models,
    or an endpoint (http:// or https://); a completion's reward is the sum of their scores times `reward_weights`."""

    reward_funcs: Names = Field(
        description=SCORERS
    )  # file.py:name, package.module:name, a reward model's folder, or http(s)://…
    reward_weights: Numbers = ()  # none: 1 each
    reward_api_key_env: Filled | None = None  # the environment variable that holds an endpoint's key

    @model_validator(mode="after")
    def _a_weight_for_each_reward(self) -> RewardSettings:
        if self.reward_weights and len(self.reward_weights) != len(self.reward_funcs):
            raise ValueError(
                f"reward_weights has {len(self.reward_weights)} values for {len(self.reward_funcs)} reward_funcs"
            )
        return self


class RolloutSettings(RewardSettings, WatchSettings):
    """`batch_size` counts prompts; each has `num_generations` completions of at most `max_completion_length` tokens."""

    num_generations: Annotated[int, Field(ge=1)] = 8  # completions of each prompt
    max_completion_length: Annotated[int, Field(ge=1)] = 128  # tokens
    temperature: Positive = 1.0  # the policy is softmax(logits / temperature), in sampling and in learning
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0


def require_a_group(num_generations: int, method: str) -> None:
    if num_generations < 2:
        raise ValueError(
            f"num_generations is {num_generations}: {method} compares the completions of a prompt with each other, "
            "so it needs at least 2"
        )
