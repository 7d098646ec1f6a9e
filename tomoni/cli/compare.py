"""`tomoni compare A B …`: small against large, on the same data and the same machine. No torch in this process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomoni.cli.options import invoke

if TYPE_CHECKING:
    from tomoni.evaluate.cases import Cases
    from tomoni.run.compare import Comparison
    from tomoni.run.page import Cell


def command(argv: list[str]) -> int:
    return invoke(compare, argv, verb="compare")


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL …",
            help="models, runs' folders, bundled:small, or tfidf; LABEL=MODEL gives it a shorter name",
        ),
    ],
    file: Annotated[
        list[str], typer.Option(help="held-out rows: labelled texts or prompts with answers; several times")
    ],
    train_file: Annotated[
        list[str] | None, typer.Option(help="what tfidf and the most frequent answer learn from; several times")
    ] = None,
    column: Annotated[list[str] | None, typer.Option(help="the column in the files, e.g. label=category")] = None,
    form: Annotated[str | None, typer.Option(help="the form of the data, where it is not to be detected")] = None,
    most: Annotated[
        int | None, typer.Option("--rows", min=1, help="only the first N rows of the held-out files")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="how generative models are asked about a text: with {text} and {labels}")
    ] = None,
    examples: Annotated[
        int, typer.Option(min=0, help="rows of --train-file put before the question, with answers")
    ] = 0,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="default: a little over the longest answer")] = None,
    single: Annotated[int, typer.Option(min=1, help="rows asked one by one, for the latency")] = 50,
    repeats: Annotated[int, typer.Option(min=1, help="turns, for a machine that is not quiet")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    weights: Annotated[str, typer.Option(help="of generative models: float32, or int8")] = "float32",
    threads: Annotated[int | None, typer.Option(min=1, help="default: all cores")] = None,
    price_per_hour: Annotated[float, typer.Option(help="of this machine, for the cost")] = 0.10,
    currency: Annotated[str, typer.Option(help="of the price")] = "USD",
    out: Annotated[Path, typer.Option(help="folder of the report")] = Path("comparison"),
    as_json: Annotated[bool, typer.Option("--json", help="everything as JSON on stdout")] = False,
) -> int:
    """Small against large: the same held-out rows, the same machine, a process for each model.

    Quality with its interval and a paired test, latency, throughput, memory, disk and cost, of fine-tuned classifiers,
    generative models asked by a prompt, and a classical baseline (tfidf). The first model is what the others are set
    beside. 0: all could be measured; 1: some could not.
    """
    from tomoni.cli.predict import pairs
    from tomoni.run import compare as comparing
    from tomoni.run import compare_report

    terms = comparing.Terms(
        single=single, repeats=repeats, prompt=prompt, examples=examples, max_new_tokens=max_new_tokens, device=device,
        weights=weights, threads=threads, price=price_per_hour, currency=currency,
    )  # fmt: skip
    columns = pairs(column or [])
    data = _cases(file, form, columns, most)
    train = _cases(train_file, form, columns, None) if train_file else None
    found = comparing.compare(models, data, train, terms, tell=lambda text: print(text, file=sys.stderr, flush=True))
    paths = compare_report.write(out, found)
    if as_json:
        print(json.dumps(compare_report.as_json(found), ensure_ascii=False, indent=2))
    else:
        _show(found)
        print(f"\n{paths[1]}\n  the same as a page, with a chart and rows on which they differ")
    return 1 if found.failed else 0


def _cases(files: list[str], form: str | None, columns: dict[str, str], most: int | None) -> Cases:
    from itertools import islice

    from tomoni.data.read import read
    from tomoni.evaluate.cases import FORMS, cases_of

    return cases_of(islice(read(files, form=form, columns=columns, wanted=FORMS), most))


def _show(found: Comparison) -> None:
    """Three short tables: a terminal is narrower than a page."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tomoni.run import compare_report

    console = Console(highlight=False)
    lines = compare_report.rows(found)
    for first, last in ((1, 3), (3, 6), (6, 9)):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("", overflow="fold", min_width=min(24, max(len(_name(line)) for line in lines)))
        for head in compare_report.HEAD[first:last]:
            table.add_column(head)
        for line in lines:
            cells = [cell if isinstance(cell, str) else f"{cell[0]} ({cell[1]})" for cell in line[first:last]]
            if any(cells):
                table.add_row(Text(_name(line)), *cells)
        console.print(table)
        console.print()
    for sentence in compare_report.sentences(found):
        console.print(sentence, markup=False, soft_wrap=True)
    for note in (*found.notes, *(f"{name} could not be measured: {why}" for name, why in found.failed.items())):
        print(f"note: {note}", file=sys.stderr)


def _name(line: list[Cell]) -> str:
    return line[0] if isinstance(line[0], str) else line[0][0]
