"""A reward model: a score for an answer, from pairs of a better and a worse one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tomoni.settings.common import Phase, Positive
from tomoni.settings.pairs import FORMS, PairSettings

__all__ = ["FORMS", "Config", "phases"]


class Config(PairSettings):
    method: Literal["reward"] = "reward"
    learning_rate: Positive = 5e-5
    pool: Literal["last", "mean", "first"] | None = (
        None  # what of a row is scored; none: last for a decoder, mean for an encoder
    )
    center_rewards_coefficient: Annotated[float, Field(ge=0)] = 0.0  # holds scores about 0; 0.01 is usual


def phases(cfg: Config) -> tuple[Phase, ...]:
    return (
        Phase("train", models=("policy", "score"), passes=("forward", "backward", "update"), units="2 * batch_size"),
    )
