"""`tomoni predict MODEL --file FILE`: what a model for a task says of each row, as JSON lines. torch comes last."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from tomoni.cli.options import invoke
from tomoni.errors import ConfigError, DiskError, counted


def command(argv: list[str]) -> int:
    return invoke(predict, argv, verb="predict")


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a run's folder, or the model in it")],
    file: Annotated[list[str] | None, typer.Option(help="rows to look at; may be given several times")] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="a text instead of a file (of two texts, both in order)")
    ] = None,
    column: Annotated[list[str] | None, typer.Option(help="the column in the file, e.g. text=body")] = None,
    out: Annotated[Path | None, typer.Option(help="write here instead of on the screen")] = None,
    top: Annotated[int, typer.Option(min=1, help="classes whose probabilities are told")] = 3,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
) -> int:
    """Say what a model for a task (classify, regress, tag, span) makes of each row: one line of JSON a row, in order.

    A row that cannot be used keeps its line, with the reason. Probabilities are calibrated where something was held
    out of the training. 0: every row could be used; 1: some could not.
    """
    if bool(file) == bool(text):
        raise ConfigError("name rows with --file, or give a --text", next_step="tomoni predict --help")
    from tomoni.cli.looking import looking_settings
    from tomoni.engine.models import quiet
    from tomoni.evaluate.predict import Predictor

    with quiet():
        predictor = Predictor.open(model, looking_settings(device))
    if text:
        if len(text) % len(predictor.needs):
            raise ConfigError(
                f"{model} reads {' and '.join(predictor.needs)}; {counted(len(text), 'text')} given",
                next_step="give --text once for each",
            )
        rows: Any = predictor.typed(text)
    else:
        rows = predictor.read(file or [], pairs(column or []))
    bad = seen = 0
    with opened(out) as sink:
        for said in predictor.predict(rows, top=top):
            bad, seen = bad + ("error" in said), seen + 1
            sink.write(json.dumps(said, ensure_ascii=False) + "\n")
    if bad:
        print(f"{counted(bad, 'row')} could not be used; the lines with an error say why", file=sys.stderr)
    if not seen:
        print(f"no rows in {', '.join(file or [])}", file=sys.stderr)
    return 1 if bad else 0


def pairs(given: list[str]) -> dict[str, str]:
    """name=column, as typed."""
    found = {}
    for word in given:
        name, equals, column = word.partition("=")
        if not equals or not name or not column:
            raise ConfigError(f"--column {word!r} is not NAME=COLUMN", next_step="e.g. --column text=body")
        found[name] = column
    return found


@contextmanager
def opened(out: Path | None) -> Iterator[IO[str]]:
    if out is None:
        yield sys.stdout
        return
    try:
        with out.open("w", encoding="utf-8") as sink:
            yield sink
    except OSError as error:
        raise DiskError(f"{out} cannot be written: {error.strerror}", next_step="name another file") from error
