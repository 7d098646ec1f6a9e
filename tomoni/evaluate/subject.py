"""What is talked with or measured: a model, an adapter on its base, or the result of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tomoni.data.render import LossOn, Renderer
from tomoni.data.tokenize import load_tokenizer
from tomoni.engine.matrices import Weights
from tomoni.engine.models import examine, load
from tomoni.engine.sampler import Sampler, ends_of, longest_row
from tomoni.engine.setup import pick_device
from tomoni.errors import ConfigError
from tomoni.hub import Located, locate, result_of

MOST_TOKENS = 8192  # of a row that is measured, where the model's context is longer


@dataclass(frozen=True)
class Subject:
    """`name` is what the user called it. `stop_tokens` end its answers, which are made `answers_with` such weights."""

    name: str
    located: Located
    model: Any
    renderer: Renderer
    stop_tokens: tuple[int, ...]
    answers_with: Weights = "float32"

    @property
    def tokenizer(self) -> Any:
        return self.renderer.tokenizer

    @property
    def weights(self) -> int:
        """How many numbers the model is made of."""
        return sum(weight.numel() for weight in self.model.parameters())

    @property
    def description(self) -> str:
        """One line: name, size, and the base of an adapter."""
        kind = self.model.config.model_type
        base = f", adapter on {self.located.base.name}" if self.located.base else ""
        revision = f", revision {self.located.revision[:12]}" if self.located.revision else ""
        return f"{self.name} ({kind}, {_short(self.weights)} weights{base}{revision})"

    def sampler(self, **options: Any) -> Sampler:
        chosen = {"eos_ids": self.stop_tokens, "weights": self.answers_with} | options
        return Sampler(self.model, self.renderer.tokenizer, **chosen)


def open_subject(
    name: str | Path,
    *,
    device: str = "auto",
    loss_on: LossOn = "assistant",
    max_length: int | None = None,
    weights: Weights = "float32",
) -> Subject:
    """Load a model by any name that `locate` takes, or the result in a run's folder.

    `loss_on` and `max_length` (the model's context unless given) say how records become rows; longer ones are cut, and
    `renderer.truncated` counts them. `weights` are those that answers are made with. Raises RunError for a run without
    a result, ModelError for anything wrong with the model, or where it cannot have such weights.
    """
    known = get_args(Weights)
    if weights not in known:
        raise ConfigError(f"--weights {weights!r} is not known", choices=known)
    located = find(name)
    on = pick_device(device)
    tokenizer = load_tokenizer(located.tokenizer_folder)
    model = load(located)
    model.to(on)  # type: ignore[arg-type]
    longest = min(size for size in (max_length, longest_row(model), MOST_TOKENS) if size is not None)
    renderer = Renderer(tokenizer, loss_on=loss_on, max_length=longest, on_long_rows="truncate")
    ends = dict.fromkeys([*renderer.stop_tokens, *ends_of(model, tokenizer)])
    subject = Subject(str(name), located, model, renderer, tuple(ends), weights)
    if weights != "float32":
        subject.sampler()  # says at once where it cannot be
    return subject


def find(name: str | Path) -> Located:
    """Where the model is, with all that is wrong with it and can be told without loading it said at once."""
    located = locate(result_of(name))
    examine(located)
    return located


def shorter(messages: Sequence[Any]) -> list[Any]:
    """A conversation without its oldest exchange: the first turns after the system message, up to the next user's.

    The same conversation where only one exchange is left.
    """
    start = 1 if messages and messages[0].role == "system" else 0
    later = [index for index, message in enumerate(messages) if index > start and message.role == "user"]
    return [*messages[:start], *messages[later[0] :]] if later else list(messages)


def _short(count: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
