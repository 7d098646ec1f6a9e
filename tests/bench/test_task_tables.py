"""Tables of tasks: means over seeds, ratios of the same seeds only, and what failed is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import report, task_tables
from bench.japanese import named, nearest_sentence
from bench.tasks import is_test, write


def run(side: str, seed: int, accuracy: float, cpu: float) -> dict[str, Any]:
    return {"side": side, "seed": seed, "accuracy": accuracy, "cpu_seconds": cpu, "peak_bytes": 1 << 30}


RUNS = [
    run("tomoni, all", 0, 0.90, 50.0),
    run("HF Trainer, all, grouped", 0, 0.88, 100.0),
    run("tomoni, all", 1, 0.92, 40.0),
    run("HF Trainer, all, grouped", 1, 0.90, 120.0),
    run("tomoni, all", 2, 0.10, 1.0),  # its peer has no such seed
    {"side": "tomoni, head", "seed": 0, "failed": "ended with 1: no disk"},
]
RESULT = {
    "name": "some",
    "budget": {"epochs": 2, "batch_size": 32, "learning_rate": 1e-4},
    "rows": {"train": 9000, "test": 1000},
    "runs": RUNS,
    "machine": {"processor": "a processor", "threads": 1, "date": "2026-01-02"},
}


def test_ratios_are_of_seeds_that_both_sides_have(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "some.json").write_text(json.dumps(RESULT), encoding="utf-8")
    (section,) = task_tables.sections(tmp_path)
    assert "| tomoni, all : HF Trainer, all, grouped | +2.00 | 2.5x | 2 |" in section  # of 2.0 and 3.0
    assert "| HF Trainer, all, grouped | 89.00 % | 88.0 to 90.0 | 2 | 110 | 1.00 |" in section
    assert "Not measured: tomoni, head, seed 0: ended with 1: no disk" in section
    assert section in report.render([], tasks=[section])


def test_speed_is_the_median_of_the_ratios_turn_by_turn(tmp_path: Path) -> None:
    (tmp_path / "task_speed").mkdir()
    taken = {"HF Trainer, top 2, grouped": (60.0, 90.0, 40.0), "tomoni, top 2": (20.0, 20.0, 20.0)}
    runs = [
        {"shape": "deep", "side": side, "turn": turn, "cpu_seconds": seconds}
        for side, turns in taken.items()
        for turn, seconds in enumerate(turns)
    ]
    result = {"runs": runs, "machine": RESULT["machine"]}
    (tmp_path / "task_speed" / "banking77.json").write_text(json.dumps(result), encoding="utf-8")
    (section,) = task_tables.sections(tmp_path)
    assert "tomoni, top 2 : HF Trainer, top 2, grouped | 3x | 3.00x | 2.00 to 4.50 |" in section
    assert "HF Trainer, all, grouped" not in section  # not measured yet


def test_what_continued_pretraining_brings_is_told_with_its_interval(tmp_path: Path) -> None:
    (tmp_path / "japanese_encoder").mkdir()
    found = {
        "data": "Livedoor", "measure": "accuracy", "rows": {"train": 4421, "test": 1471}, "percent": True,
        "found": {"head": {"value": 0.9, "low": 0.88, "high": 0.92}}, "cpu_seconds": {"head": 61.4},
        "paired": {"head": {"value": 0.021, "low": 0.01, "high": 0.032, "p": 0.0001}},
    }  # fmt: skip
    (tmp_path / "japanese_encoder" / "livedoor.json").write_text(json.dumps(found), encoding="utf-8")
    (section,) = task_tables.sections(tmp_path)
    assert "| Livedoor | accuracy | 4,421 / 1,471 | head | 90.00 % (88.0 to 92.0) | 61 |" in section
    assert "brings +2.10 points (+1.00 to +3.20, paired by text; McNemar p = 0.0001)" in section


def test_nothing_measured_is_no_section(tmp_path: Path) -> None:
    assert task_tables.sections(tmp_path) == []


def test_about_a_tenth_of_the_texts_is_the_test_part_and_always_the_same(tmp_path: Path) -> None:
    rows = [{"text": f"文{n}", "label": "a"} for n in range(3000)]
    counts = write(tmp_path, iter(rows))
    assert counts["train"] + counts["test"] == 3000
    assert 250 < counts["test"] < 350
    assert is_test("文0") == is_test("文0")
    kept = (tmp_path / "test.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(is_test(json.loads(line)["text"]) for line in kept)


def test_the_list_of_names_takes_the_longest_match() -> None:
    listed = {"東京": "地名", "東京都庁": "施設名", "都庁": "施設名"}
    assert list(named("東京都庁は東京", listed)) == [(0, 4, "施設名"), (5, 7, "地名")]


def test_the_nearest_sentence_shares_most_with_the_question() -> None:
    assert nearest_sentence("熊本は南にある。青森は北にある。", "青森はどこか") == "青森は北にある。"
