"""Texts, or pairs of texts, into classes: one each, or any number of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tomoni.settings.tasks import WholeTextSettings
from tomoni.settings.tasks import labelled_phases as phases

__all__ = ["FORMS", "Config", "phases"]
FORMS = ("labelled", "text_pair")  # of data that it learns from


class Config(WholeTextSettings):
    method: Literal["classify"] = "classify"
    class_weights: Literal["none", "balanced"] = "none"  # balanced: rare classes count as much as common ones
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
