"""A page that stands alone: two languages by a switch without a script, tiles, tables, drawings as inline SVG. No torch.

Whatever is put into a page as text is escaped here; pieces that are HTML already are of the type Html.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NewType

from tomoni.feedback.roundfolders import OWNERS

Html = NewType("Html", str)
Tone = Literal["good", "bad", "wait", "plain"]

STYLE: Final = """
:root{color-scheme:light dark;--ink:#1d2330;--dim:#667085;--paper:#f6f7f9;--card:#fff;--line:#e3e6eb;--good:#11845b;
--bad:#c0362c;--wait:#b7791f;--plain:#3056d3;--soft:#eef2ff}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaf0;--dim:#9aa3b2;--paper:#12151c;--card:#1b202a;--line:#2c333f;
--good:#43c08e;--bad:#f0796f;--wait:#e5b567;--plain:#8aa4ff;--soft:#222a3d}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,
"Hiragino Sans","Noto Sans CJK JP","Yu Gothic UI",sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1.25rem 4rem}h1{font-size:1.5rem;margin:.2rem 0 1rem}
h2{font-size:1.05rem;margin:2.2rem 0 .7rem}p{margin:.4rem 0}.dim{color:var(--dim)}small{color:var(--dim)}
.card{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:1.1rem 1.25rem;overflow-x:auto}
.verdict{border-left:8px solid var(--plain);margin-bottom:1rem}.verdict b{font-size:1.35rem}
.good{color:var(--good)}.bad{color:var(--bad)}.wait{color:var(--wait)}.verdict.good,.verdict.bad,.verdict.wait{color:inherit}
.verdict.good{border-color:var(--good)}.verdict.bad{border-color:var(--bad)}.verdict.wait{border-color:var(--wait)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(12rem,1fr));gap:.75rem}
.tile b{display:block;font-size:1.5rem;line-height:1.2;font-variant-numeric:tabular-nums}.tile span{font-size:.85rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}td,th{text-align:left;padding:.35rem .6rem;
border-bottom:1px solid var(--line);vertical-align:top}th{color:var(--dim);font-weight:500;font-size:.85rem}
ul.marks{list-style:none;margin:0;padding:0}ul.marks li{padding:.3rem 0 .3rem 1.8rem;position:relative}
ul.marks li>i{position:absolute;left:.2rem;font-style:normal;font-weight:700}
svg{display:block;width:100%;min-width:34rem;height:auto}svg text{font:12px system-ui,sans-serif;fill:var(--dim)}
.lang{position:absolute;opacity:0;pointer-events:none}.switch{float:right;font-size:.85rem}.switch label{cursor:pointer;
padding:.15rem .6rem;border:1px solid var(--line);border-radius:99px;margin-left:.25rem}
.ja{display:none}#ja:checked~main .ja{display:revert}#ja:checked~main .en{display:none}
#en:checked~main label[for=en],#ja:checked~main label[for=ja]{background:var(--soft);border-color:var(--plain)}
.lang:focus-visible~main .switch{outline:2px solid var(--plain);border-radius:99px}
.before{border-left:3px solid var(--line);padding-left:.6rem}.after{border-left:3px solid var(--good);padding-left:.6rem}
a{color:var(--plain)}
"""


def text(what: object) -> Html:
    return Html(html.escape(str(what)))


def both(en: object, ja: object) -> Html:
    """The one or the other is shown."""
    return Html(f'<span class="en">{text(en)}</span><span class="ja" lang="ja">{text(ja)}</span>')


def joined(parts: Iterable[Html]) -> Html:
    return Html("".join(parts))


def page(title: tuple[str, str], body: Iterable[Html], *, lang: str = "en") -> str:
    checked = {name: " checked" if name == lang else "" for name in ("en", "ja")}
    first = "ja" if lang == "ja" else "en"
    heading = title[1] if first == "ja" else title[0]
    return (
        f'<!doctype html>\n<html lang="{first}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{text(heading)}</title><style>{STYLE}</style></head><body>"
        f'<input class="lang" type="radio" name="lang" id="en"{checked["en"]} aria-label="English">'
        f'<input class="lang" type="radio" name="lang" id="ja"{checked["ja"]} aria-label="日本語">'
        '<main><div class="switch"><label for="en">English</label><label for="ja">日本語</label></div>'
        f"<h1>{both(*title)}</h1>{joined(body)}</main></body></html>\n"
    )


def for_owner(*parts: Html) -> Html:
    """What is for nobody else: `roundfolders.for_everybody` leaves it out."""
    return Html(f"{OWNERS[0]}{joined(parts)}{OWNERS[1]}")


def section(title: tuple[str, str], *parts: Html, note: tuple[str, str] | None = None) -> Html:
    below = f"<p><small>{both(*note)}</small></p>" if note else ""
    return Html(f'<h2>{both(*title)}</h2><div class="card">{joined(parts)}{below}</div>')


def verdict(tone: Tone, head: tuple[str, str], lines: Sequence[tuple[str, str]]) -> Html:
    rest = "".join(f"<p>{both(*line)}</p>" for line in lines)
    return Html(f'<div class="card verdict {tone}"><b class="{tone}">{both(*head)}</b>{rest}</div>')


def tiles(found: Sequence[tuple[tuple[str, str], str, tuple[str, str]]]) -> Html:
    """(label, value, what stands under it)."""
    cells = "".join(
        f'<div class="card tile"><span class="dim">{both(*label)}</span><b>{text(value)}</b><small>{both(*under)}</small></div>'
        for label, value, under in found
    )
    return Html(f'<div class="tiles">{cells}</div>')


def table(head: Sequence[tuple[str, str]], rows: Sequence[Sequence[object]]) -> Html:
    top = "".join(f"<th>{both(*cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell(one)}</td>" for one in row) + "</tr>" for row in rows)
    return Html(f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>")


@dataclass(frozen=True, slots=True)
class Link:
    to: str
    shown: str


def cell(one: object) -> Html:
    match one:
        case Link():
            return Html(f'<a href="{html.escape(one.to, quote=True)}">{text(one.shown)}</a>')
        case (str() as en, str() as ja):
            return both(en, ja)
        case _:
            return text(one)


def marks(found: Sequence[tuple[Tone, tuple[str, str]]]) -> Html:
    sign = {"good": "✓", "bad": "✗", "wait": "…", "plain": "·"}
    items = "".join(f'<li><i class="{tone}">{sign[tone]}</i>{both(*line)}</li>' for tone, line in found)
    return Html(f'<ul class="marks">{items}</ul>')


# -- drawings --------------------------------------------------------------------------------------------------------


def course(logs: Sequence[float], needed: float, title: tuple[str, str]) -> Html:
    """The e-value after each judgement, on a logarithmic axis, and the line that it must reach."""
    width, height, left, bottom, top = 880.0, 240.0, 56.0, 26.0, 14.0
    low, high = min([0.0, *logs]) - 0.3, max([needed, *logs]) + 0.5
    n = max(len(logs), 1)

    def x(place: float) -> float:
        return left + (width - left - 12) * place / n

    def y(value: float) -> float:
        return top + (height - top - bottom) * (high - value) / (high - low)

    parts = [_svg(width, height, title)]
    for power in range(math.ceil(low / math.log(10)), math.floor(high / math.log(10)) + 1):
        at = y(power * math.log(10))
        parts.append(f'<line x1="{left}" x2="{width - 12}" y1="{at:.1f}" y2="{at:.1f}" stroke="var(--line)"/>')
        parts.append(f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{_power(power)}</text>')
    line = y(needed)
    parts.append(
        f'<line x1="{left}" x2="{width - 12}" y1="{line:.1f}" y2="{line:.1f}" stroke="var(--good)" stroke-width="2" '
        f'stroke-dasharray="6 5"/><text x="{width - 14}" y="{line - 6:.1f}" text-anchor="end" '
        f'style="fill:var(--good)">{math.exp(needed):.3g}</text>'
    )
    points = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in enumerate([0.0, *logs]))
    parts.append(f'<polyline points="{points}" fill="none" stroke="var(--plain)" stroke-width="2.5"/>')
    parts.append(f'<text x="{width - 12}" y="{height - 6}" text-anchor="end">{len(logs)}</text>')
    return Html("".join(parts) + "</svg>")


def bars(rows: Sequence[tuple[str, float, float, float, Tone]], title: tuple[str, str]) -> Html:
    """Shares with intervals around a line at one half: (name, value, low, high, tone)."""
    width, left, step = 880.0, 180.0, 34.0
    height = step * len(rows) + 26

    def x(value: float) -> float:
        return left + (width - left - 60) * value

    parts = [_svg(width, height, title)]
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        stroke = "var(--dim)" if value == 0.5 else "var(--line)"
        parts.append(f'<line x1="{x(value)}" x2="{x(value)}" y1="4" y2="{height - 22}" stroke="{stroke}"/>')
        parts.append(f'<text x="{x(value)}" y="{height - 6}" text-anchor="middle">{value:.0%}</text>')
    for place, (name, value, low, high, tone) in enumerate(rows):
        at = 4 + step * place + step / 2
        parts.append(f'<text x="{left - 12}" y="{at + 4:.1f}" text-anchor="end">{text(name[:24])}</text>')
        parts.append(
            f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{at:.1f}" y2="{at:.1f}" stroke="var(--{tone})" '
            f'stroke-width="8" stroke-linecap="round" opacity=".35"/>'
        )
        parts.append(f'<circle cx="{x(value):.1f}" cy="{at:.1f}" r="6" fill="var(--{tone})"/>')
        parts.append(f'<text x="{width - 4}" y="{at + 4:.1f}" text-anchor="end">{value:.0%}</text>')
    return Html("".join(parts) + "</svg>")


def steps(rows: Sequence[tuple[str, float, float, float, Tone]], title: tuple[str, str]) -> Html:
    """Win rates round by round: (name, value, low, high, tone)."""
    width, height, left, bottom, top = 880.0, 260.0, 48.0, 30.0, 12.0
    inner = width - left - 20

    def x(place: int) -> float:
        return left + inner * (place + 0.5) / max(len(rows), 1)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (1 - value)

    parts = [_svg(width, height, title)]
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        stroke = "var(--dim)" if value == 0.5 else "var(--line)"
        parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{y(value)}" y2="{y(value)}" stroke="{stroke}"/>')
        parts.append(f'<text x="{left - 8}" y="{y(value) + 4}" text-anchor="end">{value:.0%}</text>')
    for place, (name, value, low, high, tone) in enumerate(rows):
        at = x(place)
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}" stroke="var(--{tone})" '
            f'stroke-width="10" stroke-linecap="round" opacity=".35"/>'
        )
        parts.append(f'<circle cx="{at:.1f}" cy="{y(value):.1f}" r="7" fill="var(--{tone})"/>')
        parts.append(f'<text x="{at:.1f}" y="{height - 8}" text-anchor="middle">{text(name[:16])}</text>')
    return Html("".join(parts) + "</svg>")


def _svg(width: float, height: float, title: tuple[str, str]) -> str:
    name = html.escape(f"{title[0]} / {title[1]}", quote=True)
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{name}">'


def _power(power: int) -> str:
    return f"{10.0**power:g}" if -2 <= power <= 4 else f"1e{power}"
