"""Records with a label, spans or answers become items. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tomoni.errors import DataError
from tomoni.records import Labelled, Question, Record, Tagged, TextPair, kind_of
from tomoni.rows import Item

if TYPE_CHECKING:
    from tomoni.data.tasks import TaskRenderer


COLUMNS = {  # an example for each
    "labelled": "{label: category}",
    "spans": "{spans: entities}",
    "squad": "{context: passage}",
}


def labelled_item(record: Record, render: TaskRenderer) -> list[Item]:
    """One item of one row with its label; nothing, and counted, where it is too long to be seen."""
    name = f"{record.source} (record {record.id})"
    match record:
        case Labelled():
            row = render.whole(record.text, None, name)
        case TextPair():
            row = render.whole(record.first, record.second, name)
        case _:
            raise _unfit(record, "texts or pairs of texts with a label", ("labelled", "text_pair"))
    if row is None:
        return []
    about = {} if render.labels is not None else {"mean": render.mean, "spread": render.spread}
    row = row.with_(label=render.label(record.label))
    return [Item(record.id, (row,), weight=render.weight(record.label), about=about)]


def tagged_item(record: Record, render: TaskRenderer) -> list[Item]:
    """One item whose rows are the windows of the text; `about` holds the text and its spans [start, end, number of the type]."""
    if not isinstance(record, Tagged):
        raise _unfit(record, "texts with marked spans", ("spans", "tokens"))
    rows = render.tagged(record)
    spans = [[span.start, span.end, render.types.index(span.type)] for span in record.spans]
    return [Item(record.id, tuple(rows), about={"text": record.text, "spans": spans})] if rows else []


def question_item(record: Record, render: TaskRenderer) -> list[Item]:
    """One item whose rows are the windows of the context; `about` holds the context, all answers, and whether every
    question has one."""
    if not isinstance(record, Question):
        raise _unfit(record, "questions about a text", ("squad",))
    answers = [[start, text] for start, text in record.answers]
    rows = render.question(record)
    about = {"context": record.context, "answers": answers, "answerable": render.answerable}
    return [Item(record.id, tuple(rows), about=about)] if rows else []


def _unfit(record: Record, wanted: str, forms: tuple[str, ...]) -> DataError:
    return DataError(
        f"{record.source}: {wanted} are needed, not {kind_of(record)}",
        choices=forms,
        next_step=f"name the form and map its columns, e.g. form: {forms[0]} with columns: {COLUMNS[forms[0]]}",
    )
