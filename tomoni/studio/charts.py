"""Charts of the pages as SVG, by `run.figure`; colours are classes of the studio's style sheet. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from markupsafe import Markup

from tomoni.run.figure import Frame, Shape, legend, range_of

if TYPE_CHECKING:
    from tomoni.evaluate.metrics import Interval
    from tomoni.studio.teaching import Tally
    from tomoni.studio.training import Run
    from tomoni.studio.words import Words


def drawn(width: float, height: float, parts: Sequence[str], about: str) -> Markup:
    """An inline picture without a style of its own: the policy of the pages allows none."""
    return Markup(  # noqa: S704  (every text in it has been escaped)
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(about, quote=True)}">'
        + "".join(parts)
        + "</svg>"
    )


def win_rates(words: Words, tallies: Sequence[tuple[str, Tally]]) -> Markup | None:
    """Of each press of Learn, with its interval; None where fewer than two were judged."""
    told = [(number, rate) for number, tally in tallies if (rate := tally.win_rate) is not None]
    if len(told) < 2:
        return None
    frame = Frame(52, 34, 570, 150, (0.5, len(told) + 0.5), (0.0, 100.0))
    parts = frame.axes(words("chart.win_rate"), words("chart.press"), "%")
    _, middle = frame.at(0.5, 50)
    parts.append(
        f'<line class="zero" x1="{frame.left}" y1="{middle:.1f}" x2="{frame.left + frame.width}" y2="{middle:.1f}"/>'
    )
    for place, (number, rate) in enumerate(told, start=1):
        about = words("chart.win_rate_of", number=int(number), value=round(100 * rate.value))
        parts.append(frame.bar(place, 100 * rate.low, 100 * rate.high, "a"))
        parts.append(frame.mark(place, 100 * rate.value, "a", "circle", about))
    return drawn(640, 230, parts, words("chart.win_rate"))


def losses(words: Words, run: Run) -> Markup | None:
    """Of training and of what was held out, step by step."""
    if len(run.losses) < 2:
        return None
    frame = _of_losses(run)
    parts = frame.axes(words("chart.loss"), words("chart.step"))
    parts.append(frame.line(run.losses, "a"))
    entries: list[tuple[str, str, Shape | None]] = [(words("chart.training"), "a", None)]
    if run.held_out:
        parts += [frame.mark(step, value, "b", "diamond", f"{step}: {value:.3f}") for step, value in run.held_out]
        entries.append((words("chart.held_out"), "b", "diamond"))
    parts += legend(380, 26, entries)
    return drawn(640, 280, parts, words("chart.loss"))


def _of_losses(run: Run) -> Frame:
    steps = [step for step, _ in run.losses]
    values = [value for _, value in (*run.losses, *run.held_out)]
    last = max(max(steps), run.steps, min(steps) + 1)
    return Frame(56, 40, 560, 190, (min(steps), last), range_of(values))


def points_of_losses(run: Run) -> str:
    """The curve alone, as the places of a polyline: what changes while a page is looked at."""
    if len(run.losses) < 2:
        return ""
    found = re.search(r'points="([0-9., ]*)"', _of_losses(run).line(run.losses, "a"))
    return found[1] if found else ""


def rate_bar(words: Words, rate: Interval) -> Markup:
    """One win rate with its interval, between nothing and everything; the middle is where both are equal."""
    low, point, high = (20 + 400 * value for value in (rate.low, rate.value, rate.high))
    about = words("chart.rate", value=round(100 * rate.value), low=round(100 * rate.low), high=round(100 * rate.high))
    return Markup(  # noqa: S704  (numbers, and words of the catalogue that are escaped)
        f'<svg class="rate" viewBox="0 0 440 52" role="img" aria-label="{escape(about, quote=True)}">'
        '<rect class="track" x="20" y="14" width="400" height="16" rx="8"/>'
        f'<rect class="span" x="{low:.1f}" y="14" width="{high - low:.1f}" height="16" rx="8"/>'
        '<line class="half" x1="220" y1="8" x2="220" y2="36"/>'
        f'<circle class="point" cx="{point:.1f}" cy="22" r="8"/>'
        f'<text x="20" y="48">{escape(words("learn.before"))}</text>'
        f'<text x="220" y="48" text-anchor="middle">50 %</text>'
        f'<text x="420" y="48" text-anchor="end">{escape(words("learn.after"))}</text></svg>'
    )
