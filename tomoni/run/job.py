"""What the runner drives: everything a run needs, made ready by `prepare`, or by hand in a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tomoni.run.methods import Method
from tomoni.run.outcome import Answer
from tomoni.settings.common import TrainingSettings

if TYPE_CHECKING:
    from tomoni.data.stream import Items, Stream
    from tomoni.rewards.answered import Rewards

Tokenizer = Any  # of transformers, which is known in engine and data only


class Verbs(Protocol):
    """The part of an Engine that the runner itself uses; methods use the rest."""

    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...
    def bytes_to_save(self) -> int: ...


@dataclass(frozen=True)
class Job:
    """`cfg` has its number of steps; `looked_at` is measured before, during and after, `looked_at_is` says whether it
    was held out of the training. `answer` gives the model's answers to a few prompts; `save_model` writes the result."""

    cfg: TrainingSettings
    method: Method
    engine: Verbs
    data: Stream
    items: int
    looked_at: Items
    looked_at_is: Literal["validation", "training"]
    inputs: Mapping[str, Any]
    trained_weights: int
    result_name: Literal["model", "adapter"]
    result_bytes: int
    save_model: Callable[[Path], None]
    prompts: Sequence[Answer] = ()
    answer: Callable[[], list[str]] | None = None
    rewards: Rewards | None = None
    eval_rewards: Rewards | None = None  # what scores when the model is looked at; None: the same
    replayed: Callable[[], Sequence[str]] = tuple  # ids of what was replayed since it was last asked
    more_figures: Callable[[], Mapping[str, Any]] = dict  # of the finished model, for the report
    device_type: str = "cpu"
    notices: Sequence[str] = field(default=())
