"""Charts as SVG: text that any browser shows, in light and in dark, with nothing to load. No torch.

A chart is a frame with axes, and marks in it. Colours are classes, whose values the style sheet gives for both schemes;
what colours tell apart, shapes do too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

Shape = Literal["circle", "diamond", "square"]
XY = tuple[float, float]
Tick = tuple[float, str]  # place, words

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #333 } .title { font-weight: 600; font-size: 13px } .small { font-size: 11px }
.ground { fill: #fff } .axis { stroke: #888 } .grid { stroke: #e4e4e4 } .zero { stroke: #aaa }
.a { stroke: #0b62a4; fill: #0b62a4 } .b { stroke: #b8500b; fill: #b8500b } .c { stroke: #6b6b6b; fill: #6b6b6b }
.hollow { fill: #fff }
@media (prefers-color-scheme: dark) {
text { fill: #ddd } .ground { fill: #16181c } .axis { stroke: #777 } .grid { stroke: #2b2e34 } .zero { stroke: #565a62 }
.a { stroke: #6cb6f0; fill: #6cb6f0 } .b { stroke: #f0a05a; fill: #f0a05a } .c { stroke: #a8a8a8; fill: #a8a8a8 }
.hollow { fill: #16181c } }
.line { fill: none; stroke-width: 1.8 } .dashed { stroke-dasharray: 5 4 } .bar { stroke-width: 1.4; opacity: .5 }
.band { stroke: none; opacity: .16 }
"""
MOST_POINTS = 300  # of a line; what is more is averaged into so many


@dataclass(frozen=True, slots=True)
class Frame:
    """A rectangle of the picture, and what of the plane it shows."""

    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> XY:
        (x0, x1), (y0, y1) = self.x, self.y
        return self.left + (x - x0) / (x1 - x0) * self.width, self.top + (y1 - y) / (y1 - y0) * self.height

    def axes(
        self, title: str, x_label: str = "", y_label: str = "", *, ticks: int = 6, x_ticks: Sequence[Tick] = ()
    ) -> list[str]:
        """`x_ticks` instead of round numbers: where x is a logarithm."""
        bottom, right = self.top + self.height, self.left + self.width
        parts = [_text(self.left, self.top - 10, title, "title")]
        for value in ticks_of(*self.y, most=ticks):
            _, y = self.at(self.x[0], value)
            parts += [_line(self.left, y, right, y, "zero" if value == 0 else "grid")]
            parts += [_text(self.left - 6, y + 4, number(value), "small", "end")]
        for value, words in x_ticks or [(value, number(value)) for value in ticks_of(*self.x, most=ticks)]:
            x, _ = self.at(value, self.y[0])
            parts += [_line(x, bottom, x, bottom + 4, "axis"), _text(x, bottom + 17, words, "small", "middle")]
        parts += [
            _line(self.left, bottom, right, bottom, "axis"),
            _line(self.left, self.top, self.left, bottom, "axis"),
        ]
        if x_label:
            parts.append(_text((self.left + right) / 2, bottom + 34, x_label, "small", "middle"))
        if y_label:
            x, y = self.left - 46, self.top + self.height / 2
            parts.append(
                f'<text class="small" text-anchor="middle" transform="translate({x:.1f} {y:.1f}) rotate(-90)">'
                f"{escape(y_label)}</text>"
            )
        return parts

    def line(self, points: Sequence[XY], css: str) -> str:
        """Through the points; where it leaves the frame it is cut."""
        places = [self.at(x, y) for x, y in _thinned(points)]
        path = " ".join(f"{x:.1f},{min(max(y, self.top), self.top + self.height):.1f}" for x, y in places)
        return f'<polyline class="line {css}" points="{path}"/>'

    def mark(self, x: float, y: float, css: str, shape: Shape, about: str, *, beside: float = 0) -> str:
        """With a text that shows when it is pointed at; `beside` moves it, so that marks at one place can be seen."""
        px, py = self.at(x, y)
        return f'<g class="{css}">{symbol(px + beside, py, shape)}<title>{escape(about)}</title></g>'

    def bar(self, x: float, low: float, high: float, css: str, *, beside: float = 0) -> str:
        """An interval; where it leaves the frame it is cut."""
        (px, y0), (_, y1) = self.at(x, max(low, self.y[0])), self.at(x, min(high, self.y[1]))
        return _line(px + beside, y0, px + beside, y1, f"bar {css}")

    def band(self, low: float, high: float, css: str) -> str:
        """From x to x over the whole height."""
        (x0, _), (x1, _) = self.at(max(low, self.x[0]), 0), self.at(min(high, self.x[1]), 0)
        return (
            f'<rect class="band {css}" x="{x0:.1f}" y="{self.top:.1f}" width="{max(x1 - x0, 0):.1f}" '
            f'height="{self.height:.1f}"/>'
        )

    def area(self, low: Sequence[XY], high: Sequence[XY], css: str) -> str:
        """Between two lines; where it leaves the frame it is cut."""
        places = [self.at(x, min(max(y, self.y[0]), self.y[1])) for x, y in (*low, *reversed(high))]
        return f'<polygon class="band {css}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'

    def level(self, y: float, css: str) -> str:
        _, py = self.at(self.x[0], y)
        return _line(self.left, py, self.left + self.width, py, f"line {css}")

    def words(
        self, x: float, y: float, words: str, *, beside: float = 0, above: float = 0, anchor: str = "start"
    ) -> str:
        """At a place of the plane, moved by so many pixels."""
        px, py = self.at(x, y)
        return _text(px + beside, py - above, words, "small", anchor)

    def upright(self, x: float, css: str) -> str:
        px, _ = self.at(x, 0)
        return _line(px, self.top, px, self.top + self.height, f"line {css}")


def picture(width: float, height: float, parts: Iterable[str], about: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{escape(about, quote=True)}">\n<style>{STYLE}</style>\n'
        f'<rect class="ground" width="{width:g}" height="{height:g}"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def legend(x: float, y: float, entries: Sequence[tuple[str, str, Shape | None]]) -> list[str]:
    """In a row: (words, class, shape or None for a line)."""
    parts = []
    for words, css, shape in entries:
        sign = _line(x - 9, y - 4, x + 9, y - 4, f"line {css}") if shape is None else symbol(x, y - 4, shape)
        parts += [f'<g class="{css}">{sign}</g>', _text(x + 14, y, words, "small")]
        x += 40 + 6.1 * len(words)
    return parts


def symbol(x: float, y: float, shape: Shape) -> str:
    match shape:
        case "circle":
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.2"/>'
        case "diamond":
            return f'<path class="hollow" stroke-width="1.6" d="M{x:.1f} {y - 5.4:.1f} l5.4 5.4 -5.4 5.4 -5.4 -5.4 z"/>'
        case "square":
            return f'<rect class="hollow" stroke-width="1.6" x="{x - 3.8:.1f}" y="{y - 3.8:.1f}" width="7.6" height="7.6"/>'


def range_of(values: Iterable[float], *, zero: bool = False) -> tuple[float, float]:
    """What shows all of them with some room; never empty."""
    finite = [value for value in values if math.isfinite(value)] + ([0.0] if zero else [])
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    return low - room, high + room


def ticks_of(low: float, high: float, *, most: int) -> list[float]:
    """Round numbers inside, at most so many."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def number(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _thinned(points: Sequence[XY]) -> list[XY]:
    size = -(-len(points) // MOST_POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size or 1)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _line(x0: float, y0: float, x1: float, y1: float, css: str) -> str:
    return f'<line class="{css}" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"/>'


def _text(x: float, y: float, words: str, css: str, anchor: str = "start") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
