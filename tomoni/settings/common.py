"""What every training method's config has. Keys carry the names of Hugging Face and TRL where those have one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tomoni.config import Frozen
from tomoni.errors import did_you_mean
from tomoni.settings.elsewhere import CALLED_ELSEWHERE
from tomoni.settings.schedule import Schedule, factor

Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _as_tuple(value: Any) -> Any:
    """One file or a list of them."""
    return (value,) if isinstance(value, str) else value


Filled = Annotated[str, Field(min_length=1)]
Files = Annotated[tuple[Filled, ...], BeforeValidator(_as_tuple)]
Names = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]

DEVICES = re.compile(r"auto|cpu|cuda(:[0-9]+)?|mps")
Form = Literal[
    "text", "messages", "prompt_completion", "alpaca", "sharegpt", "preference", "unpaired", "prompt",
    "labelled", "text_pair", "spans", "tokens", "squad",
]  # fmt: skip
ADAPTERS = ("lora", "dora", "rslora", "ia3", "prompt_tuning")


@dataclass(frozen=True, slots=True)
class Phase:
    """One pass over data that a method makes at each step; for the planner.

    `models` are held in memory during it, `passes` says what is computed, `units` counts them per step in terms of
    the config ("batch_size" or a number).
    """

    name: str
    models: tuple[str, ...]
    passes: tuple[Literal["forward", "backward", "update", "sample"], ...]
    units: str = "batch_size"


class DataSettings(Frozen):
    train_file: Annotated[Files, Field(min_length=1)]
    validation_file: Files = ()
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.0  # held out of train_file by hash of the record's id
    train_share: Annotated[float, Field(gt=0, le=1)] = (
        1.0  # of the others are trained on, by hash of id and train_share_seed
    )
    train_share_seed: Annotated[int, Field(ge=0)] = 0  # a smaller share of the same seed is a part of a larger one
    form: Form | None = None  # None: detected, and said
    columns: dict[str, str] = Field(default_factory=dict)  # the form's column: the file's, such as prompt: question
    on_bad_rows: Literal["stop", "quarantine"] = "stop"
    on_long_rows: Literal["stop", "truncate", "drop"] = "stop"
    max_length: Annotated[int, Field(ge=2)] = 1024  # tokens of a row


def _require_pattern(text: str) -> None:
    example = "for example names:mlp\\.down_proj"
    if not text:
        raise ValueError(f"names: needs a pattern, {example}")
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}; {example}") from error


class TrainedPart(Frozen):
    """What is trained: all weights, a part, or an adapter."""

    PARTS: ClassVar[tuple[str, ...]] = ()  # that a method knows besides

    train: str = "all"  # all | top:K | head | embeddings | names:REGEX | lora | dora | rslora | ia3 | prompt_tuning
    lora_r: Annotated[int, Field(ge=1)] = 16
    lora_alpha: Positive = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    lora_target_modules: Names = ("all-linear",)
    num_virtual_tokens: Annotated[int, Field(ge=1)] = 16  # prompt_tuning

    @field_validator("train")
    @classmethod
    def _known(cls, value: str) -> str:
        name, _, argument = value.partition(":")
        if value in ("all", "head", "embeddings", *ADAPTERS, *cls.PARTS):
            return value
        if name == "top" and argument.isdigit() and int(argument) > 0:
            return value
        if name == "names":
            _require_pattern(argument)
            return value
        choices = ("all", "head", "embeddings", *ADAPTERS, *cls.PARTS)
        more = ", ".join((*ADAPTERS, *cls.PARTS))
        raise ValueError(f"possible: all, top:K, head, embeddings, names:REGEX, {more}{did_you_mean(value, choices)}")


class Optimization(Frozen):
    num_train_epochs: Positive = 3.0
    max_steps: Annotated[int, Field(ge=-1)] = -1  # -1: from num_train_epochs
    batch_size: Annotated[int, Field(ge=1)] = 16  # items per step, over all devices; memory does not depend on it
    learning_rate: Positive = 2e-4
    lr_scheduler_type: Schedule = "cosine"
    warmup_ratio: Share = 0.03
    warmup_steps: Annotated[int, Field(ge=0)] = 0  # where above 0, instead of warmup_ratio
    min_lr_ratio: Share = 0.0
    decay_ratio: Share = 0.2  # warmup_stable_decay: the share of steps that come down
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_beta1: Beta = 0.9
    adam_beta2: Beta = 0.999
    adam_epsilon: Positive = 1e-8
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0  # 0: no clipping
    on_nonfinite: Literal["stop", "skip"] = "stop"

    @property
    def steps(self) -> int:
        """Steps of the run; known once the data has been counted (`with_steps`)."""
        if self.max_steps < 0:
            raise ValueError("the number of steps is not known before the data is counted")
        return self.max_steps

    @property
    def updates_per_batch(self) -> int:
        """Optimizer updates that are made on one batch of the data; more than 1 where completions are learnt from
        several times."""
        return 1

    def lr_at(self, step: int) -> float:
        warmup = self.warmup_steps or math.ceil(self.warmup_ratio * self.steps)
        decay = round(self.decay_ratio * self.steps)
        return self.learning_rate * factor(
            self.lr_scheduler_type, step, steps=self.steps, warmup=warmup, min_lr_ratio=self.min_lr_ratio, decay=decay
        )


class Hardware(Frozen):
    device: str = "auto"  # auto | cpu | cuda | cuda:N | mps
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the arithmetic; master weights stay float32
    gradient_checkpointing: bool = False
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    tokens_per_microbatch: Count | None = None  # None: what suits the device; memory only, not the mathematics
    threads: Count | None = None  # None: all cores
    keep_frozen: Literal["auto", "float16", "none"] = "auto"  # outputs of frozen layers, on disk; auto: in float32

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not DEVICES.fullmatch(value):
            raise ValueError(f"possible: auto, cpu, cuda, cuda:N, mps{did_you_mean(value, ('auto', 'cpu', 'cuda'))}")
        return value


class Running(Frozen):
    output_dir: Filled
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    logging_steps: Annotated[int, Field(ge=1)] = 1
    eval_steps: Annotated[int, Field(ge=0)] = 0  # 0: at the start and the end only
    save_steps: Annotated[int, Field(ge=0)] = 0  # 0: by time, about every 5 minutes, and at the end
    save_total_limit: Annotated[int, Field(ge=1)] = 2  # besides the best
    load_best_model_at_end: bool = False  # the result holds the weights of the best evaluation, not of the last step
    report_to: Literal["none", "tensorboard"] = "none"
    sample_prompts: Annotated[int, Field(ge=0)] = 4  # answers shown side by side at the end


class TrainingSettings(DataSettings, TrainedPart, Optimization, Hardware, Running):
    """All of the above in one flat namespace, as in Hugging Face's arguments."""

    called_elsewhere: ClassVar[Mapping[str, str]] = CALLED_ELSEWHERE

    @model_validator(mode="after")
    def _one_way_to_hold_out(self) -> TrainingSettings:
        if self.validation_file and self.validation_share:
            raise ValueError(
                "validation_file and validation_share exclude each other: name a file, or a share of train_file"
            )
        return self

    def with_steps(self, items: int) -> TrainingSettings:
        """The same config with `max_steps` set, for `items` items in the training data."""
        if self.max_steps >= 0:
            return self
        return self.model_copy(
            update={
                "max_steps": self.updates_per_batch
                * math.ceil(items_seen(items, self.num_train_epochs) / self.batch_size)
            }
        )


def items_seen(items: int, epochs: float) -> int:
    """Items of so many epochs, a last part rounded up; with the decimal number that was written, whose binary
    neighbour can be a little larger."""
    return math.ceil(items * Fraction(str(epochs)))
