"""Simple preference optimisation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tomoni.settings.common import Phase, Positive
from tomoni.settings.pairs import FORMS, PairSettings
from tomoni.settings.replay import ReplaySettings, replay_phases

__all__ = ["FORMS", "Config", "phases"]


class Config(PairSettings, ReplaySettings):
    method: Literal["simpo"] = "simpo"
    learning_rate: Positive = 1e-5
    beta: Positive = 2.0  # of the difference of mean log-probabilities
    simpo_gamma: Annotated[float, Field(ge=0)] = 1.0  # by how much the chosen answer is to be ahead


def phases(cfg: Config) -> tuple[Phase, ...]:
    return (
        *replay_phases(cfg),
        Phase("train", models=("policy",), passes=("forward", "backward", "update"), units="2 * batch_size"),
    )
