"""What a method measures its distance from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from tomoni.config import Frozen
from tomoni.settings.common import Filled, Share


class ReferenceSettings(Frozen):
    """`reference`: "start", the policy as it was when the run began, adapters included; "ema", a moving average of the
    policy; or another model's name or folder, which must have the same tokenizer."""

    reference: Filled = "start"  # start: the policy when the run began; ema: its moving average; or a model
    ref_model_mixup_alpha: Share = 0.05  # ema: this part of the policy goes into the reference
    ref_model_sync_steps: Annotated[int, Field(ge=1)] = 1  # ema: after every so many steps

    @model_validator(mode="after")
    def _moves_only_an_average(self) -> ReferenceSettings:
        fields, names = type(self).model_fields, ("ref_model_mixup_alpha", "ref_model_sync_steps")
        # by value: a run's own config.yaml names every key
        given = [name for name in names if getattr(self, name) != fields[name].default]
        if given and self.reference != "ema":
            raise ValueError(f"{' and '.join(given)} is for reference: ema, and reference is {self.reference}")
        return self

    def reference_moves(self, step: int) -> bool:
        """Whether the reference takes a part of the policy after this step, counted from 0."""
        return self.reference == "ema" and (step + 1) % self.ref_model_sync_steps == 0
