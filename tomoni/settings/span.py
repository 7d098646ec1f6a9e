"""Answers that stand in a text: questions on contexts, as in SQuAD."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tomoni.settings.tasks import TaskSettings
from tomoni.settings.tasks import labelled_phases as phases

__all__ = ["FORMS", "Config", "phases"]
FORMS = ("squad",)  # of data that it learns from


class Config(TaskSettings):
    method: Literal["span"] = "span"
    max_length: Annotated[int, Field(ge=16)] = 384  # tokens of a window: the question and a part of its context
    stride: Annotated[int, Field(ge=0)] = 128  # tokens that two windows of a long context have in common
    max_answer_length: Annotated[int, Field(ge=1)] = 30  # tokens of an answer
    head_learning_rate: Annotated[float, Field(ge=1)] = 10.0  # of the new head, as a multiple of learning_rate
