"""A transformers model cut between two of its layers while its own code runs: what makes masks, positions and all else
that stands around the layers is the model's own.

While a pass runs, some layers' `forward` is another one; a model is therefore cut by one thread at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from tomoni.engine.batch import Entering

Layers = Sequence[nn.Module]


class _Caught(Exception):
    def __init__(self, states: Tensor, parts: int) -> None:
        super().__init__("caught")
        self.states = states
        self.parts = parts


def lowest(layers: Layers, count: int, run: Callable[[], Any]) -> Entering:
    """What the lowest `count` layers give while `run` runs the model, which goes no further. RuntimeError where the
    model does not call them."""
    last: Any = layers[count - 1]
    forward = last.forward

    def stop(*arguments: Any, **options: Any) -> Any:
        out = forward(*arguments, **options)
        alone = isinstance(out, Tensor)
        raise _Caught(out if alone else out[0], 0 if alone else len(out))

    with _instead([(last, stop)]):
        try:
            run()
        except _Caught as caught:
            return Entering(count, caught.states, caught.parts)
    raise RuntimeError("the layers were not called")


@contextlib.contextmanager
def without_lowest(layers: Layers, entering: Entering) -> Iterator[None]:
    """The lowest layers do nothing, and the last of them gives what is entering the next."""

    def given(*arguments: Any, **options: Any) -> Any:
        return _as_layers_do(entering.states_NTD, entering.parts)

    def passed(*arguments: Any, **options: Any) -> Any:
        return _as_layers_do(arguments[0] if arguments else options["hidden_states"], entering.parts)

    *lower, last = layers[: entering.layer]
    with _instead([(last, given), *((layer, passed) for layer in lower)]):
        yield


def _as_layers_do(states: Tensor, parts: int) -> Tensor | tuple[Tensor | None, ...]:
    return states if parts == 0 else (states, *[None] * (parts - 1))


@contextlib.contextmanager
def _instead(forwards: Sequence[tuple[Any, Callable[..., Any]]]) -> Iterator[None]:
    before = [(layer, layer.__dict__.get("forward")) for layer, _ in forwards]
    try:
        for layer, forward in forwards:
            layer.forward = forward
        yield
    finally:
        for layer, forward in before:
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward
