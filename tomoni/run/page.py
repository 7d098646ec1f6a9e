"""A page of results in one file: HTML with its style and its charts inside, no scripts, nothing to load. No torch.

It reads in light and in dark, on a phone, by a screen reader and on paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --quiet: #5d6570; --ground: #fff; --line: #dfe3e8; --soft: #f4f6f8; --mark: #0b62a4 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --quiet: #9aa3ae; --ground: #16181c; --line: #2f343b; --soft: #1e2126; --mark: #6cb6f0 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, "Hiragino Sans", "Noto Sans JP", sans-serif }
main { max-width: 64rem; margin: 0 auto; padding: 2rem 1.25rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem } h2 { font-size: 1.1rem; margin: 2.25rem 0 .6rem }
p { margin: .5rem 0 } .quiet { color: var(--quiet); font-size: .9rem }
.said { font-size: 1.1rem; border-left: 4px solid var(--mark); background: var(--soft); padding: .8rem 1rem; margin: 1.2rem 0; border-radius: 0 6px 6px 0 }
.said p:first-child { margin-top: 0 } .said p:last-child { margin-bottom: 0 }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .42rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; vertical-align: top }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 9.5rem } thead th { border-bottom: 2px solid var(--line); color: var(--quiet); font-weight: 600; white-space: normal }
.best { font-weight: 650 } td small { display: block; color: var(--quiet) } svg { max-width: 100%; height: auto; display: block; margin: .5rem 0 }
.chart svg { width: 100%; min-width: 40rem }
ul { padding-left: 1.2rem } li, p, h1 { overflow-wrap: anywhere } code, pre { font-family: ui-monospace, monospace; font-size: .88em } pre { background: var(--soft); padding: .7rem 1rem; border-radius: 6px; overflow-x: auto; white-space: pre-wrap; word-break: break-word }
.answer { border: 1px solid var(--line); border-radius: 6px; padding: .6rem .9rem; margin: .6rem 0 } .answer p { margin: .2rem 0; overflow-wrap: anywhere }
@media print { main { max-width: none; padding: 0 } .answer, svg, tr { break-inside: avoid } }
"""


def page(title: str, parts: Iterable[str], *, lang: str = "en") -> str:
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="{lang}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def heading(words: str, level: int = 2) -> str:
    return f"<h{level}>{escape(words)}</h{level}>"


def paragraph(words: str, css: str = "") -> str:
    return f"<p{_css(css)}>{escape(words)}</p>"


def said(lines: Sequence[str]) -> str:
    """What the page says, in a sentence or two."""
    return '<div class="said">' + "".join(paragraph(line) for line in lines) + "</div>"


def chart(svg: str) -> str:
    """As wide as the page; on a phone as wide as it can be read, to be moved sideways like a wide table."""
    return f'<div class="wide chart">{svg}</div>'


def listed(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


Cell = str | tuple[str, str]  # or (words, quiet words under them)


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]], *, best: Iterable[tuple[int, int]] = ()) -> str:
    """`best`: (row, column) of cells that stand out."""
    bold = set(best)
    heads = "".join(f'<th scope="col">{escape(word)}</th>' for word in head)
    lines = [f"<thead><tr>{heads}</tr></thead>"]
    for r, row in enumerate(rows):
        cells = [f"<td{_css('best' if (r, c) in bold else '')}>{_cell(cell)}</td>" for c, cell in enumerate(row)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return escape(cell)
    words, under = cell
    return escape(words) + (f"<small>{escape(under)}</small>" if under else "")


def _css(name: str) -> str:
    return f' class="{name}"' if name else ""
