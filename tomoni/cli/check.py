"""`tomoni check`: what a config's data is, what would be learnt from it, and what is wrong with it."""

from __future__ import annotations

import argparse
import json
import sys
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tomoni import config
from tomoni.errors import ConfigError, DataError, UserError
from tomoni.run.methods import METHODS, config_class, forms_of
from tomoni.settings import pretrain
from tomoni.settings.rollouts import RolloutSettings
from tomoni.settings.tasks import TaskSettings

if TYPE_CHECKING:
    from rich.console import Console

    from tomoni.data.check import Example, Findings, Part
    from tomoni.data.check_tasks import TaskFindings

BAD, WARNED = 2, 1
EXAMPLE = 1_000  # characters of an example that are shown, and the beginning of every stretch behind them
SAMPLE = 5_000_000  # characters on which a vocabulary is tried out where the config trains one
DESCRIPTION = """Reads the data that a config names, renders it as training would, and shows what is learnt.
Any key of the config can be set: tomoni check CONFIG --max_length 512
or without a config: tomoni check --train_file data.jsonl --model_name_or_path FOLDER
That reads as sft would; --method classify (or tag, dpo …) as that method would."""


def command(argv: list[str]) -> int:
    """0: nothing stands in the way; 1: warnings, with --strict; 2: errors."""
    own, rest = _options(argv)
    try:
        cfg = _config(own.config, rest)
        found: Any = _check_task(cfg) if isinstance(cfg, TaskSettings) else _check(cfg, own.examples)
    except UserError as error:
        if own.json:  # whoever reads the output finds the reason there, too
            print(json.dumps({"errors": [error.text()], "warnings": [], "notes": []}, ensure_ascii=False, indent=2))
        raise
    if own.json:
        print(json.dumps(found.as_dict(), ensure_ascii=False, indent=2))
    elif isinstance(cfg, TaskSettings):
        _show_task(found)
    else:
        _show(found, color=sys.stdout.isatty() and not own.no_color)  # into a file or a pipe: brackets
    if found.errors:
        return BAD
    return WARNED if found.warnings and own.strict else 0


class _Options(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, next_step="tomoni check --help")


