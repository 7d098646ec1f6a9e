"""The rehearsal of rounds: its world does what it says, its parts are the product's, and the small tier runs end to end."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest

from tomoni.cli.app import main
from tomoni.errors import ConfigError
from tomoni.feedback.head import Head
from tomoni.loop.rehearse_caution import best_of_weights
from tomoni.loop.rehearse_loop import draws, land_of, practised
from tomoni.loop.rehearse_policy import Land, Seen
from tomoni.loop.rehearse_rounds import FILE, protocol, rehearse
from tomoni.loop.rehearse_ten import Course, Turn, figures, play

QUICK = protocol(quick=True)
CRITERIA = QUICK.form["e8"]["criteria"]


@pytest.fixture(scope="module")
def land() -> Land:
    return land_of(QUICK.form, 900_050)


def test_the_best_of_n_of_a_pool_is_what_drawing_n_of_it_gives() -> None:
    rng = np.random.default_rng(0)
    gold_M = rng.normal(size=16)
    weight_NM = best_of_weights(16, np.array([1, 2, 4, 16]))
    assert weight_NM.sum(1) == pytest.approx(np.ones(4))
    by_score_M = np.argsort(rng.normal(size=16))
    place_M = np.argsort(by_score_M)
    drawn = [max(rng.choice(16, 4, replace=False), key=lambda one: place_M[one]) for _ in range(20_000)]
    assert weight_NM[2] @ gold_M[by_score_M] == pytest.approx(gold_M[drawn].mean(), abs=0.03)
    assert weight_NM[3] @ gold_M[by_score_M] == pytest.approx(gold_M[by_score_M[-1]])


def test_people_without_lapses_agree_on_the_starting_policys_answers_as_often_as_asked(land: Land) -> None:
    rng = np.random.default_rng(0)
    gold_N = land.answers(land.start(), np.repeat(np.arange(land.held_out), 400), rng).gold_A
    p_N = 1 / (1 + np.exp(gold_N[1::2] - gold_N[0::2]))
    assert float((p_N**2 + (1 - p_N) ** 2).mean()) == pytest.approx(0.70, abs=0.02)


def test_a_policy_that_learns_its_own_answers_as_they_come_stays_what_it_is(land: Land) -> None:
    rng, start = np.random.default_rng(1), land.start()
    prompt_N = np.repeat(np.arange(land.held_out), 200)
    own = land.answers(start, prompt_N, rng)
    context_QC = land.context_QC
    same = start.learnt(context_QC[prompt_N], own.x_AL, inertia=1.0, usual_QC=context_QC[: land.held_out])
    assert np.abs(same.mean_CL - start.mean_CL).max() < 0.1
    assert np.abs(same.covariance_LL - start.covariance_LL).max() < 0.1
    assert land.better(same, start, rng, each=400) == pytest.approx(0.5, abs=0.03)


def test_practice_by_a_head_that_knows_makes_answers_better_and_less_varied_and_by_its_reverse_worse(
    land: Land,
) -> None:
    rng, start = np.random.default_rng(2), land.start()
    own = draws(QUICK.form, land, start, rng)
    seen = Seen(own)
    phi_AD = seen.phi(slice(None))
    delta_ND, gap_N = phi_AD[0::2] - phi_AD[1::2], own.gold_A[0::2] - own.gold_A[1::2]
    head = Head.fit(delta_ND, (gap_N > 0).astype(float))
    rates = []
    for sign in (1, -1):
        turned = Head(sign * head.w_D, head.covariance_DD, head.scale, head.labels)
        after = practised(QUICK.form, land, start, seen, turned, {"steps": 3, "care": 0.0}, rng)
        rates.append(land.better(after, start, rng, each=200))
        if sign > 0:
            assert land.diversity(after, rng, each=200) < land.diversity(start, rng, each=200)
    assert rates[0] > 0.6 and rates[1] < 0.4


def test_the_texts_of_numbered_answers_lead_back_to_them(land: Land) -> None:
    seen = Seen(draws(QUICK.form, land, land.start(), np.random.default_rng(3)))
    one = seen.drawn(8)[5]
    known = seen.read([(one.prompt, text) for text in one.texts])
    assert np.array([each.phi_D for each in known]) == pytest.approx(seen.phi(np.arange(40, 48)))
    assert one.prompt[0].content == "prompt 5"


def test_a_course_is_the_same_again() -> None:
    assert play(QUICK.form, 900_001) == play(QUICK.form, 900_001)


def test_what_ten_rounds_show_is_counted_as_it_is_said() -> None:
    """By hand: three promotions, one of them truly worse, which leaves a worse version served for two rounds."""
    turns = [
        Turn("none", True, 0.7, 100, 200, 0.7),
        Turn("coins", False, 0.4, 100, 100, 0.7),
        Turn("reversed", True, 0.4, 100, 300, 0.4),
        Turn("none", False, 0.6, 100, 500, 0.4),
        Turn("none", True, 0.8, 100, 100, 0.75),
    ]
    found = {figure.name: figure for figure in figures([Course(turns, 0.9, 0.85)], CRITERIA, 50)}
    better = found["promotions that are truly better, of 3"]
    assert better.value == pytest.approx(2 / 3) and better.met is False
    missed = found["rounds of 5 that leave a version served which is truly worse than one served before"]
    assert missed.value == 2 and missed.met is False
    assert found["truly worse candidates kept out, of 2"].value == 0.5
    assert found["training labels and the gate's judgements, per point of win rate"].value == pytest.approx(1700 / 40)
    assert found["training labels alone, per point of win rate"].value == pytest.approx(500 / 40)
    assert found["diversity kept after the last round"].met is True
    none = {figure.name: figure for figure in figures([Course(turns[1:2], 0.5, 1.0)], CRITERIA, 50)}
    assert math.isinf(none["training labels alone, per point of win rate"].value)


def test_the_small_tier_runs_end_to_end_and_names_protocol_and_seeds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["rehearse", "rounds", "--quick", "--json", str(tmp_path / "figures.json")]) == 0
    shown = capsys.readouterr().out
    assert QUICK.sha256 in shown and "figures prove nothing" in shown
    assert all(f"\n{experiment} " in shown for experiment in ("E1", "E5", "E8"))


def test_the_protocol_is_hashed_as_it_stands() -> None:
    assert protocol().sha256 == hashlib.sha256(Path(FILE).read_bytes()).hexdigest()
    assert len(protocol().seeds("numbers")) == 20


def test_what_is_not_there_is_refused_with_what_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="E7"):
        next(rehearse(QUICK, ["E7"]))
    assert main(["rehearse", "rounds", "--tier", "tiny"]) == 2
    assert "numbers" in capsys.readouterr().err


@pytest.mark.slow
def test_the_loop_is_ahead_of_offline_training_and_caution_keeps_the_peak() -> None:
    found = {figure.name: figure for figure in rehearse(protocol(), ["E1", "E5"])}
    assert all(figure.met for name, figure in found.items() if "over those of the loop (vopt)" in name)
    assert found["200 labels, cautious: gold of the best of 4096 over that at the peak"].met


@pytest.mark.slow
def test_the_small_tier_with_a_model_plays_a_round_of_a_workspace() -> None:
    found = [figure.name for figure in rehearse(QUICK, tier="model")]
    assert any(name.startswith("model, seed 900000, round 1") for name in found)
    assert "diversity kept after the last round" in found
    assert "model, loop: win rate over the start after 40 labels" in found
    assert any(name.startswith("model, labels of offline training at 40 over those of the loop") for name in found)
