"""`tomoni evaluate MODEL_OR_RUN`: loss, perplexity, token accuracy and exact match on data not trained on. torch comes last."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tomoni.cli import answers
from tomoni.cli.options import invoke
from tomoni.errors import ConfigError, DataError
from tomoni.settings.rollouts import RolloutSettings

if TYPE_CHECKING:
    from tomoni.data.render import LossOn
    from tomoni.evaluate.appraise import Appraisal, Comparison, Data


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked on the command line."""

    model: str
    file: tuple[str, ...] = ()
    train_file: tuple[str, ...] = ()
    against: str | None = None
    loss_on: LossOn | None = None
    max_length: int | None = None
    form: str | None = None


def command(argv: list[str]) -> int:
    return invoke(evaluate, argv, verb="evaluate")


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="a folder, org/name of a hub, bundled:small, or a run's folder")
    ],
    file: Annotated[list[str] | None, typer.Option(help="data not trained on; may be given several times")] = None,
    train_file: Annotated[list[str] | None, typer.Option(help="what it was trained on, for the baselines")] = None,
    against: Annotated[str | None, typer.Option(help="another model on the same data, side by side")] = None,
    ask: Annotated[int, typer.Option("--answers", min=0, help="ask at most the first N")] = 500,
    samples: Annotated[int, typer.Option(min=0, help="show N answers")] = 5,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="default: a little over the longest desired answer")
    ] = None,
    loss_on: Annotated[
        str | None, typer.Option(help="assistant, last or all; default: as the run, else assistant")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="tokens of a row, longer ones are cut; default: as the run")
    ] = None,
    form: Annotated[str | None, typer.Option(help="the form of the data, where it is not to be detected")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    weights: Annotated[str, typer.Option(help="float32, or int8: faster on a CPU, a little less exact")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="everything as JSON on stdout")] = False,
) -> int:
    """Measure a model on data it was not trained on.

    Loss, perplexity, token accuracy, and how often its greedy answer is the desired one, with a 95 % interval. For a
    run's folder its own held-out data and training data are taken unless others are named.
    """
    if is_task_model(model):
        from tomoni.cli import evaluate_task

        return evaluate_task.show(model, tuple(file or ()), form=form, device=device, as_json=as_json)
    data = read_data(
        Options(model, tuple(file or ()), tuple(train_file or ()), against, _loss_on(loss_on), max_length, form)
    )
    from tomoni.engine import kernels

    kernels.build_ahead()  # where they are still to be built: while PyTorch is loaded
    from tomoni.engine.models import quiet
    from tomoni.evaluate.appraise import appraise, baselines, compare
    from tomoni.evaluate.subject import find

    with quiet():
        if against is not None:
            find(against)  # a name that is nothing is said before the first model has been measured
        looked = [
            appraise(name, data, answers=ask, max_new_tokens=max_new_tokens, device=device, weights=weights)  # type: ignore[arg-type]
            for name in (model, against)
            if name is not None
        ]
    floors = baselines(looked[0], data)
    pair = compare(looked[1], looked[0]) if len(looked) > 1 else None
    if as_json:
        print(json.dumps(report(data, looked, floors, pair), ensure_ascii=False, indent=2))
    else:
        show(data, looked, floors, pair, samples)
    return 0


def _loss_on(word: str | None) -> LossOn | None:
    match word:
        case None | "assistant" | "last" | "all":
            return word
        case _:
            raise ConfigError(f"--loss-on {word!r} is not known", choices=["assistant", "last", "all"])


def is_task_model(name: str) -> bool:
    """Whether it has a head for a task; such models are measured by other numbers."""
    from tomoni.hub import result_of

    return (Path(result_of(name)).expanduser() / "task.json").is_file()


# -- data ------------------------------------------------------------------------------------------------------------


def read_data(options: Options) -> Data:
    """The held-out records, and those trained on where they are known."""
    from tomoni.data.read import read
    from tomoni.evaluate.appraise import Data

    run = read_run(Path(options.model).expanduser())
    form = options.form or (run.form if run else None)
    columns = run.columns if run and not options.file else {}
    train_files = options.train_file or (run.train_file if run else ())
    bad_rows: Literal["stop", "quarantine"] = run.on_bad_rows if run else "stop"
    sampled = isinstance(run, RolloutSettings)  # its data are prompts
    train = []
    notes = []
    if missing := [file for file in train_files if not options.train_file and not Path(file).is_file()]:
        notes.append(f"the run's training data is not here any more ({', '.join(missing)}): no baseline from it")
        train_files = ()
    if train_files:
        train = list(
            read(train_files, form=form, columns=run.columns if run else {}, on_bad_rows=bad_rows, prompts=sampled)
        )
    if options.file:
        held = list(read(options.file, form=form, columns=columns, on_bad_rows="stop"))
    elif run and run.validation_file:
        held = list(read(run.validation_file, form=form, columns=columns, on_bad_rows=bad_rows, prompts=sampled))
    elif run and run.validation_share and train:
        from tomoni.run.datasets import held_out, trained_on

        held = [record for record in train if held_out(record, run.validation_share)]
        train = [r for r in train if not held_out(r, run.validation_share) and trained_on(r, run)]
    else:
        here = options.model.startswith("bundled:") or Path(options.model).expanduser().exists()
        why = "".join(f" ({note})" for note in (*notes, *(() if here else ("there is no such folder here",))))
        raise DataError(f"there is no held-out data for {options.model}{why}", next_step="name some with --file")
    loss_on: LossOn = options.loss_on or getattr(run, "loss_on", None) or "assistant"
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


def report(
    data: Data, looked: Sequence[Appraisal], floors: Sequence[Appraisal], pair: Comparison | None
) -> dict[str, Any]:
    return {
        "records": len(data.held),
        "models": [one.as_json() for one in looked],
        "baselines": [one.as_json() for one in floors],
        "comparison": pair.as_json() if pair else None,
        "notes": [*data.notes, *(note for one in looked for note in one.notes)],
    }


def show(
    data: Data, looked: Sequence[Appraisal], floors: Sequence[Appraisal], pair: Comparison | None, samples: int
) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"{len(data.held):,} held-out records, {looked[0].tokens:,.0f} tokens measured", markup=False)
    columns = [*looked, *floors]
    table = Table("", *(escape(answers.short_name(one.name)) for one in columns), box=None, pad_edge=False)
    for name, cells in _cells(columns):
        if any(cells):
            table.add_row(name, *cells)
    console.print(table)
    if pair:
        console.print(pair.sentence(), markup=False)
    for note in [*data.notes, *(note for one in looked for note in one.notes)]:
        print(f"note: {note}", file=sys.stderr)
    if samples and looked[0].answers is not None:
        console.print("\nAnswers, cut to a line (--json has all of them):", markup=False)
        answers.show(console, [_block(looked, at) for at in range(min(samples, len(looked[0].asked)))])


def _block(looked: Sequence[Appraisal], at: int) -> answers.Block:
    task = looked[0].asked[at]
    told = [(answers.short_name(one.name), one.answers.texts[at]) for one in looked if one.answers is not None]
    return answers.Block(task.shown, [("desired", task.desired), *told])


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
