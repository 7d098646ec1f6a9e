"""Spans of a text and their types: names of people and places, amounts, anything that can be marked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tomoni.settings.tasks import TaskSettings
from tomoni.settings.tasks import labelled_phases as phases

__all__ = ["FORMS", "Config", "phases"]
FORMS = ("spans", "tokens")  # of data that it learns from


class Config(TaskSettings):
    method: Literal["tag"] = "tag"
    stride: Annotated[int, Field(ge=0)] = 32  # tokens that two windows of a long text have in common
    head_learning_rate: Annotated[float, Field(ge=1)] = 10.0  # of the new head, as a multiple of learning_rate
