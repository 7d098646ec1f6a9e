"""From bench/results/*.json to docs/benchmarks.md. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import task_tables

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
NOTES = Path(__file__).with_name("notes.md")  # written by hand; stands at the end of the document
# the order of the document; others follow by name
ORDER = (
    "sft-lora-8m", "sft-lora-30m", "sft-full-8m", "sft-full-30m", "sft-top2-30m", "sampling-8m", "sampling-30m",
    "sampling-one-135m", "dpo-lora-8m", "grpo-lora-8m", "rloo-lora-8m", "grpo-bundled", "command-sft", "start",
)  # fmt: skip

INTRODUCTION = """# Benchmarks

Side by side with pinned peers on one machine. Written by `make bench` from `bench/results/*.json`; do not edit.

How it is measured: every side is a process of its own, and the sides take turns (A B A B …) so that a machine that
becomes slower does so for all of them; figures are medians, ratios are medians of the ratios turn by turn. Seconds are
of the work itself, whatever is compiled included; loading libraries, building the model and reading the data are not in
them, except in whole commands. CPU seconds are of all threads during the work: on a busy machine they tell waiting from
computing. Tokens are real ones, padding is not counted. Compilers' caches are empty at the start of
every process. Memory is the whole process's peak. The *floor* is what the step's matrix products would take at the
measured rate of a large float32 product (`bench/floor.py` says what is counted); the share is floor over time.
Two sides that train must have the same loss at every step (to 1e-3), two that sample the same answers (up to ties of
the logits), two that learn from what they sample the same losses and gradients once both are told the same completions;
where they do not, the row says *not comparable* and the command ends with an error.

    make bench                                  measure everything (hours) and write this document
    make bench BENCH="run sft-lora-8m"          one workload
    make bench BENCH="run --small --results trial"    a trial of the machinery