def _options(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = _Options(
        "tomoni check",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 where there are warnings")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument("--no-color", action="store_true", help="mark what is learnt with ⟦brackets⟧ instead of colour")
    parser.add_argument("--examples", type=int, default=3, help="how many rows to show decoded (default: 3)")
    path = None
    if argv and not argv[0].startswith("-"):
        path, argv = argv[0], argv[1:]
    own, rest = parser.parse_known_args(argv)
    own.config = path
    return own, rest


def _config(path: str | None, rest: list[str]) -> Any:
    if path is None and not rest:
        raise ConfigError(
            "no config and no data file is named",
            next_step="tomoni check CONFIG, or --train_file and --model_name_or_path",
        )
    defaults = {"output_dir": "unused"} if path is None else {}
    if path is None:
        defaults["method"] = "sft"
    classes = {name: config_class(name) for name in METHODS}
    return config.load_by(classes, path, rest, defaults)


def _check_task(cfg: TaskSettings) -> TaskFindings:
    from tomoni.data.check_tasks import check_task
    from tomoni.data.labels import Survey
    from tomoni.run.datasets import reading
    from tomoni.run.tasks import renderer

    tokenizer, notes, context = _tokenizer(cfg)
    survey = Survey().of(reading(cfg, cfg.train_file, on_bad_rows="quarantine"))
    render = renderer(cfg, tokenizer, survey)
    method = str(getattr(cfg, "method", ""))
    found = check_task(
        reading(cfg, cfg.train_file, on_bad_rows="quarantine", check=render.check),
        render,
        validation=reading(cfg, cfg.validation_file, on_bad_rows="quarantine", check=render.check)
        if cfg.validation_file
        else None,
        on_bad_rows=cfg.on_bad_rows,
        on_long_rows=cfg.on_long_rows,
        windows=method in ("tag", "span"),
        numbers=method == "regress",
        context=context,
    )
    found.notes.extend(notes)
    return found


def _check(cfg: Any, examples: int) -> Findings:
    from tomoni.data.check import NO_LIMIT, check
    from tomoni.data.read import read
    from tomoni.data.render import Renderer

    sampled = isinstance(cfg, RolloutSettings)
    how: dict[str, Any] = {"form": cfg.form, "columns": cfg.columns, "on_bad_rows": "quarantine", "prompts": sampled}
    how["wanted"] = forms_of(cfg.method)
    tokenizer, notes, context = _tokenizer(cfg)
    renderer = Renderer(
        tokenizer, template=_template(cfg), loss_on=getattr(cfg, "loss_on", "assistant"), max_length=NO_LIMIT
    )
    found = check(
        read(cfg.train_file, **how),
        renderer,
        validation=read(cfg.validation_file, **how) if cfg.validation_file else None,
        max_length=cfg.max_length,
        on_bad_rows=cfg.on_bad_rows,
        on_long_rows=cfg.on_long_rows,
        examples=examples,
        context=context,
        forms=forms_of(cfg.method),
        sampled=sampled,
    )
    found.notes.extend(notes)
    return found


def _template(cfg: Any) -> str | None:
    path = getattr(cfg, "chat_template", None)
    if path is None:
        return None
    if not Path(path).is_file():
        raise ConfigError(f"chat_template: there is no file {path!r}", next_step="name a Jinja file")
    return Path(path).read_text(encoding="utf-8")


def _tokenizer(cfg: Any) -> tuple[Any, list[str], int | None]:
    """The tokenizer, what should be said about it, and the model's context where there is a model to ask."""
    from tomoni.data.tokenize import load_tokenizer

    name = cfg.model_name_or_path
    if name is None and cfg.tokenizer:
        return load_tokenizer(cfg.tokenizer), [], cfg.shape.max_position_embeddings
    if name is not None:
        from tomoni.hub import context_of, locate, result_of

        located = locate(result_of(name))
        return load_tokenizer(located.tokenizer_folder), [], context_of(located.model.folder)
    from tomoni.data.read import read
    from tomoni.data.vocabulary import train_tokenizer
    from tomoni.records import Text

    records = read(cfg.train_file, form=cfg.form, columns=cfg.columns, on_bad_rows="quarantine")
    texts = (record.text[:SAMPLE] for record in records if isinstance(record, Text))
    wanted = cfg.vocabulary
    if (first := next(texts, None)) is None:
        raise DataError(
            f"pretrain learns from plain text, and {', '.join(cfg.train_file)} has none",
            choices=pretrain.FORMS,
            next_step="name text files, or records with a text column; prompts with answers are for `tomoni sft`",
        )
    made = train_tokenizer(
        chain([first], islice(texts, 20_000)),
        kind=wanted.kind,
        vocab_size=wanted.vocab_size,
        pre_tokenizer=wanted.pre_tokenizer,
    )
    note = "token counts are of a vocabulary tried out on the first documents; the run trains its own on all"
    return made, [note], cfg.shape.max_position_embeddings


# what is shown


def _show_task(found: Any) -> None:
    for part in (found.train, found.validation):
        if part is not None:
            print(f"{part.name}: {', '.join(part.files)}")
            print("\n".join(f"  {line}" for line in part.lines()))
    for title in ("note", "warning", "error"):
        for line in getattr(found, f"{title}s"):
            print(f"{title}: {line}")
    if not found.errors and not found.warnings:
        print("nothing stands in the way")


def _show(found: Findings, *, color: bool) -> None:
    from rich.console import Console

    console = Console(no_color=not color, highlight=False, soft_wrap=True)
    for part in (found.train, found.validation):
        if part is not None:
            _show_part(console, part, found.max_length)
    for example in found.train.examples:
        _show_example(console, example, color)
    for title, style, lines in (
        ("note", "dim", found.notes),
        ("warning", "yellow", found.warnings),
        ("error", "bold red", found.errors),
    ):
        for line in lines:
            console.print(f"{title}: ", style=style, end="", markup=False)
            console.print(line, markup=False)
    if not found.errors and not found.warnings:
        console.print("nothing stands in the way", style="green", markup=False)


def _show_part(console: Console, part: Part, max_length: int) -> None:
    from tomoni.data.check import names_of_longest

    def line(text: str) -> None:
        console.print(text, markup=False)

    console.print(f"{part.name}: {', '.join(part.files)}", style="bold", markup=False)
    line(f"  form {part.form}; {part.rows} rows, {part.kept} good, {part.bad.total()} bad, {part.duplicates} repeated")
    line(f"  {part.tokens} tokens, {part.learnt} learnt ({part.learnt_share:.1%})")
    line(f"  rows that end with a learnt end token: {part.ended} of {len(part.lengths)}")
    if part.lengths:
        line("  tokens of a row: " + ", ".join(f"{name} {value}" for name, value in part.percentiles().items()))
    most = max((count for _, _, count in part.histogram()), default=1)
    for start, end, count in part.histogram():
        over = "  over max_length" if start > max_length else ""
        line(f"    {start:>7}-{end - 1:<7} {count:>8} {'█' * round(40 * count / most)}{over}")
    for row in part.bad_rows[:20]:
        line(f"  bad: {row}")
    for name in names_of_longest(part, 5):
        line(f"  long: {name}")
    for what in part.refused[:5]:
        line(f"  refused: {what}")


def _show_example(console: Console, example: Example, color: bool) -> None:
    from rich.text import Text

    console.print(f"\n{example.source} (record {example.id}); what is learnt is marked", style="dim", markup=False)
    shown = Text()
    left = EXAMPLE
    for whole, learnt in example.parts:
        text = whole if len(whole) <= left else f"{whole[:left]} … ({len(whole) - left:,} more characters)"
        left = max(left - len(whole), 20)
        if not color:
            shown.append(f"⟦{text}⟧" if learnt else text)
        else:
            shown.append(text, style="black on green" if learnt else "dim")
    console.print(shown)
