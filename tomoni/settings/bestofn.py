"""Best of n, distilled: the best of several completions is what is learnt."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tomoni.settings.common import Filled, Phase, TrainingSettings
from tomoni.settings.replay import ReplaySettings, replay_phases
from tomoni.settings.rollouts import FORMS, RolloutSettings, require_a_group

__all__ = ["FORMS", "Config", "phases"]


class Config(TrainingSettings, RolloutSettings, ReplaySettings):
    method: Literal["bestofn"] = "bestofn"
    model_name_or_path: Filled
    chat_template: Filled | None = None
    batch_size: Annotated[int, Field(ge=1)] = 16  # prompts per step
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5e-5
    num_train_epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    min_gain: Annotated[float, Field(ge=0)] = 0.0  # of the best over its group's mean, to be learnt at all

    @model_validator(mode="after")
    def _has_groups(self) -> Config:
        require_a_group(self.num_generations, "bestofn")
        return self


def phases(cfg: Config) -> tuple[Phase, ...]:
    sampled = "batch_size * num_generations"
    return (
        Phase("sample", models=("policy",), passes=("sample",), units=sampled),
        Phase("score", models=("rewards",), passes=("forward",), units=sampled),
        Phase("distance", models=("reference",), passes=("forward",)),
        *replay_phases(cfg),
        Phase("train", models=("policy",), passes=("forward", "backward", "update")),
    )
