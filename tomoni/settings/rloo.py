"""REINFORCE with a leave-one-out baseline: a completion is one action, the others of its prompt are what it is held to."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tomoni.settings.common import Filled, Phase, TrainingSettings
from tomoni.settings.reference import ReferenceSettings
from tomoni.settings.replay import ReplaySettings, replay_phases
from tomoni.settings.rollouts import FORMS, RolloutSettings, require_a_group

__all__ = ["FORMS", "Config", "phases"]


class Config(TrainingSettings, RolloutSettings, ReferenceSettings, ReplaySettings):
    method: Literal["rloo"] = "rloo"
    model_name_or_path: Filled
    chat_template: Filled | None = None
    batch_size: Annotated[int, Field(ge=1)] = 8  # prompts per step
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-5
    num_train_epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    num_generations: Annotated[int, Field(ge=1)] = 4
    beta: Annotated[float, Field(ge=0)] = 0.05  # of the divergence from the reference, in the reward
    normalize_advantages: bool = False  # mean 0 and standard deviation 1 over the step
    num_iterations: Annotated[int, Field(ge=1)] = 1  # updates on the same completions
    epsilon: Annotated[float, Field(gt=0)] = 0.2
    epsilon_high: Annotated[float, Field(gt=0)] | None = None  # None: epsilon
    mask_truncated_completions: bool = False

    @property
    def updates_per_batch(self) -> int:
        return self.num_iterations

    @model_validator(mode="after")
    def _has_groups(self) -> Config:
        require_a_group(self.num_generations, "rloo")
        return self


def phases(cfg: Config) -> tuple[Phase, ...]:
    sampled = "batch_size * num_generations"
    return (
        Phase("sample", models=("policy",), passes=("sample",), units=sampled),
        Phase("score", models=("rewards",), passes=("forward",), units=sampled),
        Phase("distance", models=("reference",), passes=("forward",), units=sampled),
        *replay_phases(cfg, "num_iterations"),
        Phase(
            "train",
            models=("policy",),
            passes=("forward", "backward", "update"),
            units=f"{sampled} * num_iterations",
        ),
    )
