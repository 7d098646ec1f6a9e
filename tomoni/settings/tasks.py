"""What the tasks of encoders share: classify, regress, tag, span."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tomoni.settings.common import Filled, Phase, Positive, Share, TrainingSettings
from tomoni.settings.schedule import Schedule


class TaskSettings(TrainingSettings):
    PARTS: ClassVar[tuple[str, ...]] = ("auto",)

    model_name_or_path: Filled
    max_length: Annotated[int, Field(ge=8)] = 512
    batch_size: Annotated[int, Field(ge=1)] = 32
    learning_rate: Positive = 5e-5
    lr_scheduler_type: Schedule = "linear"
    warmup_ratio: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01


class WholeTextSettings(TaskSettings):
    """One head on each text or pair of texts."""

    # what of a text's states the head reads: of an encoder first (as Hugging Face's classes do) or mean, of a decoder last;
    # none: as the model's own pooling says, else mean for train: head and first for more
    pool: Literal["first", "mean", "last"] | None = None
    # where the head begins: solved (the best one on the untuned body, exactly) or new (random)
    head_start: Literal["solved", "new"] = "solved"

    def with_steps(self, items: int) -> TrainingSettings:
        """The head alone is solved, in one step."""
        return self.model_copy(update={"max_steps": 1}) if self.train == "head" else super().with_steps(items)


def labelled_phases(cfg: TaskSettings) -> tuple[Phase, ...]:
    return (Phase("train", models=("policy", "labels"), passes=("forward", "backward", "update")),)
