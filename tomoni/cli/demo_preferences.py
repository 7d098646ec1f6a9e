"""`tomoni demo --task preferences`: a tuned model learns what one person likes, from that person's choices alone.

The person is simulated: a hidden taste (`tomoni.world.tastes`) reads two answers and says which one it likes better, with
a person's inconsistency. Nothing in the training sees the taste, only the choices. What is reported: how often a reward
model agrees with choices that it has not seen, and how often the taste prefers the answers of the model after DPO to
those before, on questions about things that were never asked about.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoni.cli.demo import TUNING, Record, short, train, write_opening
from tomoni.cli.demo_asking import drawn, greedy, write
from tomoni.world import bundled_world, held_out_questions, is_right, tuning_questions
from tomoni.world.tastes import Taste, taste_of, words_in

if TYPE_CHECKING:
    from rich.console import Console

    from tomoni.evaluate.metrics import Interval
    from tomoni.evaluate.subject import Subject

PERSON = 2  # likes politeness and detail, and contradicts themselves in about one choice of six
TRIES = 4  # answers that are drawn to find two different ones
REWARD: dict[str, Any] = {
    "num_train_epochs": 2,
    "batch_size": 16,
    "learning_rate": 3e-4,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.05,
    "max_length": 512,
    "sample_prompts": 0,
    "save_steps": 100_000,
}
DPO: dict[str, Any] = {
    "num_train_epochs": 1,
    "batch_size": 16,
    "train": "lora",  # as much is learnt as with all weights, and fewer facts are lost (LOG.md)
    "lora_r": 8,
    "learning_rate": 5e-4,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.1,
    "beta": 0.1,
    "max_length": 512,
    "sample_prompts": 0,
    "save_steps": 100_000,
}


@dataclass(frozen=True)
class Shown:
    """Two answers to a question, and what the person said."""

    record: Record
    first: str
    second: str
    said: str  # first | second | tie


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
    console.print(f"Talk to it:  [bold]{program} chat {folder}/dpo[/bold]\n")
    return 0


def measure(folder: Path, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from tomoni.evaluate.subject import open_subject
    from tomoni.settings import dpo, reward, sft

    world, seed, taste = bundled_world(), options.seed, taste_of(PERSON)
    paths = {name: str(folder / "data" / f"{name}.jsonl") for name in ("tuning", "pairs", "pairs_held_out")}
    (folder / "data").mkdir()
    write(paths["tuning"], tuning_questions(world, options.tuning_questions, seed))
    console.print(
        "\n[bold]What does this person like?[/bold] A simulated person with a hidden taste chooses between two answers;\n"
        "the model sees the choices, never the taste.\n\n[bold]Tuning[/bold] the small model to answer at all, as in the"
        " first demo:"
    )
    train(sft.Config(model_name_or_path="bundled:small", train_file=(paths["tuning"],), output_dir=str(folder / "run"), seed=seed, **TUNING), console)  # fmt: skip
    write_opening(folder)
    tuned = open_subject(folder / "run")

    train_on = list(tuning_questions(world, options.pairs, seed + 1, conversations=0))
    measured_on = list(held_out_questions(world, options.held_out, seed))
    chosen = [
        _said(tuned, records, taste, f"{seed} {name}")
        for name, records in (("train", train_on), ("held out", measured_on))
    ]
    counts = [_write_pairs(paths[name], shown) for name, shown in zip(("pairs", "pairs_held_out"), chosen, strict=True)]
    console.print(
        f"\n[bold]The person[/bold] was shown two answers to each of {len(chosen[0])} questions: "
        f"{counts[0]} choices, {len(chosen[0]) - counts[0]} ties (these teach nothing and are left out)."
    )
    data = {"train_file": (paths["pairs"],), "validation_file": (paths["pairs_held_out"],), "seed": seed}
    start = str(folder / "run")
    console.print("\n[bold]Learning[/bold] from the choices: a model of the person, and the answers themselves (DPO):")
    model = train(reward.Config(model_name_or_path=start, output_dir=str(folder / "reward"), **data, **REWARD), console)
    train(dpo.Config(model_name_or_path=start, output_dir=str(folder / "dpo"), **data, **DPO), console)
    return _report(console, tuned, open_subject(folder / "dpo"), measured_on, chosen[1], taste, model, options)


# -- the person ------------------------------------------------------------------------------------------------------


def _said(model: Subject, records: Sequence[Record], taste: Taste, key: str) -> list[Shown]:
    """Two different answers to each question, in either order, and what the person says; none where all are alike."""
    rng = random.Random(f"choices {key}")
    answered = drawn(model, records, TRIES)
    found = []
    for record, answers in zip(records, answered, strict=True):
        different = list(dict.fromkeys(answers))[:2]
        if len(different) == 2:
            first, second = different
            found.append(Shown(record, first, second, taste.prefers(first, second, rng)))
    return found


def _write_pairs(path: str, shown: Sequence[Shown]) -> int:
    pairs = [
        {
            "id": one.record["id"],
            "prompt": one.record["messages"][0]["content"],
            "chosen": one.first if one.said == "first" else one.second,
            "rejected": one.second if one.said == "first" else one.first,
        }
        for one in shown
        if one.said != "tie"
    ]
    write(path, pairs)
    return len(pairs)


# -- what came of it -------------------------------------------------------------------------------------------------


def _report(
    console: Console,
    tuned: Subject,
    learnt: Subject,
    records: Sequence[Record],
    held_out: Sequence[Shown],
    taste: Taste,
    model: Any,
    options: argparse.Namespace,
) -> dict[str, Any]:
    from tomoni.evaluate.metrics import mcnemar, wilson

    choices = [one for one in held_out if one.said != "tie"]
    right = model.after.stats["accuracy"]
    agreement = {
        "reward model": wilson(round(right.sum), round(right.count)),
        "the longer answer wins": _agrees(choices, lambda one: words_in(one.first) - words_in(one.second)),
        "the person's own taste, asked again": _agrees(
            choices, lambda one: taste.score(one.first) - taste.score(one.second)
        ),
    }
    console.print(
        f"\n[bold]Does the reward model know the person?[/bold] On {len(choices)} choices about other things, it agrees with"
    )
    for name, found in agreement.items():
        console.print(f"  {name:<38} [bold]{found.value:6.1%}[/bold]  ({found.low:.1%} to {found.high:.1%})")

    before, after = ([texts[0] for texts in drawn(one, records, 1, seed=options.seed)] for one in (tuned, learnt))
    again = [texts[0] for texts in drawn(tuned, records, 1, seed=options.seed + 1)]
    wins = {"after DPO": _win_rate(taste, after, before), "before, drawn again": _win_rate(taste, again, before)}
    console.print(
        f"\n[bold]Do the answers please the person more?[/bold] Preferred to the answers before, on {len(records)} questions:"
    )
    for name, found in wins.items():
        console.print(f"  {name:<38} [bold]{found.value:6.1%}[/bold]  ({found.low:.1%} to {found.high:.1%})")

    world = bundled_world()
    marks = [
        [is_right(text, record, world) for text, record in zip(greedy(one, records), records, strict=True)]
        for one in (tuned, learnt)
    ]
    facts = [wilson(sum(mark), len(mark)) for mark in marks]
    p = mcnemar(*marks)
    console.print(
        f"\n[bold]Are they still right?[/bold] {facts[0].value:.1%} before, {facts[1].value:.1%} after "
        f"(the same {len(records)} questions; so large a difference by chance: p = {p:.2g})\n"
    )
    _show_answers(console, records, before, after)
    return {
        "person": PERSON,
        "choices": len(choices),
        "agreement": {name: _json(found) for name, found in agreement.items()},
        "win_rate": {name: _json(found) for name, found in wins.items()},
        "right": {"before": _json(facts[0]), "after": _json(facts[1]), "p": p},
        "settings": {"tuning": TUNING, "reward": REWARD, "dpo": DPO},
    }


def _agrees(choices: Sequence[Shown], prefers_first: Callable[[Shown], float]) -> Interval:
    """How often a rule says what the person said; a rule that cannot tell is right half of the time."""
    from tomoni.evaluate.metrics import wilson

    gaps = [prefers_first(one) * (1 if one.said == "first" else -1) for one in choices]
    return wilson(round(sum(1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in gaps)), len(gaps))


def _win_rate(taste: Taste, ours: Sequence[str], theirs: Sequence[str]) -> Interval:
    """How often the taste itself, without the person's inconsistency, likes ours better; a tie is half."""
    from tomoni.evaluate.metrics import paired_bootstrap

    won = [
        1.0 if taste.score(one) > taste.score(other) else 0.5 if taste.score(one) == taste.score(other) else 0.0
        for one, other in zip(ours, theirs, strict=True)
    ]
    return paired_bootstrap([0.0] * len(won), won)


def _show_answers(console: Console, records: Sequence[Record], before: Sequence[str], after: Sequence[str]) -> None:
    console.print("[bold]The same questions, before and after[/bold] (the first two in each language)\n")
    for lang in ("en", "ja"):
        for number in [number for number, record in enumerate(records) if record["lang"] == lang][:2]:
            console.print("  " + records[number]["messages"][0]["content"], style="bold", markup=False)
            console.print(f"    {'before':<8} {short(before[number], 66)}", markup=False)
            console.print(f"    {'after':<8} {short(after[number], 66)}\n", markup=False, style="green")


def _json(found: Interval) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high}
