"""The document says what was measured, and says where two sides cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import report

SIDE = {
    "seconds": 2.0,
    "whole_seconds": 7.0,
    "cpu_seconds": 3.5,
    "fastest": 1.5,
    "slowest": 2.5,
    "peak_bytes": 3 << 30,
    "before_bytes": 1 << 30,
    "tokens_per_second": 1234.4,
    "floor_seconds": 0.5,
}
PAIR = {
    "ours": "tomoni",
    "peer": "a peer",
    "goal": 3.0,
    "memory_goal": 0.5,
    "speed": 2.5,
    "speed_least": 2.4,
    "speed_most": 2.6,
    "memory": 0.3,
    "equal": True,
    "said": "largest difference of losses 1e-06",
}
MACHINE = {
    "processor": "a processor",
    "cores": 2,
    "threads": 2,
    "flags": ["avx2"],
    "memory_gib": 8,
    "system": "Linux x86_64",
    "python": "3.11.7",
    "date": "2026-01-02",
    "ours": {"torch": "2.13.0"},
    "peers": {"torch": "2.13.0", "trl": "1.16.0"},
}


def result(name: str = "some", **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "title": f"Work {name}",
        "about": "What is done.",
        "machine": MACHINE,
        "rate": 1.4e11,
        "sides": {"tomoni": SIDE, "a peer": SIDE},
        "failed": {},
        "pairs": [PAIR],
        "tried": {},
        **changes,
    }


def test_the_document_has_figures_goals_machine_and_commands() -> None:
    text = report.render([result()])
    assert "| tomoni | 1,234 | 2.00 (1.50 to 2.50) | 3.50 | 7.0 | 25% | 3.00 | 1.00 |" in text
    assert "| Work some | tomoni : a peer | 3x, memory 0.5 | 2.50x | 1.00x | 0.30 |" in text
    assert "| tomoni : a peer | 2.50x | 2.40 to 2.60 | 1.00x | 0.30 | yes: largest difference of losses 1e-06 |" in text
    assert "a processor, 2 cores (2 threads used), avx2" in text
    assert "trl 1.16.0" in text
    assert "some (140)" in text
    assert "make bench" in text


def test_where_pairs_or_completions_are_counted_the_column_says_so() -> None:
    side = SIDE | {"items_per_second": 5.256, "unit": "pairs"}
    text = report.render([result(sides={"tomoni": side, "a peer": side})])
    assert "|  | pairs/s | seconds" in text
    assert "| tomoni | 5.26 | 2.00" in text


def test_by_cpu_seconds_the_same_work_is_compared() -> None:
    """Ours takes 3.5 s for 8 completions, the peer 10.5 s for 4."""
    ours = SIDE | {"items": 8, "items_per_second": 1.0, "unit": "completions"}
    text = report.render([result(sides={"tomoni": ours, "a peer": ours | {"items": 4, "cpu_seconds": 10.5}})])
    assert "| 2.50x | 2.40 to 2.60 | 6.00x | 0.30 |" in text


def test_a_row_whose_sides_differ_is_not_comparable() -> None:
    text = report.render([result(pairs=[PAIR | {"equal": False}])])
    assert "| Work some | tomoni : a peer | 3x, memory 0.5 | not comparable |  | 0.30 |" in text
    assert "2.50x" not in text
    assert "**no**: largest difference" in text


def test_failures_and_other_settings_are_told() -> None:
    tried = {"a peer, packed": SIDE, "a peer, compiled": {"failed": "ended with 1: no compiler"}}
    text = report.render([result(failed={"a third": "ended with 1: no model"}, tried=tried)])
    assert "a third: failed (ended with 1: no model)." in text
    assert "| some | a peer, packed | 1,234 | 2.00 | 3.00 |" in text
    assert "| some | a peer, compiled |  | failed: ended with 1: no compiler |  |" in text


def test_results_stand_in_the_documents_order_and_notes_at_the_end(tmp_path: Path) -> None:
    for name in ("unknown", "start", "sft-lora-8m"):
        (tmp_path / f"{name}.json").write_text(json.dumps(result(name)), encoding="utf-8")
    found = report.read(tmp_path)
    assert [one["name"] for one in found] == ["sft-lora-8m", "start", "unknown"]
    assert report.render(found, "## What did not work\n\nSomething.").endswith("## What did not work\n\nSomething.\n")


def test_results_of_the_same_machine_name_it_once() -> None:
    text = report.render([result("one"), result("two")])
    assert "one (140), two (140):" in text
    assert text.count("a processor") == 1
