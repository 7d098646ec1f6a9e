"""`tomoni evaluate` of a model for a task: its measures on labelled data, class by class."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoni.errors import DataError

if TYPE_CHECKING:
    from tomoni.evaluate.appraise_task import Appraised
    from tomoni.records import Record


def show(model: str, files: Sequence[str], *, form: str | None, device: str, as_json: bool) -> int:
    from tomoni.cli.looking import looking_settings
    from tomoni.engine.models import quiet
    from tomoni.evaluate.appraise_task import appraise_task
    from tomoni.evaluate.predict import Predictor

    with quiet():
        predictor = Predictor.open(model, looking_settings(device))
    records = held_out(model, files, form, predictor)
    found = appraise_task(predictor, records)
    if as_json:
        print(json.dumps({"model": model, **found.as_json()}, ensure_ascii=False, indent=2))
    else:
        _table(model, found)
    return 0


def held_out(model: str, files: Sequence[str], form: str | None, predictor: Any) -> list[Record]:
    """The named files' records, or those that the run kept apart."""
    from tomoni.cli.evaluate import read_run
    from tomoni.data.read import read
    from tomoni.run.datasets import held_out as kept_apart
    from tomoni.run.methods import forms_of

    wanted = forms_of(predictor.task.method)
    check = predictor.render.check
    if files:
        return list(read(files, form=form, wanted=wanted, check=check))
    run = read_run(Path(model).expanduser())
    if run is None or not (run.validation_file or run.validation_share):
        raise DataError(f"there is no held-out data for {model}", next_step="name some with --file")
    names = run.validation_file or run.train_file
    rows = read(names, form=run.form, columns=run.columns, on_bad_rows=run.on_bad_rows, wanted=wanted, check=check)
    return [record for record in rows if run.validation_file or kept_apart(record, run.validation_share)]


def _table(model: str, found: Appraised) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from tomoni.run import figures
    from tomoni.run.outcome import Measured

    measured = Measured(found.stats, found.items, "validation")
    console = Console(highlight=False)
    console.print(f"{found.items:,} held-out items, {found.seconds:.1f} s", markup=False)
    table = Table("", escape(model), box=None, pad_edge=False)
    for row in figures.rows(measured, measured):
        table.add_row(row.what, row.after)
    for name, value in found.more.items():
        table.add_row(name.replace("_", " "), figures.number(value))
    console.print(table)
    if found.classes:
        by_class = Table("", "F1", "precision", "recall", "examples", box=None, pad_edge=False)
        for one in found.classes:
            by_class.add_row(
                Text(one.name), _share(one.f1), _share(one.precision), _share(one.recall), f"{one.examples:,}"
            )
        console.print(by_class)
    for pair, count in found.confusions:
        console.print(f"  {count:>5} × {pair[0]} taken for {pair[1]}", markup=False)


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1%}"
