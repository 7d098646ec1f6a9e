"""What is told of a learning curve: report.json, report.md, report.html, curve.svg, and sentences. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from statistics import mean
from typing import Any

from tomoni import durable
from tomoni.errors import counted
from tomoni.evaluate.metrics import Interval, wilson
from tomoni.evaluate.powerlaw import Law, NoLaw
from tomoni.run import figure, page
from tomoni.run.curve import Curve, Trained
from tomoni.run.report import duration

CHART = "curve.svg"
WIDTH, HEIGHT = 860, 430


def write(root: Path, curve: Curve) -> None:
    """All files, each whole or as it was."""
    svg = chart(curve)
    text = json.dumps(as_json(curve), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    for name, body in (
        ("report.json", text),
        (CHART, svg),
        ("report.md", as_markdown(root.name, curve)),
        ("report.html", as_html(root.name, curve, svg)),
    ):
        durable.atomic_write(root / name, body)


# -- sentences -------------------------------------------------------------------------------------------------------


def point_line(curve: Curve, one: Trained) -> str:
    return (
        f"{_share(one)} of the data, repeat {one.repeat + 1}: {counted(one.items, 'item')}, "
        f"{_name(curve)} {_value(curve, one.value)}, {duration(one.seconds)}"
    )


def sentences(curve: Curve) -> list[str]:
    """What the curve says: the next doubling, the limit, and how far that can be trusted."""
    law = curve.law
    if isinstance(law, NoLaw):
        return [f"No law is fitted yet: {law.reason}."]
    return [_doubling(curve, law), _limit(curve, law), *_doubts(curve, law)]


def _doubling(curve: Curve, law: Law) -> str:
    gain, then = gain_of_doubling(curve, law), _bounded(curve, law.value_at(2 * law.full))
    words = (
        f"Twice the data ({2 * law.full:,.0f} items) would change {_name(curve)} by {_change(curve, gain)}, "
        f"from {_value(curve, law.value)} to about {_value(curve, then.value)}"
    )
    better_low, better_high = (-gain.high, -gain.low) if curve.lower_is_better else (gain.low, gain.high)
    if better_low > 0:
        return words + ": more data like this helps."
    if better_high <= 0:
        return words + ": more data like this does not help."
    return words + ": it may bring nothing."


def _limit(curve: Curve, law: Law) -> str:
    limit = _bounded(curve, law.limit)
    if law.logarithmic or math.isinf(law.limit.value):
        return "The points lie on a straight line over the doublings: no limit is in sight, and none can be told."
    unsure = math.isinf(law.limit.low) or math.isinf(law.limit.high)
    ends = f"{_value(curve, limit.low)} to {_value(curve, limit.high)}"
    if unsure:
        known = law.limit.high if curve.lower_is_better else law.limit.low
        side = "at most" if curve.lower_is_better else "at least"
        ends = "not known" if math.isinf(known) else f"{side} {_value(curve, known)}; its other end is not known"
    return f"The limit of such data lies at {_value(curve, limit.value)} ({ends})."


def _doubts(curve: Curve, law: Law) -> list[str]:
    found = []
    if law.misfits:
        found.append(
            f"The points do not follow a power law (p = {law.fits:.2g}): look at them, and take the forecast as a rough guide. "
            "Its interval is as wide as their distance from the law asks for."
        )
    if law.fits is None and len({one.repeat for one in curve.trained}) == 1:
        found.append("With one repeat nothing tells chance from shape; more repeats make the interval narrower.")
    if not curve.finished:
        found.append(f"{len(curve.trained)} of {curve.of} points are trained so far.")
    return found


def caveats(curve: Curve) -> list[str]:
    """What the numbers do not say."""
    last = curve.at(max(curve.shares))
    items = last[0].held_out
    found = [
        "The interval holds for which records were drawn and for the chance in training. It does not hold for which items "
        f"were held out: all points are measured on the same {items:,}."
    ]
    if curve.is_share and curve.metric.endswith("accuracy"):
        ends = wilson(min(items, round(mean(one.value for one in last) * items)), items)
        found.append(
            f"{items:,} held-out items alone leave the last value unsure by {100 * (ends.high - ends.low) / 2:.1f} points "
            "(Wilson, 95 %); differences between points are surer than that."
        )
    if max(one.steps for one in curve.trained) > 1:  # a head that is solved for has one
        steps = "as many steps as all of the data" if curve.equal_steps else "as many epochs, and so fewer steps"
        found.append(f"Smaller shares were trained for {steps}.")
    found.append("A forecast is for more data of the same kind.")
    return [*found, *curve.notes]


# -- files -----------------------------------------------------------------------------------------------------------


def as_json(curve: Curve) -> dict[str, Any]:
    law = curve.law
    found: dict[str, Any]
    if isinstance(law, NoLaw):
        found = {"reason": law.reason}
    else:
        a, b, c = law.coefficients
        found = {
            "formula": "a - b n^-c", "a": _finite(a), "b": _finite(b), "c": c, "c_interval": list(law.exponents),
            "value": law.value, "doubled": 2 * law.full, "gain_of_doubling": _interval_json(gain_of_doubling(curve, law)),
            "value_at_double": _interval_json(_bounded(curve, law.value_at(2 * law.full))),
            "limit": _interval_json(law.limit), "lack_of_fit_p": law.fits, "misfits": law.misfits,
        }  # fmt: skip
    return {
        "method": curve.method,
        "metric": curve.metric,
        "lower_is_better": curve.lower_is_better,
        "equal_steps": curve.equal_steps,
        "finished": curve.finished,
        "points": [asdict(one) | {"share": str(one.share), "value": _finite(one.value)} for one in curve.trained],
        "law": found,
        "says": sentences(curve),
        "does_not_say": caveats(curve),
    }


def as_markdown(name: str, curve: Curve) -> str:
    head, lines_of = rows(curve)
    lines = [f"# {name}: how much data is enough", "", f"{curve.method}, {_name(curve)} on held-out items.", ""]
    lines += [*_paragraphs(sentences(curve)), f"![{_name(curve)} against the amount of data]({CHART})", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---:|" * len(head)]
    lines += ["| " + " | ".join(cell if isinstance(cell, str) else cell[0] for cell in row) + " |" for row in lines_of]
    return "\n".join([*lines, "", *(f"- {line}" for line in caveats(curve))]) + "\n"


def as_html(name: str, curve: Curve, svg: str) -> str:
    head, lines_of = rows(curve)
    parts = [
        page.heading(f"{name}: how much data is enough", 1),
        page.paragraph(f"{curve.method}, {_name(curve)} on {curve.trained[0].held_out:,} held-out items", "quiet"),
        page.said(sentences(curve)),
        page.chart(svg),
        page.table(head, lines_of),
        page.heading("What these numbers do not say"),
        page.listed(caveats(curve)),
    ]
    return page.page(f"{name}: how much data is enough", parts)


def rows(curve: Curve) -> tuple[list[str], list[list[page.Cell]]]:
    law = curve.law
    head = ["share", "items", _name(curve), "trainings", "law", "seconds each"]
    rows: list[list[page.Cell]] = []
    for share in curve.shares:
        here = curve.at(share)
        values = [one.value for one in here]
        size = mean(one.items for one in here)
        apart = f"{_value(curve, min(values))} to {_value(curve, max(values))}" if len(here) > 1 else ""
        fitted = _value(curve, law.at(size)) if isinstance(law, Law) else ""
        seconds = duration(mean(one.seconds for one in here))
        rows.append(
            [_share(here[0]), f"{size:,.0f}", (_value(curve, mean(values)), apart), str(len(here)), fitted, seconds]
        )
    if isinstance(law, Law):
        then = _bounded(curve, law.value_at(2 * law.full))
        ends = f"{_value(curve, then.low)} to {_value(curve, then.high)}"
        rows.append(["twice all", f"{2 * law.full:,.0f}", ("", ""), "", (_value(curve, then.value), ends), ""])
    return head, rows


def _paragraphs(lines: Sequence[str]) -> list[str]:
    return [part for line in lines for part in (line, "")]


# -- chart -----------------------------------------------------------------------------------------------------------


def chart(curve: Curve) -> str:
    law = curve.law
    scale = 100.0 if curve.is_share else 1.0
    sizes = {share: mean(one.items for one in curve.at(share)) for share in curve.shares}
    least, most = min(sizes.values()), max(sizes.values())
    x_range = (math.log2(least) - 0.35, math.log2(most) + (1.4 if isinstance(law, Law) else 0.35))
    shown = [scale * one.value for one in curve.trained if math.isfinite(one.value)]
    then = _bounded(curve, law.value_at(2 * law.full)) if isinstance(law, Law) else None
    shown += [scale * then.value] if then else []
    low, high = figure.range_of(shown)
    if then:  # the interval as far as it leaves the points readable
        room = (high - low) / 2
        low, high = max(low - room, min(low, scale * then.low)), min(high + room, max(high, scale * then.high))
    if curve.is_share:  # no share is above 100 %, but a mark there has its room
        low, high = max(low, -4.0), min(high, 104.0)
    frame = figure.Frame(84, 62, 740, 300, x_range, (low, high))
    ticks = [(math.log2(size), f"{size:,.0f}") for size in sizes.values()]
    ticks += [(math.log2(2 * most), f"{2 * most:,.0f}")] if then else []
    entries: list[tuple[str, str, figure.Shape | None]] = [("a training", "a", "circle")]
    parts: list[str] = []
    if isinstance(law, Law) and then:
        entries += [("power law, 95 %", "a", None), ("twice the data", "b", "diamond")]
        parts += _law(frame, curve, law, scale)
        parts.append(frame.bar(math.log2(2 * most), scale * then.low, scale * then.high, "b"))
        about = f"twice the data: {_value(curve, then.value)} ({_value(curve, then.low)} to {_value(curve, then.high)})"
        parts.append(frame.mark(math.log2(2 * most), scale * then.value, "b", "diamond", about))
    for one in curve.trained:
        if math.isfinite(one.value):
            about = point_line(curve, one)
            parts.append(frame.mark(math.log2(sizes[one.share]), scale * one.value, "a", "circle", about))
    unit = f"{_name(curve)}{' (%)' if curve.is_share else ''}"
    axes = frame.axes(
        f"{_name(curve)} against the amount of data", "items trained on (each step doubles)", unit, x_ticks=ticks
    )
    return figure.picture(
        WIDTH, HEIGHT, [*figure.legend(96, 24, entries), *axes, *parts], f"learning curve: {escape(unit)}"
    )


def _law(frame: figure.Frame, curve: Curve, law: Law, scale: float) -> list[str]:
    first, last = frame.x[0], math.log2(2 * law.full)
    places = [first + (last - first) * index / 40 for index in range(41)]
    spans = [_bounded(curve, law.value_at(2**place)) for place in places]
    low = [(place, scale * span.low) for place, span in zip(places, spans, strict=True)]
    high = [(place, scale * span.high) for place, span in zip(places, spans, strict=True)]
    return [
        frame.area(low, high, "a"),
        frame.line([(place, scale * span.value) for place, span in zip(places, spans, strict=True)], "a dashed"),
    ]


# -- numbers ---------------------------------------------------------------------------------------------------------


def gain_of_doubling(curve: Curve, law: Law) -> Interval:
    """No further than to the end of what the metric can be."""
    return _bounded(curve, law.gain(), begin=law.value)


def _bounded(curve: Curve, one: Interval, begin: float = 0.0) -> Interval:
    """A share is between 0 and 1, whatever a law says; a loss is not below 0. `begin`: where a change begins."""
    low, high = (0.0, 1.0) if curve.is_share else (0.0 if curve.metric == "loss" else -math.inf, math.inf)
    return Interval(*(min(max(value, low - begin), high - begin) for value in (one.value, one.low, one.high)))


def _name(curve: Curve) -> str:
    return {"f1": "F1", "answer_f1": "overlap with the answer (F1)", "macro_f1": "macro F1"}.get(
        curve.metric, curve.metric.replace("_", " ").removeprefix("rewards/")
    )


def _value(curve: Curve, value: float) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{100 * value:.1f} %" if curve.is_share else f"{value:.4g}"


def _change(curve: Curve, gain: Interval) -> str:
    if curve.is_share:
        value, low, high = (f"{100 * part:+.1f}" for part in (gain.value, gain.low, gain.high))
        return f"{value} points ({low} to {high}, 95 %)"
    return f"{gain.value:+.3g} ({gain.low:+.3g} to {gain.high:+.3g}, 95 %)"


def _share(one: Trained) -> str:
    return "all" if one.share == 1 else f"1/{one.share.denominator}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _interval_json(one: Interval) -> dict[str, float | None]:
    return {"value": _finite(one.value), "low": _finite(one.low), "high": _finite(one.high)}
