"""Turns, medians, ratios, and what counts as the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import Bench
from bench.turns import (
    Failed,
    Outcome,
    Pair,
    Pythons,
    Side,
    in_turn,
    once,
    parted,
    ratios,
    same_answers,
    same_losses,
    same_updates,
    summary,
)
from bench.workloads import Size, Workload

HERE = Pythons(sys.executable, sys.executable)


def quiet(text: str) -> None:
    pass


def test_sides_take_turns() -> None:
    ran: list[str] = []

    def run(side: Side) -> Outcome:
        ran.append(side.name)
        return {"seconds": float(len(ran))}

    found, failed = in_turn([Side("A", True), Side("B", False)], run, repeats=3, tell=quiet)
    assert ran == ["A", "B", "A", "B", "A", "B"]
    assert [outcome["seconds"] for outcome in found["B"]] == [2, 4, 6]
    assert not failed


def test_a_side_that_fails_is_left_out_and_said_and_the_others_go_on() -> None:
    def run(side: Side) -> Outcome:
        if side.name == "B":
            raise Failed("ended with 1: no such option")
        return {"seconds": 1.0}

    found, failed = in_turn([Side("A", True), Side("B", False)], run, repeats=2, tell=quiet)
    assert len(found["A"]) == 2
    assert "B" not in found
    assert failed == {"B": "ended with 1: no such option"}


def test_medians_are_over_turns_and_tokens_per_second_over_the_median() -> None:
    outcomes = [
        {"seconds": seconds, "whole_seconds": seconds + 1, "peak_bytes": 10, "tokens": 60, "losses": [2.0, 1.0]}
        for seconds in (3.0, 30.0, 2.0)
    ]
    found = summary(outcomes)
    assert (found["seconds"], found["fastest"], found["slowest"]) == (3.0, 2.0, 30.0)
    assert found["tokens_per_second"] == 20
    assert (found["steps"], found["first_loss"], found["last_loss"]) == (2, 2.0, 1.0)


def test_ratios_are_taken_turn_by_turn() -> None:
    # the machine becomes ten times slower after the first turn, for both: we stay twice as fast
    ours = [{"seconds": seconds, "tokens": 100, "peak_bytes": 1} for seconds in (1.0, 10.0, 10.0)]
    peer = [{"seconds": seconds, "tokens": 100, "peak_bytes": 4} for seconds in (2.0, 20.0, 30.0)]
    assert ratios(ours, peer) == {"speed": 2.0, "speed_least": 2.0, "speed_most": 3.0, "memory": 0.25}


@pytest.mark.parametrize(
    ("theirs", "equal"),
    [
        ([3.0, 2.0005], True),
        ([3.0, 2.002], False),
        ([3.0], False),
        ([3.0, float("nan")], False),
    ],
)
def test_losses_are_the_same_within_a_thousandth_at_every_step(theirs: list[float], equal: bool) -> None:
    assert same_losses([3.0, 2.0], theirs).equal is equal


def test_no_losses_are_not_the_same() -> None:
    assert not same_losses([], []).equal


@pytest.mark.parametrize(
    ("losses", "grad_norms", "equal"),
    [
        ([0.0, 0.5], [1.0, 200.0], True),
        ([0.0, 0.5], [1.0, 200.1], True),  # a two-thousandth of the longest gradient
        ([0.0, 0.5], [1.0, 201.0], False),
        ([0.1, 0.5], [1.0, 200.0], False),
        ([0.0, 0.5], [1.0], False),
        ([0.0, 0.5], [1.0, float("nan")], False),
        ([0.0, 0.5], [], False),  # a trainer that logged none
    ],
)
def test_updates_are_the_same_where_losses_and_gradients_are(
    losses: list[float], grad_norms: list[float], equal: bool
) -> None:
    ours = {"losses": [0.0, 0.5], "grad_norms": [1.0, 200.0]}
    assert same_updates(ours, {"losses": losses, "grad_norms": grad_norms}).equal is equal


def test_two_sides_that_did_not_learn_are_not_the_same() -> None:
    still = {"losses": [0.0], "grad_norms": [0.0]}
    assert not same_updates(still, still).equal


def test_sampled_items_are_counted_not_their_tokens() -> None:
    ours = [{"seconds": 2.0, "items": 64, "unit": "completions", "tokens": 900, "peak_bytes": 1}]
    peer = [{"seconds": 6.0, "items": 64, "unit": "completions", "tokens": 1200, "peak_bytes": 2}]
    assert ratios(ours, peer)["speed"] == 3.0
    found = summary(ours)
    assert (found["items_per_second"], found["unit"]) == (32.0, "completions")


def test_the_first_place_where_answers_part_is_found() -> None:
    assert parted([[1, 2, 3], [4, 5], [6]], [[1, 2, 3], [4, 9], [6, 7]]) == [(1, 1), (2, 1)]


def no_gaps(parted: list[tuple[int, int]]) -> list[float]:
    raise AssertionError("equal answers ask nothing of the model")


def test_equal_answers_are_the_same() -> None:
    assert same_answers([[1, 2]], [[1, 2]], no_gaps).equal


@pytest.mark.parametrize(("gap", "equal"), [(1e-6, True), (1e-2, False)])
def test_answers_may_part_where_the_model_ties(gap: float, equal: bool) -> None:
    assert same_answers([[1, 2], [3, 4]], [[1, 2], [3, 5]], lambda parted: [gap]).equal is equal


def test_answers_of_different_lengths_are_not_the_same() -> None:
    assert not same_answers([[1, 2]], [[1]], no_gaps).equal


def test_a_process_is_timed_and_its_memory_measured(tmp_path: Path) -> None:
    hungry = Side("hungry", True, command=("{python}", "-c", "x = bytearray(200 << 20)"))
    outcome = once(hungry, HERE, tmp_path, threads=1)
    assert outcome["whole_seconds"] > 0
    assert outcome["peak_bytes"] > 200 << 20


def test_a_process_gets_its_threads_and_empty_caches(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; assert os.environ['OMP_NUM_THREADS'] == '3'; "
        "folder = pathlib.Path(os.environ['TORCHINDUCTOR_CACHE_DIR']); assert not folder.exists(); folder.mkdir()"
    )
    for _ in range(2):
        once(Side("looks", True, command=("{python}", "-c", code)), HERE, tmp_path, threads=3)


def test_a_process_that_ends_badly_says_its_last_line(tmp_path: Path) -> None:
    side = Side("bad", True, command=("{python}", "-c", "raise SystemExit('the model is not there')"))
    with pytest.raises(Failed, match="ended with 1: the model is not there"):
        once(side, HERE, tmp_path, threads=1)


def test_a_peers_process_runs_in_the_peers_environment() -> None:
    pythons: Any = Pythons("ours", "theirs")
    assert pythons.of(Side("A", True)) == "ours"
    assert pythons.of(Side("B", False)) == "theirs"


def test_where_the_longer_comparison_fails_what_was_measured_is_kept_and_not_called_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = {name: Side(name, name == "ours", "script") for name in ("ours", "theirs")}
    told = tuple(Side(f"{name}, told", name == "ours", "script") for name in side)
    workload = Workload("w", "W", "", tuple(side.values()), (Pair("ours", "theirs", 3.0, 0.5, "updates"),), longer=told)

    def run(self: Bench, one: Side) -> dict[str, float]:
        if one.name == "theirs, told":
            raise Failed("ended with 137: killed")
        return {"seconds": 2.0 if one.name == "ours" else 6.0, "peak_bytes": 4.0, "rate": 1e11}

    monkeypatch.setattr(Bench, "run", run)
    bench = Bench(tmp_path, Size(repeats=1), Pythons(sys.executable, sys.executable), 1, tried=False)
    assert not bench.measure(workload, tmp_path)
    (pair,) = json.loads((tmp_path / "w.json").read_text(encoding="utf-8"))["pairs"]
    assert pair["speed"] == 3.0 and pair["equal"] is False and "killed" in pair["said"]
