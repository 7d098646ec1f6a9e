"""Supervised fine-tuning on conversations, prompt and completion, or plain text."""

from __future__ import annotations

from typing import Literal

from tomoni.settings.common import Filled, Phase, TrainingSettings
from tomoni.settings.replay import ReplaySettings, replay_phases

FORMS = ("text", "messages", "prompt_completion", "alpaca", "sharegpt")  # of data that it learns from
CHOSEN_ONLY = "to learn the chosen answers alone: form: prompt_completion with columns: {completion: chosen}"


class Config(TrainingSettings, ReplaySettings):
    method: Literal["sft"] = "sft"
    model_name_or_path: Filled
    # which tokens count: all assistant turns, only the last one, or every token
    loss_on: Literal["assistant", "last", "all"] = "assistant"
    chat_template: Filled | None = None  # a Jinja file instead of the model's own; saved with the model


def phases(cfg: Config) -> tuple[Phase, ...]:
    return (*replay_phases(cfg), Phase("train", models=("policy",), passes=("forward", "backward", "update")))
