"""Versions as a family line, drawn as `git log --graph` draws commits: the newest on top, each above its base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tomoni.errors import counted
from tomoni.registry import Promotion, Version


def drawn(versions: Sequence[Version]) -> Iterator[tuple[str, Version | None]]:
    """Lines of the graph, from the newest version down; with the version where the line is one's own."""
    lanes: list[str] = []  # the version that each lane leads down to
    for number, version in reversed(list(enumerate(versions))):
        if version.id not in lanes:
            lanes.append(version.id)
        at = lanes.index(version.id)
        while lanes.count(version.id) > 1:
            last = max(index for index, lane in enumerate(lanes) if lane == version.id)
            yield _joining(at, last, len(lanes)), None
            del lanes[last]
        yield " ".join("*" if index == at else "|" for index in range(len(lanes))), version
        if version.base is not None:
            lanes[at] = version.base
        else:
            del lanes[at]
            if number:  # what comes below in this place is no ancestor of it
                yield " ".join(["|"] * at + [" /"] * (len(lanes) - at)), None


def _joining(to: int, last: int, count: int) -> str:
    """The lane `last` bends to the lane `to`; those behind it move up."""
    cells = [" "] * (2 * count)
    for index in range(count):
        cells[2 * index] = "|"
    for gap in range(2 * to + 1, 2 * last - 1, 2):
        cells[gap] = "_"
    for index in range(last, count):
        cells[2 * index - 1], cells[2 * index] = "/", " "
    return "".join(cells).rstrip()


def told(version: Version, current: str | None) -> list[str]:
    """A version in one line or two."""
    facts = [version.id + (" (served)" if version.id == current else ""), version.method or "model"]
    facts += [version.created.replace("T", " ")[:16]]
    if rate := win_rate(version.evaluation):
        facts.append(rate)
    if version.judgements:
        facts.append(
            f"{counted(version.judgements, 'judgement')} by {counted(len(version.people), 'person')}".replace(
                "persons", "people"
            )
        )
    if price := cost(version.cost):
        facts.append(price)
    return ["  ".join(facts), *([version.note] if version.note else [])]


def win_rate(evaluation: Mapping[str, Any]) -> str:
    """`won 61 % (52 to 70)`, where it is known."""
    rate = evaluation.get("win_rate")
    if isinstance(rate, Mapping) and isinstance(rate.get("value"), int | float):
        low, high = rate.get("low"), rate.get("high")
        known = isinstance(low, int | float) and isinstance(high, int | float)
        between = f" ({100 * low:.0f} to {100 * high:.0f})" if known else ""  # type: ignore[operator]
        return f"won {100 * rate['value']:.0f} %{between}"
    return ""


def cost(paid: Mapping[str, Any]) -> str:
    """`41 s, 0.02 USD`, where it is known."""
    facts = []
    if isinstance(paid.get("seconds"), int | float):
        facts.append(_seconds(float(paid["seconds"])))
    if isinstance(paid.get("money"), int | float):
        facts.append(f"{paid['money']:.2f} {paid.get('currency', '')}".strip())
    return ", ".join(facts)


def _seconds(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def as_json(versions: Sequence[Version], history: Sequence[Promotion]) -> dict[str, Any]:
    return {
        "current": history[-1].version if history else None,
        "versions": [asdict(version) for version in versions],
        "history": [asdict(move) for move in history],
    }
