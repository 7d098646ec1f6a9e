"""Prompts to sample completions for, with what a reward may read of the record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tomoni.errors import DataError
from tomoni.records import Chat, Comparison, Prompt, Record, as_dicts, kind_of
from tomoni.rows import Item, Row
from tomoni.settings.rollouts import FORMS

if TYPE_CHECKING:
    from tomoni.data.render import Renderer


def prompt_item(record: Record, render: Renderer) -> list[Item]:
    """One item of one row, the prompt's tokens, none of them trained. Of a conversation its last turn is left out, and
    given to rewards as the column `answer`; of a preference the chosen answer is."""
    match record:
        case Prompt():
            messages, columns = record.messages, dict(record.extra)
        case Chat() if record.messages[-1].role == "assistant":
            messages = record.messages[:-1]
            columns = {**record.extra, "answer": record.messages[-1].content}
        case Comparison():
            messages, columns = record.prompt, {**record.extra, "answer": record.first[-1].content}
        case _:
            raise DataError(
                f"{record.source}: completions are sampled for prompts, not for {kind_of(record)}",
                choices=FORMS,
                next_step="name a file with a column prompt, or of conversations that end with an answer",
            )
    tokens = render.asked(messages, record)
    if tokens is None:
        return []
    about = {"prompt": as_dicts(messages), "columns": columns}
    return [Item(record.id, (Row(tokens, np.zeros(len(tokens), dtype=np.float32)),), about=about)]
