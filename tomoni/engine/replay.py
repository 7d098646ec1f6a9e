"""Rows of what a model was tuned on before, learnt beside every step of whatever it learns now, so that it forgets less.

    gradient = the method's own + coef * that of  - sum_i w_i log p(token_i | tokens_<i) / sum_i w_i

over `batch_size` rows that are drawn for each update: the mixed-in pretraining gradients of Ouyang et al. 2022
(InstructGPT, section 3.5: PPO-ptx), here for every method. Which rows an update gets is a function of the seed and of its
number alone, so that a resumed run goes on with the same.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tomoni.data.stream import Stream
from tomoni.engine.lanes import added
from tomoni.losses import Loss, Outputs, Rows, Term
from tomoni.report import Stats

if TYPE_CHECKING:
    from tomoni.data.stream import Items
    from tomoni.engine.engine import Engine
    from tomoni.rows import Item

LOSS = "replay/loss"
DRAWS = 1 << 32  # dropout's draws are numbered from here: others than those of the method's own micro-batches
ENDLESS = 1 << 62


def nll(outputs: Outputs, rows: Rows, *, coef: float) -> dict[str, Term]:
    return {LOSS: Term(-(outputs.logprobs_P * rows.weights_P).sum(), "token", coefficient=coef)}


class Replay:
    """`items` go through epoch by epoch, each in an order of its own. `taken`: the ids of the last update's."""

    def __init__(self, items: Items, *, batch_size: int, coef: float, seed: int) -> None:
        self.loss: Loss = partial(nll, coef=coef)
        # another order than that of a method that learns from the same file
        self._stream = Stream(items, batch_size=min(batch_size, len(items)), seed=seed ^ ENDLESS, steps=ENDLESS)
        self._taken: tuple[str, ...] = ()

    def batch(self, update: int) -> list[Item]:
        return self._stream.batch(update)

    def take(self) -> tuple[str, ...]:
        """The ids of what was replayed since this was last asked."""
        taken, self._taken = self._taken, ()
        return taken

    def add_to(self, engine: Engine) -> Stats:
        """The gradient of these rows, added to what stands in the engine's weights.

        The step's own gradients are set aside meanwhile, so that memory that runs out begins this again, and not them.
        """
        items, weights = self.batch(engine.updates), list(engine.trained.values())
        gradients, pending = [weight.grad for weight in weights], engine.pending
        with engine.at_temperature(1.0):  # what a model has learnt of texts is its own distribution, not the policy's
            stats = engine.forward_backward(items, self.loss, first_draw=DRAWS)
        added(gradients, [weight.grad for weight in weights])
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        if pending is not None and engine.pending is not None:
            engine.pending = pending + engine.pending
        self._taken += tuple(item.id for item in items)
        return stats
