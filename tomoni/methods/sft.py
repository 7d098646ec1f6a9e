"""Supervised fine-tuning: raise the probability of the desired answers, token by token.

    loss = - sum_i w_i log p(token_i | tokens_<i) / sum_i w_i        over the whole step

`w_i` is 1 on the answers' tokens and on the token that ends each of them, 0 elsewhere (`loss_on` in the config).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tomoni import losses
from tomoni.errors import DataError
from tomoni.records import Chat, Record, Text, kind_of
from tomoni.report import Report, State, Stats
from tomoni.rows import Item
from tomoni.settings.sft import CHOSEN_ONLY, FORMS, Config

if TYPE_CHECKING:
    from tomoni.data.render import Renderer
    from tomoni.data.stream import Stream
    from tomoni.engine.engine import Engine
    from tomoni.rewards.answered import Rewards


def items(record: Record, render: Renderer) -> list[Item]:
    match record:
        case Chat():
            row = render.chat(record)
            return [] if row is None else [Item(record.id, (row,))]
        case Text():
            return [Item(f"{record.id}/{part}", (row,)) for part, row in enumerate(render.text(record))]
        case _:
            raise DataError(
                f"{record.source}: sft learns from conversations and texts, not from {kind_of(record)}",
                choices=FORMS,
                next_step=CHOSEN_ONLY,
            )


def evaluate(engine: Engine, items: Sequence[Item], cfg: Config, rewards: Rewards | None = None) -> Stats:
    return engine.evaluate(items, losses.nll)


def steps(engine: Engine, data: Stream, cfg: Config, state: State, rewards: Rewards | None = None) -> Iterator[Report]:
    for step in range(state.step, cfg.steps):
        batch = data.batch(step)
        stats = engine.forward_backward(batch, losses.nll)
        yield Report.after(step, batch, stats | engine.optim_step(cfg.lr_at(step)))
