"""Group relative policy optimisation: completions of a prompt are compared with each other."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tomoni.settings.common import Filled, Phase, TrainingSettings
from tomoni.settings.reference import ReferenceSettings
from tomoni.settings.replay import ReplaySettings, replay_phases
from tomoni.settings.rollouts import FORMS, RolloutSettings, require_a_group

__all__ = ["FORMS", "Config", "phases"]


class Config(TrainingSettings, RolloutSettings, ReferenceSettings, ReplaySettings):
    method: Literal["grpo"] = "grpo"
    model_name_or_path: Filled
    chat_template: Filled | None = None
    batch_size: Annotated[int, Field(ge=1)] = 8  # prompts per step
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-5
    num_train_epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    beta: Annotated[float, Field(ge=0)] = 0.0  # of the divergence from the reference; 0: it is only watched
    kl_in: Literal["reward", "loss"] = "loss"
    kl_estimator: Literal["k2", "k3", "k3_ratio"] = "k3_ratio"  # in the loss
    scale_rewards: Literal["group", "batch", "none"] = "none"  # what advantages are divided by
    loss_type: Literal["grpo", "dapo", "dr_grpo"] = "dapo"  # how a completion's tokens are weighed
    num_iterations: Annotated[int, Field(ge=1)] = 1  # updates on the same completions
    epsilon: Annotated[float, Field(gt=0)] = 0.2
    epsilon_high: Annotated[float, Field(gt=0)] | None = None  # None: epsilon
    mask_truncated_completions: bool = False

    @property
    def updates_per_batch(self) -> int:
        return self.num_iterations

    @model_validator(mode="after")
    def _has_groups(self) -> Config:
        require_a_group(self.num_generations, "grpo")
        return self


def phases(cfg: Config) -> tuple[Phase, ...]:
    return (
        Phase("sample", models=("policy",), passes=("sample",), units="batch_size * num_generations"),
        Phase("score", models=("rewards",), passes=("forward",), units="batch_size * num_generations"),
        Phase("distance", models=("reference",), passes=("forward",), units="batch_size * num_generations"),
        *replay_phases(cfg, "num_iterations"),
        Phase(
            "train",
            models=("policy",),
            passes=("forward", "backward", "update"),
            units="batch_size * num_generations * num_iterations",
        ),
    )
