"""`tomoni evaluate MODEL_OR_RUN`: loss, perplexity, token accuracy and exact match on data not trained on. torch comes last."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoni.errors import DataError

if TYPE_CHECKING:
    from tomoni.evaluate.appraise import Appraisal, Comparison, Data

ABOUT = """Measures a model on held-out data: loss, perplexity, token accuracy, and how often its greedy answer is the desired
one, with a 95 % interval. MODEL is a folder, org/name of a hub, bundled:small, or a run's folder, whose own held-out
data and training data are taken unless others are named."""


def command(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    data = read_data(options)
    from tomoni.engine.models import quiet
    from tomoni.evaluate.appraise import appraise, baselines, compare

    names = [options.model, *([options.against] if options.against else [])]
    with quiet():
        looked = [
            appraise(name, data, answers=options.answers, max_new_tokens=options.max_new_tokens, device=options.device)
            for name in names
        ]
    floors = baselines(looked[0], data)
    pair = compare(looked[1], looked[0]) if len(looked) > 1 else None
    if options.json:
        print(json.dumps(as_json(data, looked, floors, pair), ensure_ascii=False, indent=2))
    else:
        show(data, looked, floors, pair, options.samples)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tomoni evaluate", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="the model to measure, or a run's folder")
    parser.add_argument("--file", nargs="+", help="data not trained on")
    parser.add_argument("--train-file", nargs="+", help="what the model was trained on, for the baselines")
    parser.add_argument("--against", metavar="BASE", help="another model on the same data, side by side")
    parser.add_argument("--answers", type=int, default=500, metavar="N", help="ask at most the first N (default 500; 0: none)")
    parser.add_argument("--samples", type=int, default=5, metavar="N", help="show N answers (default 5)")
    parser.add_argument("--max-new-tokens", type=int, help="longest answer (default: a little over the longest desired one)")
    parser.add_argument("--loss-on", choices=["assistant", "last", "all"], help="default: as the run, else assistant")
    parser.add_argument("--max-length", type=int, help="tokens of a row, longer ones are cut (default: as the run, else the context)")
    parser.add_argument("--form", help="the form of the data, where it is not to be detected")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--json", action="store_true", help="everything as JSON on stdout")
    return parser


# -- data ------------------------------------------------------------------------------------------------------------


def read_data(options: argparse.Namespace) -> Data:
    """The held-out records, and those trained on where they are known."""
    from tomoni.data.read import read
    from tomoni.evaluate.appraise import Data

    run = read_run(Path(options.model).expanduser())
    form = options.form or (run.form if run else None)
    columns = run.columns if run and not options.file else {}
    train_files = options.train_file or (list(run.train_file) if run else [])
    train = []
    notes = []
    if missing := [file for file in train_files if not options.train_file and not Path(file).is_file()]:
        notes.append(f"the run's training data is not here any more ({', '.join(missing)}): no baseline from it")
        train_files = []
    if train_files:
        train = list(read(train_files, form=form, columns=run.columns if run else {}, on_bad_rows="stop"))
    if options.file:
        held = list(read(options.file, form=form, columns=columns, on_bad_rows="stop"))
    elif run and run.validation_file:
        held = list(read(run.validation_file, form=form, columns=columns, on_bad_rows="stop"))
    elif run and run.validation_share and train:
        from tomoni.run.datasets import held_out

        held = [record for record in train if held_out(record, run.validation_share)]
        train = [record for record in train if not held_out(record, run.validation_share)]
    else:
        raise DataError(f"there is no held-out data for {options.model}", next_step="name some with --file")
    loss_on = options.loss_on or getattr(run, "loss_on", None) or "assistant"
    max_length = options.max_length or (run.max_length if run else None)
    return Data(tuple(held), tuple(train), loss_on, max_length, tuple(notes))


def read_run(folder: Path) -> Any:
    """The config of a run, or None where the folder is none."""
    from tomoni import config
    from tomoni.run.methods import METHODS, config_class

    path = folder / "config.yaml"
    if not path.is_file() or (folder / "config.json").is_file():
        return None
    return config.load_by({name: config_class(name) for name in METHODS}, path, [])


# -- telling ---------------------------------------------------------------------------------------------------------


def as_json(data: Data, looked: Sequence[Appraisal], floors: Sequence[Appraisal], pair: Comparison | None) -> dict[str, Any]:
    return {
        "records": len(data.held),
        "models": [one.as_json() for one in looked],
        "baselines": [one.as_json() for one in floors],
        "comparison": pair.as_json() if pair else None,
        "notes": [*data.notes, *(note for one in looked for note in one.notes)],
    }


def show(data: Data, looked: Sequence[Appraisal], floors: Sequence[Appraisal], pair: Comparison | None, samples: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.markup import escape
    from rich.text import Text

    console = Console(highlight=False)
    console.print(f"{len(data.held):,} held-out records, {looked[0].tokens:,.0f} tokens measured", markup=False)
    columns = [*looked, *floors]
    table = Table("", *(escape(one.name) for one in columns), box=None, pad_edge=False)
    for name, cells in _cells(columns):
        if any(cells):
            table.add_row(name, *cells)
    console.print(table)
    if pair:
        console.print(pair.sentence(), markup=False)
    for note in [*data.notes, *(note for one in looked for note in one.notes)]:
        print(f"note: {note}", file=sys.stderr)
    if samples and looked[0].answers is not None:
        shown = Table("prompt", "desired", *(escape(one.name) for one in looked), title="Answers", title_justify="left", show_lines=True)
        for at, task in enumerate(looked[0].asked[:samples]):
            texts = [one.answers.texts[at] for one in looked if one.answers is not None]
            shown.add_row(*(Text(part) for part in (task.shown, task.desired, *texts)))
        console.print(shown)


def _cells(columns: Sequence[Appraisal]) -> list[tuple[str, list[str]]]:
    """The table's lines: what is measured, and its value for each model and baseline."""
    exact = [one.exact for one in columns]
    marks = [one.marks or () for one in columns]
    return [
        ("loss", [_number(one.loss, ".4f") for one in columns]),
        ("perplexity", [_number(one.perplexity, ",.2f") for one in columns]),
        ("token accuracy", [_number(one.token_accuracy, ".1%") for one in columns]),
        ("exact answers", ["" if share is None else f"{share.value:.1%}" for share in exact]),
        ("  of", [f"{sum(mark):,} / {len(mark):,}" if mark else "" for mark in marks]),
        ("  95 % interval", ["" if share is None else f"{share.low:.1%} to {share.high:.1%}" for share in exact]),
        ("time", [f"{one.seconds:.1f} s" if one.seconds else "" for one in columns]),
        ("tokens read, written", [f"{one.handled:,}" if one.handled else "" for one in columns]),
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None or math.isnan(value) else format(value, form)
