"""Odds ratio preference optimisation."""

from __future__ import annotations

from typing import Literal

from tomoni.settings.common import Filled, Phase, Positive, TrainingSettings
from tomoni.settings.pairs import FORMS
from tomoni.settings.replay import ReplaySettings, replay_phases

__all__ = ["FORMS", "Config", "phases"]


class Config(TrainingSettings, ReplaySettings):
    method: Literal["orpo"] = "orpo"
    model_name_or_path: Filled
    chat_template: Filled | None = None  # a Jinja file instead of the model's own; saved with the model
    num_train_epochs: Positive = 1.0
    learning_rate: Positive = 5e-5
    beta: Positive = 0.1  # how much preferring counts beside learning the chosen answers


def phases(cfg: Config) -> tuple[Phase, ...]:
    return (
        *replay_phases(cfg),
        Phase("train", models=("policy",), passes=("forward", "backward", "update"), units="2 * batch_size"),
    )
