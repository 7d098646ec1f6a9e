"""`tomoni export MODEL --to hf|gguf|onnx`: another form of a model, proven to be the same model. torch comes last."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tomoni.cli.options import invoke
from tomoni.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tomoni.export.answers import Prompt
    from tomoni.export.convert import Outcome

DIFFERS = 1  # the exit code of an export that did not pass its parity test
SHOWN = 5  # differences on the terminal; the folder has all of them


def command(argv: list[str]) -> int:
    return invoke(export, argv, verb="export")


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="a run's folder, a model or adapter folder, bundled:small, org/name")
    ],
    to: Annotated[str, typer.Option(help="hf, gguf or onnx")],
    output: Annotated[Path | None, typer.Option(help="a new folder; default: named after model and form")] = None,
    quantization: Annotated[
        str | None,
        typer.Option(help="hf: f32, f16, bf16; gguf: f32, f16, bf16, q8_0, q5_1, q4_0; onnx: f32, int8"),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="what to compare on: a prompt a line, or JSONL of conversations")
    ] = None,
    most_prompts: Annotated[int, typer.Option(min=1, help="compare on at most N")] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="the parity report as JSON on stdout")] = False,
) -> int:
    """Write a model in another program's form, and prove that it is still the same model.

    An adapter is merged into its base. What was written is then run by that program and asked the same prompts: the
    run's held-out data, or --prompts. Where it differs by more than the form allows, the folder is named "-failed", it
    says what differs, and the exit code is 1.
    """
    form = _form(to, quantization)
    from tomoni.engine.models import quiet
    from tomoni.evaluate.subject import open_subject
    from tomoni.export import convert
    from tomoni.export.aside import refuse_output

    target = output or Path(f"{_stem(model)}-{to}-{form}")
    refuse_output(target)
    chosen, chosen_are = _prompts(model, prompts, most_prompts)
    with quiet():
        subject = open_subject(model, device="cpu")
    if not chosen:
        from tomoni.export.prompts import built_in

        chosen, chosen_are = built_in(chats=bool(subject.tokenizer.chat_template)), "built in"
    order = convert.Order(to, form, target, tuple(chosen), chosen_are)
    with quiet():
        outcome = convert.export(subject, order, lambda text: print(f"{text} …", file=sys.stderr, flush=True))
    if as_json:
        print((outcome.folder / "parity.json").read_text(encoding="utf-8"), end="")
    else:
        show(outcome)
    return 0 if outcome.parity.passed else DIFFERS


def _form(to: str, quantization: str | None) -> str:
    from tomoni.export.forms import DEFAULTS, FORMS

    if to not in FORMS:
        raise ConfigError(f"--to {to!r} is not known", choices=list(FORMS))
    form = quantization.lower() if quantization else DEFAULTS[to]
    if form not in FORMS[to]:
        raise ConfigError(f"--quantization {quantization!r} is not known for --to {to}", choices=FORMS[to])
    return form


def _stem(model: str) -> str:
    """A name for the output: the last part of the model's, or of the run's where that is called model or adapter."""
    folder = Path(model).expanduser()
    name = folder.resolve().name if folder.exists() else model
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


# -- prompts ---------------------------------------------------------------------------------------------------------


def _prompts(model: str, file: Path | None, most: int) -> tuple[list[Prompt], str]:
    """The user's own, and where they come from; none where nothing is known."""
    from tomoni.export.prompts import from_file, of_records

    if file is not None:
        return from_file(file, most), f"from {file}"
    from tomoni.cli.evaluate import Options, read_data, read_run

    run = read_run(Path(model).expanduser())
    if run is None:
        return [], ""
    try:
        return of_records(read_data(Options(model)).held, most), "of the run's held-out data"
    except DataError:
        return _trained_on(run, most)


def _trained_on(run: Any, most: int) -> tuple[list[Prompt], str]:
    """Where nothing was held out: prompts that the run was trained on, while they are still there."""
    from tomoni.data.read import read
    from tomoni.export.prompts import of_records

    if not run.train_file or not all(Path(file).is_file() for file in run.train_file):
        return [], ""
    records = read(run.train_file, form=run.form, columns=run.columns, on_bad_rows="quarantine", prompts=True)
    return of_records(records, most), "of the run's training data"


# -- telling ---------------------------------------------------------------------------------------------------------


def show(outcome: Outcome) -> None:
    from rich.console import Console
    from rich.table import Table

    found = outcome.parity
    console = Console(highlight=False, soft_wrap=True, width=max(100, Console().width))
    table = Table(title=f"{found.form} in {found.program}, compared with tomoni", title_justify="left", box=None)
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    ended = f"{found.ended} / {found.ended_before}" if found.ended_before else "none ended"
    ends = ", ".join(text for text, ending in found.ends.items() if ending)
    for row in (
        ("template text equal", *_written(outcome)),
        ("tokens equal", f"{found.tokens_equal} / {found.prompts}", ""),
        ("largest difference of a logprob", f"{found.logprob:.2g}", f"bound {found.bound.logprob:g}"),
        ("divergence, nats a token", f"{found.divergence:.2g}", f"bound {found.bound.divergence:g}"),
        ("greedy answers equal", f"{found.answers_equal} / {found.prompts}", _parted(outcome)),
        ("ends where it ended", ended, f"stops at {ends}" if ends else ""),
    ):
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    console.print(table)
    for note in outcome.notes:
        print(f"note: {note}", file=sys.stderr)
    if found.passed:
        console.print(f"{outcome.folder}  ({outcome.bytes / 1e6:,.1f} MB)", markup=False)
        return
    print(f"tomoni: the exported model is not the one that was trained ({found.form}):", file=sys.stderr)
    for problem in found.problems:
        print(f"  - {problem}", file=sys.stderr)
    for one in [one for one in found.differences if not one.passed][:SHOWN]:
        said = {"prompt": one.prompt[:80], "before": one.before[:80], "after": one.after[:80]}
        print(f"  {one.kind}: {json.dumps(said, ensure_ascii=False)}", file=sys.stderr)
    print(
        f"  next: do not use it. {outcome.folder} says what differs (WHAT-DIFFERS.md, parity.json); a less rounded "
        "form, or --to hf, may pass",
        file=sys.stderr,
    )


def _written(outcome: Outcome) -> tuple[str, str]:
    found = outcome.parity
    if not found.texts:
        return "not compared", ""
    return f"{found.text_equal} / {found.texts}", "on built-in conversations" if found.built_in_texts else ""


def _parted(outcome: Outcome) -> str:
    margins = [one.margin for one in outcome.parity.differences if one.kind == "answer" and one.margin is not None]
    return f"others part where the margin is at most {max(margins):.2g}" if margins else ""
