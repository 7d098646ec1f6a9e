"""Pretraining and continued pretraining: predict every next token of plain text, or words that are hidden in it.

    causal    loss = - sum_i log p(token_i | tokens_<i) / (number of predicted tokens)        over the whole step
    mlm       loss = - sum_i log p(token_i | all that is not hidden) / (number of hidden tokens)

Documents are packed into items of about `max_length` tokens. A packed item is several rows, one per document or piece
of one, so no token ever sees another document; how rows are laid out in memory is the engine's affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tomoni import losses
from tomoni.data.masking import LOOKING, Masking, masking_of
from tomoni.data.tasks import TaskRenderer
from tomoni.errors import DataError
from tomoni.records import Record, Text, kind_of
from tomoni.report import Report, State, Stats
from tomoni.rows import Item
from tomoni.settings.pretrain import FORMS, Config

if TYPE_CHECKING:
    from tomoni.data.render import Renderer
    from tomoni.data.stream import Stream
    from tomoni.engine.engine import Engine
    from tomoni.rewards.answered import Rewards


def items(record: Record, render: Renderer | TaskRenderer) -> list[Item]:
    """One item per piece of at most `max_length` tokens; packing into larger items comes after. What is to be masked keeps
    which tokens make up a word."""
    if not isinstance(record, Text):
        raise DataError(
            f"{record.source}: pretrain learns from plain text, not from {kind_of(record)}",
            choices=FORMS,
            next_step="name text files or records with a text column; prompts with answers are for `tomoni sft`",
        )
    rows = render.words(record) if isinstance(render, TaskRenderer) else render.text(record)
    return [Item(f"{record.id}/{part}", (row,)) for part, row in enumerate(rows)]


def evaluate(engine: Engine, items: Sequence[Item], cfg: Config, rewards: Rewards | None = None) -> Stats:
    if cfg.objective == "mlm":
        items = masking(engine, cfg)(items, [LOOKING] * len(items))
    return engine.evaluate(items, losses.nll)


def steps(engine: Engine, data: Stream, cfg: Config, state: State, rewards: Rewards | None = None) -> Iterator[Report]:
    hide = masking(engine, cfg) if cfg.objective == "mlm" else None
    for step in range(state.step, cfg.steps):
        batch = data.batch(step)
        if hide is not None:
            batch = hide(batch, data.epochs(step))
        stats = engine.forward_backward(batch, losses.nll)
        yield Report.after(step, batch, stats | engine.optim_step(cfg.lr_at(step)))


def masking(engine: Engine, cfg: Config) -> Masking:
    return masking_of(engine.tokenizer, share=cfg.mlm_probability, seed=cfg.seed)
