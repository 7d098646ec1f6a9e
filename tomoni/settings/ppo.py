"""Proximal policy optimisation with a value head on the policy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tomoni.settings.common import Filled, Phase, Positive, Share, TrainingSettings
from tomoni.settings.reference import ReferenceSettings
from tomoni.settings.replay import ReplaySettings, replay_phases
from tomoni.settings.rollouts import FORMS, RolloutSettings

__all__ = ["FORMS", "Config", "phases"]


class Config(TrainingSettings, RolloutSettings, ReferenceSettings, ReplaySettings):
    method: Literal["ppo"] = "ppo"
    model_name_or_path: Filled
    chat_template: Filled | None = None
    batch_size: Annotated[int, Field(ge=1)] = 64  # prompts per rollout
    num_generations: Annotated[int, Field(ge=1)] = 1
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-5
    num_train_epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    num_ppo_epochs: Annotated[int, Field(ge=1)] = 4  # passes over a rollout
    num_mini_batches: Annotated[int, Field(ge=1)] = 1  # updates in each
    kl_coef: Annotated[float, Field(ge=0)] = 0.05
    target_kl: Positive | None = None  # nats a completion; kl_coef moves so that the divergence stays there
    kl_horizon: Positive = 10_000.0  # completions
    gamma: Share = 1.0
    lam: Share = 0.95
    cliprange: Annotated[float, Field(gt=0)] = 0.2
    cliprange_value: Annotated[float, Field(gt=0)] = 0.2
    vf_coef: Annotated[float, Field(ge=0)] = 0.1
    value_lr_ratio: Positive = 20.0  # the value head's learning rate as a multiple of the others'
    whiten_rewards: bool = False
    missing_eos_penalty: Annotated[float, Field(ge=0)] = 0.0  # taken off a completion that does not come to its end

    @model_validator(mode="after")
    def _has_something_in_each_part(self) -> Config:
        episodes = self.batch_size * self.num_generations
        if self.num_mini_batches > episodes:
            raise ValueError(
                f"num_mini_batches is {self.num_mini_batches}, and a rollout has {episodes} completions "
                "(batch_size * num_generations): at most one mini-batch for each"
            )
        return self

    @property
    def updates_per_batch(self) -> int:
        return self.num_ppo_epochs * self.num_mini_batches


def phases(cfg: Config) -> tuple[Phase, ...]:
    sampled = "batch_size * num_generations"
    return (
        Phase("sample", models=("policy",), passes=("sample",), units=sampled),
        Phase("score", models=("rewards",), passes=("forward",), units=sampled),
        Phase("distance", models=("reference",), passes=("forward",), units=sampled),
        Phase("value", models=("policy", "value"), passes=("forward",), units=sampled),
        *replay_phases(cfg, "num_ppo_epochs * num_mini_batches"),
        Phase(
            "train",
            models=("policy", "value"),
            passes=("forward", "backward", "update"),
            units=f"{sampled} * num_ppo_epochs",
        ),
    )
