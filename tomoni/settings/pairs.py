"""What the methods that learn from pairs share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tomoni.settings.common import Filled, Positive, TrainingSettings

FORMS = ("preference",)


class PairSettings(TrainingSettings):
    model_name_or_path: Filled
    chat_template: Filled | None = None  # a Jinja file instead of the model's own; saved with the model
    num_train_epochs: Positive = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = (
        0.0  # how often a choice is wrong; an item's own noise wins where larger
    )
