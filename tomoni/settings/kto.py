"""Kahneman-Tversky optimisation: from thumbs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tomoni.settings.common import Filled, Phase, Positive, TrainingSettings
from tomoni.settings.reference import ReferenceSettings
from tomoni.settings.replay import ReplaySettings, replay_phases

FORMS = ("unpaired",)


class Config(TrainingSettings, ReferenceSettings, ReplaySettings):
    method: Literal["kto"] = "kto"
    model_name_or_path: Filled
    chat_template: Filled | None = None  # a Jinja file instead of the model's own; saved with the model
    batch_size: Annotated[int, Field(ge=2)] = 16  # the reference point needs answers to other prompts
    num_train_epochs: Positive = 1.0
    learning_rate: Positive = 2e-5
    beta: Positive = 0.1  # how dear distance from the reference is: a larger one stays nearer
    desirable_weight: Positive = 1.0  # where thumbs up are fewer, raise it, so that both kinds weigh about the same
    undesirable_weight: Positive = 1.0


def phases(cfg: Config) -> tuple[Phase, ...]:
    return (
        Phase("distance", models=("reference",), passes=("forward",), units="2 * batch_size"),
        Phase("reference point", models=("policy",), passes=("forward",)),
        *replay_phases(cfg),
        Phase("train", models=("policy",), passes=("forward", "backward", "update")),
    )
