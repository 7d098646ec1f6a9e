"""A number for a text, or for a pair of texts (similarity)."""

from __future__ import annotations

from typing import Literal

from tomoni.settings.tasks import WholeTextSettings
from tomoni.settings.tasks import labelled_phases as phases

__all__ = ["FORMS", "Config", "phases"]
FORMS = ("labelled", "text_pair")  # of data that it learns from


class Config(WholeTextSettings):
    method: Literal["regress"] = "regress"
