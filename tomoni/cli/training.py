"""What the verbs train, sft and pretrain share: read the config, run, show before and after. torch comes last."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tomoni import config
from tomoni.cli import answers
from tomoni.cli.keys import help_text
from tomoni.errors import ConfigError
from tomoni.settings.common import TrainingSettings

if TYPE_CHECKING:
    from tomoni.run.outcome import Result

INTERRUPTED = 128 + signal.SIGINT
NEXT = {  # where the result is not a model to talk with
    **dict.fromkeys(("classify", "regress", "tag", "span"), "tomoni predict {folder} --file FILE"),
    "mlm": "tomoni classify (or tag, span, regress) --model_name_or_path {folder} …",
    "reward": "let it score completions: tomoni grpo (or rloo, ppo, bestofn) … --reward_funcs {folder}",
}
OVERRIDES = "Any key can stand in the YAML file or on the command line, where it wins: --learning_rate 1e-4"


def wants_help(argv: Sequence[str]) -> bool:
    return "--help" in argv or "-h" in argv


def method_help(usage: str, about: str, settings: type[TrainingSettings]) -> str:
    return "\n".join([f"Usage: {usage}", "", about, OVERRIDES, "", help_text(settings)])


def split(argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The config file, where the first word is one, and the options."""
    if argv and not argv[0].startswith("-"):
        return Path(argv[0]), list(argv[1:])
    return None, list(argv)


def read_config(classes: Mapping[str, type[TrainingSettings]], argv: Sequence[str]) -> TrainingSettings:
    """The config of one method, or of the one that its `method:` names."""
    path, options = split(argv)
    if path is None and not options:
        raise ConfigError(
            "no config and no options were given", next_step="see --help, or begin with `tomoni init FOLDER`"
        )
    if len(classes) == 1:
        return config.load(next(iter(classes.values())), path, options)
    return config.load_by(classes, path, options)


def train(cfg: TrainingSettings) -> int:
    """Run it and show what came of it. 0, or 128 and the signal's number for a run that was stopped."""
    from tomoni.run import start
    from tomoni.run.progress import progress

    listener = progress()
    try:
        result = start(cfg, on_event=listener)
    except KeyboardInterrupt:  # once steps are made a signal is a request, and no longer an exception
        print("\ninterrupted before a step was made; the same command begins again", file=sys.stderr)
        return INTERRUPTED
    finally:
        listener.close()
    if result.status == "stopped":
        print(
            f"stopped after step {result.step} of {result.steps}; the same command goes on from there", file=sys.stderr
        )
        return 128 + (result.signal or 0)
    show(result, method="mlm" if getattr(cfg, "objective", "") == "mlm" else getattr(cfg, "method", ""))
    return 0


def show(result: Result, *, method: str) -> None:
    """Before and after, cost, answers side by side, and what to do next."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tomoni.run import figures, report

    console = Console(highlight=False)
    if result.before is not None:
        console.print(f"\nMeasured on {report.where(result.before)}:", markup=False)
    table = Table("", "before", "after", box=None, pad_edge=False)
    for row in figures.rows(result.before, result.after):
        table.add_row(Text(answers.one_line(row.what)), row.before, row.after)
    table.add_section()
    for name, value in report.costs(result):
        table.add_row(name, "", value)
    console.print(table)
    if result.answers:
        console.print("\nAnswers, cut to a line (report.md has all of them):", markup=False)
        answers.show(
            console,
            [
                answers.Block(
                    answer.asked or answer.prompt,
                    (
                        *((("desired", answer.desired),) if answer.desired else ()),
                        ("before", answer.before),
                        ("after", answer.after),
                    ),
                )
                for answer in result.answers
            ],
        )
    found = [(result.model, "the result, in the form other tools read"), (result.folder / "report.md", "this report")]
    if result.best is not None and result.after is not None:
        found.insert(1, (result.best, f"the best checkpoint by {result.after.chosen_by}"))
    print()
    for path, about in found:
        print(f"{path}\n  {about}")
    print("\nnext: " + NEXT.get(method, "tomoni chat {folder}").format(folder=result.folder))
