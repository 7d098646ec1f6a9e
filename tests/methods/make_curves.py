"""Writes curves.json: the course of every method on a tiny model. Run by hand, and only where a number is meant to move;
CHANGELOG.md then says why:

    python -m tests.methods.make_curves
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from tests.methods.every import METHODS, learn

FILE = Path(__file__).with_name("curves.json")
STEPS = 8


def course(method: str) -> dict[str, list[float | None]]:
    """Every statistic of every step, None where a step has none or it is no number."""
    steps = [report.stats.means() for report in learn(method, max_steps=STEPS).reports]
    names = sorted({name for step in steps for name in step})
    told = {name: [step.get(name, math.nan) for step in steps] for name in names}
    return {name: [float(f"{value:.6g}") if math.isfinite(value) else None for value in values] for name, values in told.items()}  # fmt: skip


def main() -> None:
    body = {method: course(method) for method in METHODS}
    lines = []
    for method, found in body.items():
        curves = ",\n".join(f" {json.dumps(name)}: {json.dumps(values)}" for name, values in found.items())
        lines.append(f"{json.dumps(method)}: {{\n{curves}}}")
    FILE.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
