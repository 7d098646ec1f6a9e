"""The rehearsal of the gate: that it plays the gate as it is, and that its protocol is what it says."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from tomoni.cli.app import main
from tomoni.loop.evidence import Evidence, Judge, Said
from tomoni.loop.gate import Settings, decide
from tomoni.loop.rehearse_gate import FILE, Arm, Run, course, fixed_size, protocol, rehearse, run, world

QUICK = protocol(quick=True)


@pytest.mark.parametrize("arm", ["plain", "head", "crowd"])
@pytest.mark.parametrize("null", [True, False])
def test_a_course_is_the_gate_asked_after_every_judgement(arm: Arm, null: bool) -> None:
    pairs, _ = world(QUICK, arm, 900_100, null=null)
    pairs = pairs[:120]
    alpha = 0.05
    settings = replace(QUICK.settings, most=120, alpha=alpha * math.pi**2 / 6)
    outcome, n = course(pairs, -math.log(alpha), settings)
    said = [
        Said(place + 1, pair.pair, f"k{place}", pair.x, dlen=pair.dlen, expected=pair.expected, elsewhere=pair.elsewhere)
        for place, pair in enumerate(pairs)
    ]  # fmt: skip
    judges = {f"k{place}": Judge(pair.bet, 0) for place, pair in enumerate(pairs)}
    for end in range(1, n + 1):
        decision = decide(Evidence(said[:end], judges), settings)
        assert decision.outcome == (outcome if end == n else "undecided"), (end, n)


def test_the_fixed_size_test_is_that_of_the_textbook() -> None:
    assert fixed_size(0.6, 0.05, 0.8) == pytest.approx(153, abs=1)
    assert fixed_size(0.6, 0.05, 0.9) == pytest.approx(211, abs=1)


def test_the_worlds_are_what_the_protocol_says() -> None:
    for arm, null, rate in (("plain", True, 0.5), ("plain", False, 0.6), ("head", False, 0.6)):
        drawn = [world(QUICK, cast(Arm, arm), seed, null=null)[0] for seed in range(900_000, 900_040)]
        x_N = np.array([pair.x for pairs in drawn for pair in pairs])
        assert x_N.mean() == pytest.approx(rate, abs=4 * 0.5 / math.sqrt(len(x_N)))
    head = [pair for seed in range(900_000, 900_010) for pair in world(QUICK, "head", seed, null=False)[0]]
    gap_N = np.array([cast(float, pair.expected) - cast(float, pair.elsewhere) for pair in head])
    assert abs(gap_N.mean()) < 4 * gap_N.std() / math.sqrt(len(gap_N))  # the control variate has no mean of its own


def test_a_run_is_the_same_again() -> None:
    assert run(QUICK, "crowd", 900_001, null=False) == run(QUICK, "crowd", 900_001, null=False)


def test_the_protocol_is_hashed_as_it_stands() -> None:
    assert protocol().sha256 == hashlib.sha256(Path(FILE).read_bytes()).hexdigest()
    assert protocol().form["seeds"]["nulls"] == 2000


def test_the_quick_tier_runs_and_a_z_test_that_is_looked_at_errs_more() -> None:
    figures = {figure.name: figure for figure in rehearse(QUICK)}
    peeking = figures["z-test looked at after every judgement: false promotions"].value
    assert peeking > 0.15 > figures["plain: false promotions"].value
    assert figures["plain: better ones promoted"].value > 0.5
    assert isinstance(run(QUICK, "plain", 1, null=True), Run) and isinstance(QUICK.settings, Settings)


def test_the_verb_names_protocol_and_seeds(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["rehearse", "gate", "--quick", "--json", str(tmp_path / "figures.json")]) == 0
    shown = capsys.readouterr().out
    assert QUICK.sha256 in shown and "figures prove nothing" in shown
    assert (tmp_path / "figures.json").stat().st_size > 500
