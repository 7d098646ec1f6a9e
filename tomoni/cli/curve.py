"""`tomoni curve CONFIG`: how much data is enough. torch comes last."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoni.cli import training
from tomoni.errors import ConfigError
from tomoni.run.methods import METHODS, config_class

if TYPE_CHECKING:
    from tomoni.run.curve import Curve, Plan
    from tomoni.run.events import Event

HELP = f"""Usage: tomoni curve CONFIG [--key value …]
       tomoni curve --method classify --model_name_or_path MODEL --train_file FILE --validation_share 0.1 --output_dir FOLDER

Trains on 1/16, 1/8, 1/4, 1/2 and all of the data, several times each, and says what twice the data would bring.
Every method and every key of a training can be given; output_dir is the curve's folder. Started again after it was
stopped or killed, it goes on; with more repeats, what is there is used.

Of the curve itself:
  --points N       sizes, each twice the one before, up to all of the data (default 5: from 1/16)
  --repeats N      trainings at each size, on other records (default 3)
  --metric NAME    what is drawn (default: the method's own: accuracy, F1, loss …)
  --equal-steps    small shares train for as many steps as all of the data, instead of as many epochs
  --json           the report on standard output
{training.OVERRIDES}"""
OWN = ("points", "repeats", "metric", "equal-steps", "json")


def command(argv: list[str]) -> int:
    if training.wants_help(argv):
        print(HELP)
        return 0
    own, rest = _own(argv)
    plan = _plan(own)
    cfg = training.read_config({name: config_class(name) for name in METHODS}, rest)
    from tomoni.run.curve import draw

    listener = _Listener()
    try:
        curve = draw(cfg, plan, on_event=listener)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last finished point", file=sys.stderr)
        return training.INTERRUPTED
    finally:
        listener.close()
    if curve is None:
        print("stopped; the same command goes on from there", file=sys.stderr)
        return training.INTERRUPTED
    _show(curve, Path(cfg.output_dir).expanduser(), as_json="json" in own)
    return 0


def _own(argv: Sequence[str]) -> tuple[dict[str, str | None], list[str]]:
    """The curve's own options, and what is left for the config."""
    own: dict[str, str | None] = {}
    rest: list[str] = []
    waiting = list(argv)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("_", "-")
        if not word.startswith("--") or name not in OWN:
            rest.append(word)
        elif name in ("equal-steps", "json"):
            own[name] = None
        elif equals or waiting:
            own[name] = value if equals else waiting.pop(0)
        else:
            raise ConfigError(f"--{name} needs a value", next_step="tomoni curve --help")
    return own, rest


def _plan(own: dict[str, str | None]) -> Plan:
    from tomoni.run.curve import Plan

    numbers: dict[str, Any] = {}
    for name in ("points", "repeats"):
        if (text := own.get(name)) is not None:
            if not text.isdecimal():
                raise ConfigError(f"--{name} {text!r} is no whole number", next_step="e.g. 5")
            numbers[name] = int(text)
    return Plan(**numbers, equal_steps="equal-steps" in own, metric=own.get("metric"))


class _Listener:
    """The first training says all it has to say; of the others only their steps and the curve's own lines are shown."""

    def __init__(self) -> None:
        from tomoni.run.progress import progress

        self.inner = progress()
        self.ended = False

    def __call__(self, event: Event) -> None:
        from tomoni.run.events import Ended, Evaluated, Notice, Preparing

        quiet = isinstance(event, Preparing | Evaluated) or (isinstance(event, Notice) and not _of_curve(event.text))
        if not (self.ended and quiet):
            self.inner(event)
        self.ended = self.ended or isinstance(event, Ended)

    def close(self) -> None:
        self.inner.close()


def _of_curve(text: str) -> bool:
    return text.startswith("point ") or " of the data, repeat " in text


def _show(curve: Curve, root: Path, *, as_json: bool) -> None:
    from tomoni.run import curve_report

    if as_json:
        print(json.dumps(curve_report.as_json(curve), ensure_ascii=False, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    head, rows = curve_report.rows(curve)
    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(
            *(cell if isinstance(cell, str) else f"{cell[0]} ({cell[1]})" if cell[1] else cell[0] for cell in row)
        )
    console.print(table)
    for line in (*curve_report.sentences(curve), *(f"note: {line}" for line in curve.notes)):
        console.print(line, markup=False, soft_wrap=True)
    print(f"\n{root / 'report.html'}\n  the curve, and what it does not say")
