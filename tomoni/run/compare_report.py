"""What is told of a comparison: a table, sentences, comparison.json, comparison.html, comparison.svg. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from tomoni import durable
from tomoni.errors import counted
from tomoni.evaluate.metrics import Interval, mcnemar, paired_bootstrap
from tomoni.run import figure, page
from tomoni.run.compare import SURE, Against, Comparison, Contestant

NAMES = ("comparison.json", "comparison.html", "comparison.svg")
EXAMPLES = 8
WIDTH, HEIGHT = 860, 372
LABEL = 13.0  # pixels between two names
HEAD = (
    "", "right (95 %)", "beside the first", "one item (p95)", "items/s", "CPU s for 1,000", "peak memory", "disk",
    "cost of 1,000",
)  # fmt: skip


def write(folder: Path, found: Comparison) -> list[Path]:
    svg = chart(found)
    bodies = (json.dumps(as_json(found), indent=1, ensure_ascii=False) + "\n", as_html(found, svg), svg)
    with durable.naming_disk(folder, 0):
        folder.mkdir(parents=True, exist_ok=True)
    for name, body in zip(NAMES, bodies, strict=True):
        durable.atomic_write(folder / name, body)
    return [folder / name for name in NAMES]


# -- sentences and the table -----------------------------------------------------------------------------------------


def sentences(found: Comparison) -> list[str]:
    best, enough = found.best, found.enough
    if not any(best.marks):
        return [
            f"No contestant is right on any of {counted(len(found.data), 'item')}: look at their answers before their times."
        ]
    lines = [f"{best.name} is right most often: {_accuracy(best.accuracy)} of {counted(len(found.data), 'item')}."]
    if enough is not best:
        lines.append(
            f"{enough.name} cannot be told from it on these items ({_points(paired_bootstrap(best.marks, enough.marks))}, "
            f"p = {mcnemar(best.marks, enough.marks):.2g}), answers {_times(best.p50 / enough.p50)} as fast, and needs "
            f"{enough.measured.peak_bytes / best.measured.peak_bytes:.0%} of its memory."
        )
    elif all(mcnemar(best.marks, one.marks) < SURE for one in found.measured if one is not best):
        lines += ["Every other one is surely less often right."] if len(found.measured) > 1 else []
    else:
        lines.append("It is also the quickest of those that these items cannot tell from it.")
    return lines


def rows(found: Comparison) -> list[list[page.Cell]]:
    beside = {one.name: one for one in found.against}
    return [_row(found, one, beside.get(one.name)) for one in found.contestants]


def _row(found: Comparison, one: Contestant, against: Against | None) -> list[page.Cell]:
    quality = (_share(one.accuracy.value), f"{100 * one.accuracy.low:.1f} to {100 * one.accuracy.high:.1f}")
    difference: page.Cell = "" if against is None else _gap(against)
    name: page.Cell = (
        one.name + (" ●" if one.name in found.front else ""),
        one.measured.description if one.outcome else "",
    )
    if one.outcome is None:
        return [name, quality, difference, "", "", "", "", "", ""]
    told = one.measured
    return [
        name, quality, difference, (_seconds(one.p50), _seconds(one.p95)), _rate(one.per_second),
        f"{1000 * told.cpu_seconds / len(one.marks):.3g}", _bytes(told.peak_bytes), _bytes(told.disk_bytes),
        f"{_money(found.cost(one))} {found.terms.currency}",
    ]  # fmt: skip


def how(found: Comparison) -> list[str]:
    """How it was measured, and what it does not say."""
    terms, machine = found.terms, found.machine
    lines = [
        "Every contestant ran in a process of its own over the same items, one after the other"
        + (f", {terms.repeats} turns each." if terms.repeats > 1 else "."),
        f"One item: {min(terms.single, len(found.data))} items asked singly, after a warm-up. Items/s: all together, as each "
        "batches them. Peak memory is the process's, libraries included; loading is not in the times.",
        f"Cost: {terms.price:g} {terms.currency} for an hour of this machine (--price-per-hour), asked all together, "
        "fully used.",
        f"{machine['processor']}, {counted(machine['cores'], 'core')}, {counted(machine['threads'], 'thread')}, {machine['system']}.",
        "Intervals of shares are Wilson's, of differences a paired bootstrap; p is McNemar's exact test, corrected for "
        f"{counted(len(found.against), 'comparison')} (Holm). They hold for data like this.",
    ]
    if not found.data.classes:
        lines.append("An answer is right where it is the desired one, but for width of letters and white space.")
    elif any(one.outcome and one.outcome.kind == "generates" for one in found.contestants):
        lines.append(
            "Generative models were given the classes in a prompt; right is the class's name alone on the answer's first line."
        )
    lines += [f"{name} could not be measured: {why}" for name, why in found.failed.items()]
    return [*lines, *found.notes]


# -- files -----------------------------------------------------------------------------------------------------------


def as_json(found: Comparison) -> dict[str, Any]:
    return {
        "items": len(found.data),
        "classes": list(found.data.classes),
        "machine": dict(found.machine),
        "terms": asdict(found.terms),
        "contestants": [_contestant_json(found, one) for one in found.contestants],
        "against": [asdict(one) for one in found.against],
        "front": found.front,
        "best": found.best.name,
        "enough": found.enough.name,
        "failed": dict(found.failed),
        "says": sentences(found),
        "how": how(found),
        "answers": [
            {"id": case.id, "desired": case.desired, **{one.name: one.answers[at] for one in found.measured}}
            for at, case in enumerate(found.data.cases)
        ],
    }


def _contestant_json(found: Comparison, one: Contestant) -> dict[str, Any]:
    body: dict[str, Any] = {
        "name": one.name, "model": one.model, "right": sum(one.marks), "accuracy": asdict(one.accuracy),
    }  # fmt: skip
    if one.outcome is None:
        return body
    told = asdict(one.outcome)
    for name in ("answers", "latencies"):
        told.pop(name)
    return body | told | {
        "latency_p50": one.p50, "latency_p95": one.p95, "items_per_second": one.per_second,
        "cost_per_1000": found.cost(one), "fit_seconds": one.fit_seconds,
    }  # fmt: skip


def as_html(found: Comparison, svg: str) -> str:
    lines = rows(found)
    title = "Small against large"
    parts = [
        page.heading(title, 1),
        page.paragraph(f"{len(found.contestants)} contestants on {counted(len(found.data), 'held-out item')}", "quiet"),
        page.said(sentences(found)),
        page.chart(svg),
        page.table(HEAD, lines, best=_bold(found)),
        page.paragraph("● no other is both better and quicker", "quiet"),
        *_differ(found),
        page.heading("How it was measured"),
        page.listed(how(found)),
    ]
    return page.page(title, parts)


def _bold(found: Comparison) -> Iterator[tuple[int, int]]:
    """The best of each column."""
    measured = [(row, one) for row, one in enumerate(found.contestants) if one.outcome is not None]
    columns: dict[int, Callable[[Contestant], float]] = {
        1: lambda one: -one.accuracy.value,
        3: lambda one: one.p50,
        4: lambda one: -one.per_second,
        5: lambda one: one.measured.cpu_seconds,
        6: lambda one: one.measured.peak_bytes,
        7: lambda one: one.measured.disk_bytes,
        8: found.cost,
    }
    for column, key in columns.items():
        least = min(key(one) for _, one in measured)
        yield from ((row, column) for row, one in measured if key(one) == least)


def _differ(found: Comparison) -> list[str]:
    """Items on which contestants disagree about what is right, spread over the data."""
    asked = [at for at in range(len(found.data)) if len({one.marks[at] for one in found.measured}) > 1]
    if not any(any(one.marks) for one in found.measured):
        asked = list(range(len(found.data)))
    if not asked:
        return []
    some = asked[:: max(1, len(asked) // EXAMPLES)][:EXAMPLES]
    title = "Where they differ" if any(found.best.marks) else "What they say"
    parts = [page.heading(f"{title} ({counted(len(asked), 'item')})")]
    for at in some:
        case = found.data.cases[at]
        lines = [f"<p>{escape(_cut(' / '.join(case.texts)))}</p>"]
        lines.append(f'<p class="quiet">desired: {escape(_cut(case.desired))}</p>')
        lines += [
            f'<p>{"✓" if one.marks[at] else "✗"} <span class="quiet">{escape(one.name)}:</span> {escape(_cut(one.answers[at]))}</p>'
            for one in found.measured
        ]
        parts.append(f'<div class="answer">{"".join(lines)}</div>')
    return parts


# -- chart -----------------------------------------------------------------------------------------------------------


def chart(found: Comparison) -> str:
    """Quality against the time of one item, and against memory; filled circles are on the front."""
    ends = [100 * end for one in found.measured for end in (one.accuracy.low, one.accuracy.high)]
    low, high = figure.range_of(ends)
    y_range = (max(low, -4.0), min(high, 104.0))
    entries: list[tuple[str, str, figure.Shape | None]] = [
        ("no other is better and quicker", "a", "circle"), ("another one is", "c", "diamond"),
    ]  # fmt: skip
    parts = figure.legend(80, 22, entries)
    parts += _panel(
        found, [one.p50 for one in found.measured], 72, y_range, "Quality against time", "one item, p50", _seconds
    )
    memory = [one.measured.peak_bytes / 2**20 for one in found.measured]
    parts += _panel(found, memory, 496, y_range, "Quality against memory", "peak memory of the process", _mebibytes)
    return figure.picture(WIDTH, HEIGHT, parts, "quality against time and memory of each contestant")


def _panel(
    found: Comparison,
    values: Sequence[float],
    left: float,
    y_range: tuple[float, float],
    title: str,
    x_label: str,
    said: Any,
) -> list[str]:
    logs = [math.log10(value) for value in values]
    least, most = min(logs), max(logs)
    room = max(0.18 * (most - least), 0.2)  # so that a 1, 2 or 5 stands on the axis, also of one model alone
    frame = figure.Frame(left, 62, 330, 250, (least - room, most + room), y_range)
    parts = frame.axes(title, x_label, "right (%)", x_ticks=_log_ticks(*frame.x, said))
    front = found.front
    placed: list[tuple[float, float]] = []
    for one, x in sorted(zip(found.measured, logs, strict=True), key=lambda pair: -pair[0].accuracy.value):
        y = 100 * one.accuracy.value
        on = one.name in front
        css: str = "a" if on else "c"
        about = f"{one.name}: {_accuracy(one.accuracy)}, {said(10**x)}"
        parts.append(frame.bar(x, 100 * one.accuracy.low, 100 * one.accuracy.high, css))
        parts.append(frame.mark(x, y, css, "circle" if on else "diamond", about))
        parts.append(_label(frame, one.name, x, y, placed))
    return parts


def _label(frame: figure.Frame, name: str, x: float, y: float, placed: list[tuple[float, float]]) -> str:
    """The name beside its mark, moved down where another name stands there already."""
    px, py = frame.at(x, y)
    right = px < frame.left + 0.62 * frame.width
    at = py - 6
    while any(abs(at - other) < LABEL and abs(px - near) < 150 for near, other in placed):
        at += LABEL
    placed.append((px, at))
    return frame.words(x, y, name, beside=8 if right else -8, above=py - at, anchor="start" if right else "end")


def _log_ticks(low: float, high: float, said: Any) -> list[figure.Tick]:
    steps = (1, 2, 5) if high - low < 2.2 else (1,)
    found = [math.log10(step) + power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    inside = [place for place in found if low <= place <= high]
    return [(place, said(10**place)) for place in inside][:: 1 + len(inside) // 6]


# -- numbers ---------------------------------------------------------------------------------------------------------


def _accuracy(one: Interval) -> str:
    return f"{_share(one.value)} ({100 * one.low:.1f} to {100 * one.high:.1f})"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(one: Interval) -> str:
    return f"{100 * one.value:+.1f} points, {100 * one.low:+.1f} to {100 * one.high:+.1f}"


def _gap(one: Against) -> page.Cell:
    gap = one.difference
    return (f"{100 * gap.value:+.1f}, p {_p(one.adjusted_p)}", f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f}")


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"= {value:.3f}".replace("= 0.", "= .") if value < 1 else "= 1"


def _times(value: float) -> str:
    return f"{value:.2g} times" if value < 10 else f"{value:,.0f} times"


def _seconds(value: float) -> str:
    if value >= 1:
        return f"{value:.3g} s"
    return f"{1000 * value:.3g} ms" if value >= 1e-3 else f"{1e6 * value:.3g} µs"


def _money(value: float) -> str:
    """Two digits that say something, written out."""
    if value == 0 or value >= 10:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _bytes(value: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:,.0f} {unit}" if value >= 100 * size else f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def _mebibytes(value: float) -> str:
    return _bytes(value * 2**20)


def _cut(text: str, length: int = 240) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


__all__ = ["NAMES", "SURE", "as_html", "as_json", "chart", "how", "rows", "sentences", "write"]
