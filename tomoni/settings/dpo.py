"""Direct preference optimisation."""

from __future__ import annotations

from typing import Literal

from tomoni.settings.common import Phase, Positive
from tomoni.settings.pairs import FORMS, PairSettings
from tomoni.settings.reference import ReferenceSettings
from tomoni.settings.replay import ReplaySettings, replay_phases

__all__ = ["FORMS", "Config", "phases"]


class Config(PairSettings, ReferenceSettings, ReplaySettings):
    method: Literal["dpo"] = "dpo"
    learning_rate: Positive = 2e-5
    beta: Positive = 0.1  # how dear distance from the reference is: a larger one stays nearer
    loss_type: Literal["sigmoid", "ipo", "hinge", "robust"] = "sigmoid"


def phases(cfg: Config) -> tuple[Phase, ...]:
    return (
        Phase("distance", models=("reference",), passes=("forward",), units="2 * batch_size"),
        *replay_phases(cfg),
        Phase("train", models=("policy",), passes=("forward", "backward", "update"), units="2 * batch_size"),
    )
