"""report.json and report.md of a finished run: before and after, answers side by side, what it cost. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tomoni.errors import counted
from tomoni.evaluate.classes import derived
from tomoni.run import figures
from tomoni.run.outcome import Answer, Measured, Result
from tomoni.settings.common import TrainingSettings


def where(measured: Measured) -> str:
    """What was looked at, in words."""
    if measured.on == "validation":
        return counted(measured.items, "held-out item")
    items = counted(measured.items, "item")
    return f"{items} of the training data (no validation_file and no validation_share: this shows fit, not learning)"


def costs(result: Result) -> list[tuple[str, str]]:
    """What the run took: name, value."""
    return [
        ("steps", f"{result.step:,}"),
        ("tokens", f"{result.tokens:,}"),
        ("training time", duration(result.seconds)),
        ("tokens per second", f"{result.tokens_per_second:,.0f}"),
        ("peak memory", f"{result.peak_memory_bytes / 2**30:.2f} GiB"),
    ]


def as_json(result: Result, cfg: TrainingSettings) -> dict[str, Any]:
    return {
        "state": result.status,
        "method": getattr(cfg, "method", None),
        "step": result.step,
        "ended": result.ended,
        "before": _measured_json(result.before),
        "after": _measured_json(result.after),
        "figures": [asdict(row) for row in figures.rows(result.before, result.after)],
        "answers": [_answer_json(answer) for answer in result.answers],
        "model": None if result.model is None else result.model.name,
        "best_checkpoint": None if result.best is None else result.best.name,
        "seconds": result.seconds,
        "num_tokens": result.tokens,
        "tokens_per_second": result.tokens_per_second,
        "peak_memory_bytes": result.peak_memory_bytes,
    }


def as_markdown(result: Result, cfg: TrainingSettings, more: Mapping[str, Any] | None = None) -> str:
    lines = [f"# {result.folder.name}", ""]
    lines += [
        f"{getattr(cfg, 'method', 'training')} of {getattr(cfg, 'model_name_or_path', None) or 'a new model'}",
        "",
    ]
    if result.before is not None:
        lines += [f"Measured on {where(result.before)}.", ""]
    lines += ["| | before | after |", "|---|---:|---:|"]
    lines += [
        f"| {_cell(row.what)} | {row.before} | {row.after} |" for row in figures.rows(result.before, result.after)
    ]
    for name, value in (more or {}).items():
        lines.append(f"| {_cell(name.replace('_', ' '))} | | {figures.number(value)} |")
    lines += ["", "| cost | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in costs(result)), ""]
    if result.answers:
        lines += ["## Answers before and after", ""]
        for answer in result.answers:
            lines += ["**Prompt**", "", *_quoted(answer.prompt), ""]
            lines += ["Desired:", "", *_quoted(answer.desired), ""] if answer.desired else []
            lines += ["Before:", "", *_quoted(answer.before), "", "After:", "", *_quoted(answer.after), ""]
    return "\n".join(lines) + "\n"


def duration(seconds: float) -> str:
    """3 h 05 min, 12 min 30 s, 8.4 s"""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _cell(text: str) -> str:
    """A heading may hold the name of a user's folder."""
    return " ".join(text.split()).replace("|", "\\|")


def _quoted(text: str) -> list[str]:
    """An indented block: nothing a model says can become a heading, a link or an image."""
    return ["    " + line for line in text.splitlines() or [""]]


def _measured_json(measured: Measured | None) -> dict[str, Any] | None:
    if measured is None:
        return None
    body = measured.as_json() | measured.stats.means() | derived(measured.stats)
    return {name: _without_nan(value) for name, value in body.items()}


def _without_nan(value: Any) -> Any:
    """null for what is no number: JSON has no other word for it, and other programs read this file."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _answer_json(answer: Answer) -> dict[str, str]:
    return {"prompt": answer.prompt, "desired": answer.desired, "before": answer.before, "after": answer.after}