"""


def write(results: Path, document: Path = DOCUMENT) -> None:
    document.write_text(render(read(results), _notes(), task_tables.sections(results)), encoding="utf-8")


def read(results: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    return sorted(found, key=lambda result: (_place(result["name"]), result["name"]))


def _place(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


def _notes() -> str:
    return NOTES.read_text(encoding="utf-8") if NOTES.exists() else ""


def render(results: Sequence[Mapping[str, Any]], notes: str = "", tasks: Sequence[str] = ()) -> str:
    """`tasks`: sections of their own, whose sides are judged by what they learn."""
    parts = [INTRODUCTION + _summary(results)]
    parts += [_workload(result) for result in results]
    parts += tasks
    parts += [_tried(results)] if any(result.get("tried") for result in results) else []
    parts += [_machines(results)] if results else []
    parts += [notes.strip() + "\n"] if notes.strip() else []
    return "\n".join(parts)


# -- parts -----------------------------------------------------------------------------------------------------------


def _summary(results: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for result in results:
        for pair in result["pairs"]:
            if pair["goal"] is not None or pair["memory_goal"] is not None:
                told = _goal(pair), _reached(pair), _by_cpu(result, pair), _memory_reached(pair)
                rows.append((result["title"], _against(pair), *told))
    return "## Goals\n\n" + table(("workload", "ours : peer", "goal", "reached", "by CPU seconds", "peak memory"), rows)


def _workload(result: Mapping[str, Any]) -> str:
    failed = "".join(f"\n{name}: failed ({why}).\n" for name, why in result["failed"].items())
    return f"## {result['title']}\n\n{result['about']}\n\n{_sides(result)}{failed}\n{_pairs(result)}"


def _sides(result: Mapping[str, Any]) -> str:
    rows = []
    for name, side in result["sides"].items():
        share = side["floor_seconds"] / side["seconds"] if "floor_seconds" in side else None
        rows.append(
            (
                name,
                _speed(side),
                f"{side.get('seconds', side['whole_seconds']):.2f} ({side['fastest']:.2f} to {side['slowest']:.2f})",
                f"{side['cpu_seconds']:.2f}" if "cpu_seconds" in side else "",
                f"{side['whole_seconds']:.1f}",
                "" if share is None else f"{share:.0%}",
                _gib(side["peak_bytes"]),
                _gib(side.get("before_bytes")),
            )
        )
    units = {side["unit"] for side in result["sides"].values() if "unit" in side}
    head = (
        "",
        f"{units.pop()}/s" if units else "tokens/s",
        "seconds (least to most)",
        "CPU seconds",
        "whole process, s",
        "of the floor",
        "peak, GiB",
        "before, GiB",
    )
    return table(head, rows)


def _pairs(result: Mapping[str, Any]) -> str:
    rows = [
        (_against(pair), _reached(pair), f"{pair['speed_least']:.2f} to {pair['speed_most']:.2f}", _by_cpu(result, pair),
         f"{pair['memory']:.2f}", _equality(pair))
        for pair in result["pairs"]
    ]  # fmt: skip
    head = ("ours : peer", "times as fast", "turn by turn", "by CPU seconds", "share of its peak memory", "the same?")
    return table(head, rows)


def _tried(results: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        (
            result["name"],
            name,
            _number(side.get("tokens_per_second")),
            "failed: " + side["failed"] if "failed" in side else f"{side['seconds']:.2f}",
            _gib(side.get("peak_bytes")),
        )
        for result in results
        for name, side in (result.get("tried") or {}).items()
    ]
    text = "## Other settings of the peers\n\nTried once each, to find their best.\n\n"
    return text + table(("workload", "setting", "tokens/s", "seconds", "peak, GiB"), rows)


def _machines(results: Sequence[Mapping[str, Any]]) -> str:
    said: dict[str, list[str]] = {}
    for result in results:
        said.setdefault(_machine(result["machine"]), []).append(f"{result['name']} ({result['rate'] / 1e9:.0f})")
    text = "## Machine and versions\n\nIn brackets the rate of a large float32 product, in GFLOP/s.\n"
    return text + "".join(f"\n{', '.join(names)}:\n\n{machine}" for machine, names in said.items())


def _machine(about: Mapping[str, Any]) -> str:
    lines = [
        f"{about['processor']}, {about['cores']} cores ({about['threads']} threads used), {', '.join(about['flags'])}",
        f"{about['memory_gib']} GiB of memory, {about['system']}, Python {about['python']}, {about['date']}",
        "ours: " + ", ".join(f"{name} {version}" for name, version in about["ours"].items()),
        "peers: " + ", ".join(f"{name} {version}" for name, version in about["peers"].items()),
    ]
    return "".join(f"- {line}\n" for line in lines)


# -- cells -----------------------------------------------------------------------------------------------------------


def _against(pair: Mapping[str, Any]) -> str:
    return f"{pair['ours']} : {pair['peer']}"


def _goal(pair: Mapping[str, Any]) -> str:
    speed = "" if pair["goal"] is None else f"{pair['goal']:g}x"
    memory = "" if pair["memory_goal"] is None else f"memory {pair['memory_goal']:g}"
    return ", ".join(filter(None, (speed, memory)))


def _reached(pair: Mapping[str, Any]) -> str:
    if pair["equal"] is False:
        return "not comparable"
    return f"{pair['speed']:.2f}x"


def _by_cpu(result: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    """How many times the peer's median CPU seconds for the same work are ours: what a busy machine disturbs least."""
    sides = [result["sides"][pair[side]] for side in ("ours", "peer")]
    if pair["equal"] is False or not all("cpu_seconds" in side for side in sides):
        return ""
    ours, peer = (side["cpu_seconds"] / side.get("items", side.get("tokens", 1)) for side in sides)
    return f"{peer / ours:.2f}x"


def _memory_reached(pair: Mapping[str, Any]) -> str:
    return "" if pair["memory_goal"] is None else f"{pair['memory']:.2f}"


def _equality(pair: Mapping[str, Any]) -> str:
    if pair["equal"] is None:
        return "other order or other arithmetic"
    return ("yes: " if pair["equal"] else "**no**: ") + pair["said"]


def _speed(side: Mapping[str, Any]) -> str:
    if "items_per_second" in side:
        return f"{side['items_per_second']:.2f}"
    return _number(side.get("tokens_per_second"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _gib(value: float | None) -> str:
    return "" if not value else f"{value / 2**30:.2f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
