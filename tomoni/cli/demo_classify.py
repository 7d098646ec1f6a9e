"""`tomoni demo --task classify`: a small bundled encoder learns to sort notices from a handful of labelled ones.

The notices are of the invented town, in Japanese and English: closed, a sale, a change of hours and the like. Beside the
encoder stand what a person would try first: always the commonest class, TF-IDF of characters with a linear classifier
(scikit-learn), and the same encoder with random weights. All are measured on the same notices, none of which is among the
labelled ones. What the bundled encoder has read of the town (notices, too) had no labels.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoni.cli.demo import short, train
from tomoni.world import bundled_world, classified_texts

if TYPE_CHECKING:
    from rich.console import Console

LABELLED = 60
MEASURED = 1_000
ENCODER = "bundled:encoder"
SHARED: dict[str, Any] = {
    "max_length": 256,
    "batch_size": 8,
    "save_steps": 100_000,
    "keep_frozen": "none",
    "pool": "first",
}
TUNED: dict[str, Any] = {"train": "all", "num_train_epochs": 10, "learning_rate": 1e-3}
# random weights get what suits them: a new head, a higher rate and three times as many passes
FROM_SCRATCH: dict[str, Any] = {"train": "all", "num_train_epochs": 30, "learning_rate": 1e-3, "head_start": "new"}


@dataclass(frozen=True)
class Arm:
    """One row of the table; seconds of training and of classifying together."""

    name: str
    right: int
    asked: int
    seconds: float = 0.0

    def as_dict(self, price: float) -> dict[str, Any]:
        from tomoni.evaluate.metrics import wilson

        found = wilson(self.right, self.asked)
        return {
            **asdict(self),
            "share": found.value,
            "low": found.low,
            "high": found.high,
            "cost_usd": self.seconds / 3600 * price,
        }


def show(folder: Path, options: argparse.Namespace) -> int:
    from rich.console import Console

    begin = time.monotonic()
    console = Console(highlight=False, quiet=options.json)
    arms = measure(folder, options, console)
    seconds = time.monotonic() - begin
    body = {
        "seconds": seconds,
        "labelled": options.labelled,
        "arms": [arm.as_dict(options.price_per_hour) for arm in arms],
    }
    (folder / "result.json").write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.json:
        print(json.dumps(body, ensure_ascii=False))
        return 0
    _table(console, arms, options.price_per_hour)
    program = os.environ.get("TOMONI_PROGRAM", "tomoni")
    console.print(f"\nDone in {seconds:.0f} s, on this machine, without a network. All of it is in {folder}/.")
    console.print(f'Use it:  [bold]{program} predict {folder}/all --text "本日は臨時休業です。"[/bold]\n')
    return 0


def measure(folder: Path, options: argparse.Namespace, console: Console) -> list[Arm]:
    from tomoni.engine.models import quiet

    world = bundled_world()
    labelled = list(classified_texts(world, options.labelled, options.seed, task="notice"))
    seen = {row["text"] for row in labelled}
    others = classified_texts(world, 2 * options.held_out, options.seed + 1, task="notice")
    held_out = [row for row in others if row["text"] not in seen][: options.held_out]
    files = {name: _write(folder, name, rows) for name, rows in (("labelled", labelled), ("held_out", held_out))}
    classes = sorted({row["label"] for row in labelled})
    console.print(
        f"\n[bold]Notices of an invented town[/bold], in Japanese and English, of {len(classes)} kinds: {', '.join(classes)}.\n"
        f"Learnt from {len(labelled)} labelled ones, measured on {len(held_out)} others.\n"
    )
    arms = [
        _arm("the commonest kind", held_out, lambda: _commonest(labelled, held_out), console),
        _arm("TF-IDF and a linear classifier", held_out, lambda: _tfidf(labelled, held_out), console),
    ]
    with quiet():
        random_start = _random(folder, options.seed)
    for name, model, how in (
        ("encoder, random weights, tuned", random_start, FROM_SCRATCH),
        ("encoder, head only (solved)", ENCODER, {"train": "head"}),
        ("encoder, all weights tuned", ENCODER, TUNED),
    ):
        run = folder / {"head": "head", "all": "all"}[how["train"]] if model == ENCODER else folder / "scratch"
        arms.append(_arm(name, held_out, lambda: _learnt(run, model, how, files, options, console), console))  # noqa: B023
    _show_texts(console, held_out, folder / "all")
    return arms


def _write(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> Path:
    (folder / "data").mkdir(exist_ok=True)
    path = folder / "data" / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def _arm(name: str, held_out: Sequence[dict[str, Any]], guess: Callable[[], Sequence[str]], console: Console) -> Arm:
    from tomoni.evaluate.metrics import wilson

    begin = time.monotonic()
    guesses = guess()
    right = sum(guessed == row["label"] for guessed, row in zip(guesses, held_out, strict=True))
    arm = Arm(name, right, len(held_out), time.monotonic() - begin)
    found = wilson(right, len(held_out))
    console.print(
        f"  {name:<32} [bold]{found.value:6.1%}[/bold]  ({found.low:.1%} to {found.high:.1%})  {arm.seconds:5.1f} s"
    )
    return arm


def _commonest(labelled: Sequence[dict[str, Any]], held_out: Sequence[dict[str, Any]]) -> list[str]:
    from tomoni.evaluate.metrics import most_frequent

    return [most_frequent([row["label"] for row in labelled])] * len(held_out)


def _tfidf(labelled: Sequence[dict[str, Any]], held_out: Sequence[dict[str, Any]]) -> list[str]:
    """Characters, one to three of them, which suits Japanese and English alike."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    made = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3)), LogisticRegression(C=10, max_iter=1000)
    )
    made.fit([row["text"] for row in labelled], [row["label"] for row in labelled])
    return [str(label) for label in made.predict([row["text"] for row in held_out])]


