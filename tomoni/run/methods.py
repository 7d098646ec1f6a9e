"""The methods a run can drive: name, where its settings are and where the method is. No torch to import this."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from tomoni.errors import ConfigError, did_you_mean
from tomoni.settings.common import TrainingSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tomoni.data.render import Renderer
    from tomoni.data.stream import Stream
    from tomoni.engine.engine import Engine
    from tomoni.records import Record
    from tomoni.report import Report, State, Stats
    from tomoni.rewards.answered import Rewards
    from tomoni.rows import Item

METHODS = (
    "pretrain", "sft", "dpo", "orpo", "simpo", "kto", "reward", "bestofn", "grpo", "rloo", "ppo",
    "classify", "regress", "tag", "span",
)  # fmt: skip


class Method(Protocol):
    """A module of `tomoni.methods`."""

    def items(self, record: Record, render: Renderer) -> list[Item]: ...

    def evaluate(
        self, engine: Engine, items: Sequence[Item], cfg: TrainingSettings, rewards: Rewards | None = None
    ) -> Stats:
        """A look without a trace; its "loss" is what the best is chosen by, lower is better."""
        ...

    def steps(
        self, engine: Engine, data: Stream, cfg: TrainingSettings, state: State, rewards: Rewards | None = None
    ) -> Iterator[Report]: ...


def config_class(method: str) -> type[TrainingSettings]:
    """The settings class of a method; ConfigError for an unknown name."""
    _check(method)
    found: type[TrainingSettings] = import_module(f"tomoni.settings.{method}").Config
    return found


def forms_of(method: str) -> tuple[str, ...]:
    """The forms of data that a method learns from."""
    found: tuple[str, ...] = import_module(config_class(method).__module__).FORMS
    return found


def method_module(method: str) -> Method:
    _check(method)
    found: Method = import_module(f"tomoni.methods.{method}")  # type: ignore[assignment]
    return found


def _check(method: str) -> None:
    if method not in METHODS:
        raise ConfigError(
            f"method: {method!r} is not known{did_you_mean(method, METHODS)}",
            choices=METHODS,
            next_step="set `method:` at the top of the config to one of these",
        )
