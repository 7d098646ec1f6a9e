"""What the report of a run says of over-optimisation: figures, words, and the chart overoptimisation.svg. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tomoni.evaluate.overoptimisation import (
    Z_95,
    Curve,
    Estimate,
    Form,
    NoCurve,
    Point,
    best_of_n_kl,
    curve_of,
    overoptimised,
)
from tomoni.run import figure
from tomoni.run.watching import Watch, form_of, point_to_json
from tomoni.settings.common import TrainingSettings

FILE = "overoptimisation.svg"
FORMULA: dict[Form, str] = {"rl": "d (alpha - beta ln d)", "best_of_n": "d (alpha - beta d)"}
OVER_STEPS = (
    ("completions/mean_length", "length of completions (tokens)"),
    ("completions/repetition", "repetition (share of 4-grams)"),
    ("completions/distinct_2", "distinct-2"),
    ("entropy", "entropy (nats a token)"),
)
WIDTH, HEIGHT = 860, 700


def as_json(watch: Watch, cfg: TrainingSettings) -> dict[str, Any]:
    """Under "overoptimisation" in report.json; nothing where nothing was watched."""
    if not watch.points:
        return {}
    form = form_of(cfg)
    curve = curve_of(watch.points, form)
    found: dict[str, Any]
    match curve:
        case NoCurve(reason):
            found = {"reason": reason}
        case Curve():
            found = {
                "alpha": list(curve.alpha),
                "beta": list(curve.beta),
                "noise": curve.noise,
                "error": curve.error,
                "points": curve.points,
                "peak": curve.peak,
                "peak_interval": curve.peak_interval,
                "gain_at_peak": curve.peak_gain,
            }
    body = {
        "formula": FORMULA[form],
        "curve": found,
        "too_far": overoptimised(watch.points, form),
        "evaluations": [point_to_json(point) for point in watch.points],
    }
    return {"overoptimisation": body}


def as_markdown(watch: Watch, cfg: TrainingSettings, *, held_out: bool, ended: str | None) -> str:
    """A section of report.md."""
    if not watch.points:
        return ""
    form, last = form_of(cfg), watch.points[-1]
    best = max(watch.points, key=lambda point: point.gain.value)
    curve = curve_of(watch.points, form)
    lines = ["", "## How far the policy went, and what it won", "", f"![score against distance]({FILE})", ""]
    lines += [f"Ended: {ended}.", ""] if ended else []
    if not held_out:
        lines += [
            "Measured on training prompts, since there are no held-out ones: what is won here may be learnt by heart.",
            "",
        ]
    lines += [
        "| evaluation | KL (nats) | sqrt KL | gain over the start | gain at equal length |",
        "|---|---:|---:|---:|---:|",
        *(_row(name, point) for name, point in (("best", best), ("last", last))),
        "",
        f"The curve {FORMULA[form]}, d = sqrt KL: {told(curve, last)}",
        "",
    ]
    if best.gain.value <= 0:
        lines += ["No evaluation scored better than the start.", ""]
    if (reason := overoptimised(watch.points, form)) is not None:
        again = [] if reason == ended else [f"Too far: {reason}."]
        lines += [" ".join([*again, f"The best evaluation is that of step {best.step}."]), ""]
    if form == "best_of_n":
        n = int(getattr(cfg, "num_generations", 1))
        lines += [f"A step's best of {n} lies at most {best_of_n_kl(n):.2f} nats from the policy it is drawn from.", ""]
    return "\n".join(lines) + "\n"


def told(curve: Curve | NoCurve, last: Point) -> str:
    """What to expect, in words."""
    if isinstance(curve, NoCurve):
        return f"not fitted; {curve.reason}."
    numbers = f"alpha {_interval(curve.alpha, curve.t)}, beta {_interval(curve.beta, curve.t)}, from {curve.points} evaluations"
    peak, interval, top = curve.peak, curve.peak_interval, curve.peak_gain
    if peak is None or interval is None or top is None:
        rises = (
            "beta may be 0, and then the score goes on rising"
            if curve.alpha.value > 0
            else "it falls from the start on"
        )
        return f"{numbers}. It has no sure peak: {rises}."
    where = f"its peak is at d = {peak:.2f} ({interval[0]:.2f} to {interval[1]:.2f}), with a gain of {top:.3g}"
    here = f"the last evaluation stands at d = {last.distance:.2f}, where it is {curve.at(last.distance):.3g}"
    beyond = "" if peak <= last.distance else " The peak lies beyond what was seen, and is a guess."
    rough = (
        f" The points lie further from it ({curve.noise:.2g}) than they are unsure ({curve.error:.2g}): it is a rough guide, "
        "and the best evaluation is what is known."
        if curve.is_rough
        else ""
    )
    return f"{numbers}; {where}; {here}.{beyond}{rough}"


def chart(watch: Watch, metrics: Sequence[Mapping[str, Any]], cfg: TrainingSettings) -> str:
    """The score against the distance from the start, with the fitted curve; below, what changes over the steps.
    `metrics`: the lines of metrics.jsonl."""
    points = watch.points
    curve = curve_of(points, form_of(cfg))
    entries: list[tuple[str, str, figure.Shape | None]] = [
        ("score", "a", "circle"),
        ("score at equal length", "b", "diamond"),
    ]
    if points[-1].trained is not None:
        entries.append(("what is trained on", "c", "square"))
    if isinstance(curve, Curve):
        entries.append((f"fitted {FORMULA[curve.form]}", "a dashed", None))
    parts = figure.legend(90, 26, entries)
    parts += _against_distance(points, curve)
    lines = [line for line in metrics if "kl_from_start" in line]
    for index, (name, title) in enumerate(OVER_STEPS):
        row, column = divmod(index, 2)
        parts += _over_steps(lines, name, title, left=80 + 400 * column, top=442 + 130 * row)
    return figure.picture(
        WIDTH, HEIGHT, parts, "score against the distance from the start, and what changed over the steps"
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _against_distance(points: Sequence[Point], curve: Curve | NoCurve) -> list[str]:
    widest = max(point.distance for point in points)
    shown = [estimate for point in points for estimate in (point.gain, point.controlled, point.trained) if estimate]
    ends = [end for one in shown for end in (one.value - Z_95 * one.se, one.value + Z_95 * one.se)]
    low, high = figure.range_of([one.value for one in shown], zero=True)
    within = [end for end in ends if low - (high - low) <= end <= high + (high - low)]  # a wide bar may be cut
    x_range = (0.0, 1.06 * widest or 1.0)
    y_range = figure.range_of([*within, low, high])
    frame = figure.Frame(80, 62, 750, 300, x_range, y_range)
    parts = frame.axes(
        "Gain over the start", "distance from the start: square root of KL (nats a completion)", "score", ticks=8
    )
    if isinstance(curve, Curve):
        if curve.peak is not None and curve.peak_interval is not None and curve.peak < x_range[1]:
            parts += [frame.band(*curve.peak_interval, "a"), frame.upright(curve.peak, "a dashed")]
        places = [x_range[1] * index / 120 for index in range(121)]
        parts.append(frame.line([(d, curve.at(d)) for d in places], "a dashed"))
    series: list[tuple[str, figure.Shape, float, list[Estimate | None]]] = [
        ("c", "square", -5, [point.trained for point in points]),
        ("b", "diamond", 5, [point.controlled for point in points]),
        ("a", "circle", 0, [point.gain for point in points]),
    ]
    for css, shape, beside, estimates in series:
        for point, one in zip(points, estimates, strict=True):
            if one is None or not math.isfinite(one.value):
                continue
            about = f"step {point.step}: {one.value:.3g} ± {Z_95 * one.se:.2g}"
            if math.isfinite(one.se):
                low, high = one.value - Z_95 * one.se, one.value + Z_95 * one.se
                parts.append(frame.bar(point.distance, low, high, css, beside=beside))
            parts.append(frame.mark(point.distance, one.value, css, shape, about, beside=beside))
    return parts


def _over_steps(lines: Sequence[Mapping[str, Any]], name: str, title: str, *, left: float, top: float) -> list[str]:
    values = [(float(line["step"]), float(line[name])) for line in lines if name in line]
    if not values:
        return []
    first, last = values[0][0], values[-1][0]
    x_range = (first, last) if last > first else (first - 1, first + 1)
    low, high = figure.range_of([value for _, value in values])
    y_range = (max(low, 0.0), high) if all(value >= 0 for _, value in values) else (low, high)
    frame = figure.Frame(left, top, 350, 78, x_range, y_range)
    return [*frame.axes(title, ticks=4), frame.line(values, "a")]


def _row(name: str, point: Point) -> str:
    return (
        f"| {name}, step {point.step} | {point.kl:.3g} | {point.distance:.3g} | {_interval(point.gain, Z_95)} "
        f"| {_interval(point.controlled, Z_95)} |"
    )


def _interval(one: Estimate, t: float) -> str:
    if not math.isfinite(one.value):
        return "cannot be told"
    return f"{one.value:.3g} ({one.value - t * one.se:.3g} to {one.value + t * one.se:.3g})"