def _random(folder: Path, seed: int) -> str:
    """A folder with the encoder's shape and tokenizer, and weights drawn anew."""
    import shutil

    from tomoni.engine.masked import write_random
    from tomoni.hub import locate

    source = locate(ENCODER).folder
    target = folder / "scratch-start"
    write_random(source, target, seed)
    for path in source.iterdir():
        if path.name.startswith("tokenizer"):
            shutil.copy(path, target / path.name)
    return str(target)


def _learnt(
    run: Path, model: str, how: dict[str, Any], files: dict[str, Path], options: argparse.Namespace, console: Console
) -> list[str]:
    from tomoni.settings.classify import Config

    given = SHARED | how
    cfg = Config(
        model_name_or_path=model, train_file=(str(files["labelled"]),), output_dir=str(run), seed=options.seed, **given
    )
    train(cfg, console)
    return _said(run, files["held_out"])


def _said(run: Path, file: Path) -> list[str]:
    from tomoni.cli.looking import looking_settings
    from tomoni.engine.models import quiet
    from tomoni.evaluate.predict import Predictor

    with quiet():
        predictor = Predictor.open(run, looking_settings())
    return [str(one["label"]) for one in predictor.predict(predictor.read([str(file)], {}))]


def _show_texts(console: Console, held_out: Sequence[dict[str, Any]], run: Path) -> None:
    """The first two notices in each language, whatever came of them."""
    from tomoni.cli.looking import looking_settings
    from tomoni.evaluate.predict import Asked, Predictor

    predictor = Predictor.open(run, looking_settings())
    console.print()
    for lang in ("en", "ja"):
        for row in [row for row in held_out if row["lang"] == lang][:2]:
            [said] = predictor.predict([Asked(1, None, (row["text"],))])
            console.print("  " + short(row["text"], 76), style="bold", markup=False)
            console.print(f"    {said['label']} ({said['probability']:.0%} sure); it is {row['label']}", markup=False)


def _table(console: Console, arms: Sequence[Arm], price: float) -> None:
    from rich.table import Table

    table = Table(title="\nNotices that nobody has labelled", title_justify="left", box=None)
    table.add_column("", no_wrap=True)
    for heading in ("right", "95% interval", "seconds", "cost"):
        table.add_column(heading, justify="right", no_wrap=True)
    for arm in arms:
        told = arm.as_dict(price)
        table.add_row(
            arm.name,
            f"{told['share']:.1%}",
            f"{100 * told['low']:.1f} to {told['high']:.1%}",
            f"{arm.seconds:.1f}",
            f"${told['cost_usd']:.5f}",
        )
    console.print(table)
    console.print(
        f"  Seconds of learning and of sorting all notices; cost at ${price:.2f} an hour (--price-per-hour).\n"
        "  The bundled encoder has read of this town before, boards full of notices among it, without labels; what that\n"
        "  took is not in it.",
        soft_wrap=True,
    )
