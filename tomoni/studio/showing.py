"""Templates and static files, read once; a page is a template with its words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.responses import HTMLResponse, Response

from tomoni.studio import charts
from tomoni.studio.access import Visit
from tomoni.studio.teaching import Press
from tomoni.studio.words import Lang, Words, written

HERE = Path(__file__).parent
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
SHELL_WORDS = ("common", "outbox", "reach")  # of every page's scripts


@cache
def files() -> dict[str, tuple[bytes, str]]:
    """Name: content and type. What is not listed here is not served."""
    found = sorted(path for path in (HERE / "static").iterdir() if path.suffix in TYPES)
    return {path.name: (path.read_bytes(), TYPES[path.suffix]) for path in found}


@cache
def edition() -> str:
    """Of all static files together: a module imports its neighbours by plain names, so they change as one."""
    mark = hashlib.sha256()
    for name, (content, _) in sorted(files().items()):
        mark.update(f"{name}\0{len(content)}\0".encode() + content)
    return mark.hexdigest()[:12]


def static(name: str) -> str:
    if name not in files():
        raise KeyError(name)
    return f"/static/{edition()}/{name}"


@cache
def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["static"] = static
    made.globals["topic_name"] = topic_name
    made.globals["learnt"] = learnt
    made.globals["counts"] = counts
    made.globals["pairs_of"] = pairs_of
    made.globals["rate_of"] = rate_of
    made.globals["cost"] = cost
    made.globals["rate_bar"] = charts.rate_bar
    made.globals["span"] = span
    made.filters["number"] = written
    made.filters["percent"] = percent
    return made


def topic_name(words: Words, name: str) -> str:
    return words.known(f"topic.{name}", name) if name else words("topic.none")


def learnt(words: Words, press: Press) -> str:
    """What a press of Learn was made from. Each correction is a comparison to the trainer, but not to who made it."""
    found = (press.result or {}).get("learnt_from") or {}
    corrections = int(found.get("corrections") or 0)
    comparisons = max(int(found.get("comparisons") or 0) - corrections, 0)
    return counts(words, comparisons, corrections, int(found.get("thumbs") or 0))


def counts(words: Words, comparisons: int, corrections: int, thumbs: int) -> str:
    """Kinds of judgements with how many, without those there are none of."""
    every = (("comparisons", comparisons), ("corrections", corrections), ("thumbs", thumbs))
    return words("count.and").join(words(f"count.{name}", n=n) for name, n in every if n) or words("count.nothing")


def pairs_of(words: Words, n: int, of: int) -> str:
    """How many of those that are needed; beyond that, how many."""
    return words("home.count", n=n, of=of) if n < of else words("home.counted", n=n)


def rate_of(words: Words, result: Any) -> str:
    """What an hour was taken to cost, where money is told; empty where it is not."""
    price = (result or {}).get("price_per_hour")
    if not isinstance(price, int | float) or isinstance(price, bool) or not result.get("cost"):
        return ""
    return words("learn.cost_at", price=f"{price:,.2f}")


def cost(words: Words, told: Any) -> str:
    """Of a press: money where a price is known, else nothing but electricity."""
    money = told.get("usd") if isinstance(told, dict) else told
    if not isinstance(money, int | float) or isinstance(money, bool):
        return words("learn.cost_unknown")
    return f"${money:.4f}" if money < 0.1 else f"${money:,.2f}"


def span(low: float, high: float) -> str:
    """An interval of shares, as "12–88 %"."""
    return f"{100 * low:.0f}–{100 * high:.0f} %"


def percent(share: float | None, digits: int = 0) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def page(
    visit: Visit,
    name: str,
    *,
    code: int = 200,
    words: Sequence[str] = (),
    facts: dict[str, Any] | None = None,
    **values: Any,
) -> HTMLResponse:
    """The template `name` for this visit. `words` are the families of texts that its script needs, `facts` what the
    script is told as JSON."""
    text = (
        environment()
        .get_template(f"{name}.html")
        .render(
            t=visit.words,
            lang=visit.lang,
            person=visit.person,
            owner=visit.owner,
            here=name,
            script_words=visit.words.of(*SHELL_WORDS, *words),
            facts=facts or {},
            **values,
        )
    )
    return HTMLResponse(text, status_code=code)


def tagged(body: Any, lang: Lang, asked: str | None) -> Response:
    """JSON with an ETag; 304 where the browser has it already."""
    raw = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    etag = f'"{hashlib.sha256(raw).hexdigest()[:20]}-{lang}"'
    headers = {"etag": etag, "cache-control": "no-cache"}
    if asked == etag:
        return Response(status_code=304, headers=headers)
    return Response(raw, media_type="application/json", headers=headers)
