"""`tomoni demo --task politeness`: a tuned model learns from a reward that a few lines of Python compute.

The tuning data answers politely or casually at random. The reward (`tomoni.world.polite`) reads an answer and says whether
it is polite, complete and brief; it does not know whether it is right. What is reported: how many answers are all three
before and after, on questions about things that were never asked about, and whether the facts have held.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoni.cli.demo import MAX_NEW_TOKENS, TUNING, Record, short, train, write_opening
from tomoni.cli.demo_asking import drawn, greedy, write
from tomoni.world import bundled_world, held_out_questions, is_right, tuning_questions
from tomoni.world.polite import read

if TYPE_CHECKING:
    from rich.console import Console

    from tomoni.evaluate.metrics import Interval
    from tomoni.evaluate.subject import Subject

PROMPTS = 2000
SHARED: dict[str, Any] = {
    "reward_funcs": "tomoni.world.polite:courtesy",
    "max_completion_length": MAX_NEW_TOKENS,
    "max_length": 256,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.05,
    "sample_prompts": 0,
    "save_steps": 100_000,
}
METHODS: dict[str, dict[str, Any]] = {
    "grpo": {
        "batch_size": 16,
        "num_generations": 8,
        "max_steps": 60,
        "learning_rate": 1e-4,
        "beta": 0.05,
        "kl_estimator": "k2",
        "mask_truncated_completions": True,
    },
    "ppo": {
        "batch_size": 128,
        "max_steps": 64,
        "num_ppo_epochs": 2,
        "train": "lora",  # learns more of the reward for as many facts as all weights lose
        "lora_r": 8,
        "learning_rate": 3e-4,
        "lam": 1.0,  # the reward is at the end alone: with .95 it reached 93 % where this reached 97 % (LOG.md)
        "kl_coef": 0.05,
        "vf_coef": 0.001,  # values that shape the layers below them, too, cost facts
        "value_lr_ratio": 100,
        "missing_eos_penalty": 0.5,
    },
}


def show(folder: Path, options: argparse.Namespace) -> int:
    from rich.console import Console

    begin = time.monotonic()
    console = Console(highlight=False, quiet=options.json)
    body = measure(folder, options, console)
    body["seconds"] = time.monotonic() - begin
    (folder / "result.json").write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.json:
        print(json.dumps(body, ensure_ascii=False))
        return 0
    program = os.environ.get("TOMONI_PROGRAM", "tomoni")
    console.print(f"\nDone in {body['seconds']:.0f} s, on this machine, without a network. All of it is in {folder}/.")
    console.print(f"Talk to it:  [bold]{program} chat {folder}/{options.method}[/bold]\n")
    return 0


def measure(folder: Path, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from tomoni.evaluate.subject import open_subject
    from tomoni.run.methods import config_class
    from tomoni.settings import sft

    world, seed = bundled_world(), options.seed
    paths = {name: str(folder / "data" / f"{name}.jsonl") for name in ("tuning", "prompts")}
    (folder / "data").mkdir()
    write(paths["tuning"], tuning_questions(world, options.tuning_questions, seed))
    asked = tuning_questions(world, PROMPTS, seed + 1, conversations=0)
    write(paths["prompts"], ({"id": one["id"], "prompt": one["messages"][0]["content"]} for one in asked))
    console.print(
        "\n[bold]Tuning[/bold] the small model to answer at all, as in the first demo. Its data answers politely or"
        " casually,\nby chance:"
    )
    train(sft.Config(model_name_or_path="bundled:small", train_file=(paths["tuning"],), output_dir=str(folder / "run"), seed=seed, **TUNING), console)  # fmt: skip
    write_opening(folder)

    chosen = METHODS[options.method]
    console.print(
        f"\n[bold]Learning[/bold] from a reward ({options.method}): a few lines of Python read an answer and say whether it is"
        " polite,\ncomplete and brief. They do not know whether it is right."
    )
    cfg = config_class(options.method).model_validate(
        {
            "model_name_or_path": str(folder / "run"),
            "train_file": (paths["prompts"],),
            "output_dir": str(folder / options.method),
            "seed": seed,
            **SHARED,
            **chosen,
        }
    )
    result = train(cfg, console)
    records = list(held_out_questions(world, options.held_out, seed))
    body = _report(console, [open_subject(folder / name) for name in ("run", options.method)], records, seed)
    return body | {"method": options.method, "learning_seconds": result.seconds, "settings": {**SHARED, **chosen}}


def _report(console: Console, models: Sequence[Subject], records: Sequence[Record], seed: int) -> dict[str, Any]:
    from tomoni.evaluate.metrics import mcnemar, paired_bootstrap, wilson

    answers = [[texts[0] for texts in drawn(model, records, 1, seed=seed)] for model in models]
    marks = [[read(text) for text in texts] for texts in answers]
    console.print(
        f"\n[bold]Answers at temperature 1[/bold] to {len(records)} questions about things never asked about:\n"
        "                       before                     after"
    )
    body: dict[str, Any] = {"questions": len(records), "share": {}}
    for name in ("polite", "complete", "brief", "all"):
        before, after = (wilson(sum(getattr(mark, name) for mark in one), len(one)) for one in marks)
        body["share"][name] = {"before": _json(before), "after": _json(after)}
        label = "all three" if name == "all" else name
        console.print(f"  {label:<12} {_told(before):>26} {_told(after):>26}", style="bold" if name == "all" else "")

    world = bundled_world()
    right = [
        [is_right(text, record, world) for text, record in zip(greedy(model, records), records, strict=True)]
        for model in models
    ]
    change = paired_bootstrap(*[[float(mark) for mark in one] for one in right])
    facts = [wilson(sum(one), len(one)) for one in right]
    console.print(
        f"\n[bold]Are they still right?[/bold] {facts[0].value:.1%} before, {facts[1].value:.1%} after: "
        f"{100 * change.value:+.1f} points ({100 * change.low:+.1f} to {100 * change.high:+.1f}; greedy answers to the same"
        " questions)\n"
    )
    _show_answers(console, records, *answers)
    return body | {
        "right": {"before": _json(facts[0]), "after": _json(facts[1]), "change": _json(change), "p": mcnemar(*right)}
    }


def _show_answers(console: Console, records: Sequence[Record], before: Sequence[str], after: Sequence[str]) -> None:
    console.print("[bold]The same questions, before and after[/bold] (the first two in each language)\n")
    for lang in ("en", "ja"):
        for number in [number for number, record in enumerate(records) if record["lang"] == lang][:2]:
            console.print("  " + records[number]["messages"][0]["content"], style="bold", markup=False)
            console.print(f"    {'before':<8} {short(before[number], 66)}", markup=False)
            console.print(f"    {'after':<8} {short(after[number], 66)}\n", markup=False, style="green")


def _told(found: Interval) -> str:
    return f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%})"


def _json(found: Interval) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high}
