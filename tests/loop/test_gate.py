"""The gate: evidence by enumeration and integrals, and what it decides."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from tomoni.cli.app import main
from tomoni.loop.gate import (
    MOST_BET,
    Blind,
    Probe,
    Rules,
    at_equal_length,
    decide,
    log_evidence,
    log_not_worse,
    log_worse,
    shown_rate,
    uniform_evidence,
    units,
)
from tomoni.loop.rehearse_gate import fixed_size


def plain(n: int, rate: float, seed: int = 0, people: int = 5, **how: float) -> list[Blind]:
    rng = np.random.default_rng(seed)
    return [Blind(f"質問{i}", f"p{i % people}", float(rng.random() < rate), **how) for i in range(n)]  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [(0.0, 1.0), (0.0, 0.5, 1.0)])
def test_the_expected_evidence_of_a_candidate_that_is_not_better_is_one_whatever_the_trust(
    values: tuple[float, ...],
) -> None:
    trust = np.array([1.0, 0.3, 2.0, 0.7, 1.4, 1.0])
    whole = [np.exp(log_evidence(np.array(x), trust)[-1]) for x in itertools.product(values, repeat=6)]
    assert np.mean(whole) == pytest.approx(1, abs=1e-12)


def test_without_ties_a_bet_is_the_likelihood_ratio() -> None:
    x = np.array([1.0, 1, 0, 1, 0])
    found = log_evidence(x, np.ones(5), win_rates=[0.7], trust=[1.0])
    ratio = np.cumsum(np.log(np.where(x == 1, 0.7 / 0.5, 0.3 / 0.5)))
    assert found == pytest.approx(ratio)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 1), (60, 40), (3, 30)])
def test_the_mixture_without_a_guess_is_the_integral_over_all_win_rates(wins: int, losses: int) -> None:
    n = wins + losses
    area, _ = integrate.quad(
        lambda p: 2 * p**wins * (1 - p) ** losses * 2.0**n, 0.5, 1, points=[max(0.5, wins / max(n, 1))]
    )
    assert uniform_evidence(wins, losses) == pytest.approx(math.log(area), rel=1e-6, abs=1e-9)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.floats(0, 2)), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_no_sequence_of_answers_loses_everything_or_breaks(told: list[tuple[float, float]]) -> None:
    x, trust = np.array([one[0] for one in told]), np.array([one[1] for one in told])
    path = log_evidence(x, trust)
    assert np.isfinite(path).all() and path.min() >= len(told) * math.log(1 - MOST_BET / 2) - 1e-9
    assert log_evidence(np.full(len(x), 0.5), trust) == pytest.approx(np.zeros(len(x)))


def test_looking_after_every_answer_promotes_no_more_than_the_promised_share() -> None:
    rng = np.random.default_rng(3)
    x = (rng.random((4000, 400)) < 0.5).astype(float)
    wrong = (log_evidence(x, np.ones_like(x)) >= math.log(20)).any(1).mean()
    assert 0.005 < wrong < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)


def test_what_rounds_may_spend_sums_to_alpha() -> None:
    spent = sum(Rules().alpha_of(round_) for round_ in range(1, 200_000))
    assert spent == pytest.approx(0.05, abs=1e-5) and spent < 0.05


def test_two_orders_of_one_prompt_make_one_unit_once_both_are_there() -> None:
    both = [Blind("a", "p", 1.0, 0.8, orders=2), Blind("b", "q", 0.0), Blind("a", "q", 0.0, 0.6, orders=2)]
    found = units(both, Rules())
    assert [(one.x, one.answers) for one in found] == [(0.0, 1), (0.5, 2)]
    assert found[1].trust == pytest.approx(2 * 0.7)
    assert units(both[:2], Rules())[0].x == 0.0 and len(units(both[:2], Rules())) == 1


def test_one_person_cannot_give_more_than_a_share_of_what_counts() -> None:
    flood = [Blind(f"x{i}", "flooder" if i % 5 else "other", 1.0) for i in range(200)]
    found = units(flood, Rules(share=0.5))
    assert len(found) == pytest.approx(2 * 40, abs=8)
    alone = [replace(one, person="owner") for one in flood]
    assert len(units(alone, Rules())) == 200  # a single judge is nobody's flood


def test_unreliable_and_reversed_people_move_nothing() -> None:
    coins = plain(100, 0.9, reliability=0.0)
    assert decide(coins).log_evidence == pytest.approx(0)
    assert decide([replace(one, reliability=-0.8) for one in coins]).verdict == "undecided"
    assert decide([replace(one, reliability=1.0) for one in coins]).verdict == "promote"


def test_a_better_candidate_is_promoted_and_a_worse_one_is_kept_back() -> None:
    found = decide(plain(120, 0.75))
    assert found.verdict == "promote" and found.reasons[0].key == "ahead" and found.more is None
    assert found.rate.low < 0.75 < found.rate.high
    worse = decide(plain(120, 0.35))
    assert worse.verdict == "keep" and worse.reasons[0].key == "futile"


def test_a_few_answers_decide_nothing_however_clear() -> None:
    found = decide(plain(12, 1.0))
    assert found.verdict == "undecided" and found.reasons[0].key in ("few", "ahead")
    assert decide([]).verdict == "undecided" and decide([]).rate.value == 0.5


def test_what_is_proved_once_stays_proved_and_later_rounds_ask_for_more() -> None:
    answers = plain(80, 0.75)
    assert decide(answers).verdict == "promote"
    turned = [*answers, *[replace(one, prompt=one.prompt + "x", x=0.5) for one in answers]]
    assert decide(turned).log_evidence >= decide(answers).log_evidence
    assert decide(answers, round_=5).needed == pytest.approx(math.log(25 * math.pi**2 / 0.3))


def test_about_how_many_more_is_about_right() -> None:
    ratios = []
    for seed in range(60):
        answers = plain(600, 0.65, seed)
        early = decide(answers[:25])
        if early.verdict != "undecided" or early.more is None:
            continue
        x = np.array([one.x for one in answers])
        hit = np.flatnonzero(log_evidence(x, np.ones(600)) >= early.needed)
        ratios.append(early.more / max(int(hit[0]) + 1 - 25, 1) if len(hit) else 0.0)
    assert 0.4 < np.median(ratios) < 2.5 and len(ratios) > 30


def test_the_cap_ends_it() -> None:
    drawn = [Blind(f"q{i}", f"p{i % 4}", float(i % 2)) for i in range(90)]
    found = decide(drawn, rules=Rules(cap=80, beta=1e-6))
    assert found.verdict == "keep" and found.reasons[-1].key == "at_the_cap"


def test_a_candidate_that_wins_by_length_alone_is_not_promoted() -> None:
    rng = np.random.default_rng(0)
    answers = []
    for i in range(300):
        longer = rng.normal(1.0, 1.0)
        answers.append(
            Blind(f"q{i}", f"p{i % 5}", float(rng.random() < 1 / (1 + math.exp(-2 * math.tanh(longer)))), length=longer)
        )
    found = decide(answers)
    assert found.log_evidence > found.needed and found.equal_length.low < 0.5
    assert found.verdict != "promote" and "length" in {one.key for one in found.reasons}
    honest = decide([replace(one, x=float(rng.random() < 0.75)) for one in answers])
    assert honest.verdict == "promote" and honest.equal_length.value == pytest.approx(0.75, abs=0.1)


def test_the_length_controlled_rate_is_that_of_the_world_it_was_made_in() -> None:
    rng = np.random.default_rng(1)
    length = rng.normal(0.8, 1.0, 6000)
    p = 1 / (1 + np.exp(-(0.4 + 1.1 * np.tanh(length))))
    answers = [Blind(str(i), str(i % 7), float(rng.random() < p[i]), length=float(length[i])) for i in range(6000)]
    found = at_equal_length(units(answers, Rules()))
    assert found.value == pytest.approx(1 / (1 + math.exp(-0.4)), abs=0.025)
    assert shown_rate(answers).value > found.value + 0.08


def probes(n: int, before: int = 0, now: int = 0) -> list[Probe]:
    return [Probe(f"s{i}", i < before, i < now) for i in range(n)]


def test_three_hundred_probes_without_a_difference_show_that_it_is_not_worse_by_a_point() -> None:
    # at the largest bet a probe without a difference adds ln(1 + .999 * .01 / .99); the mixture has four bets
    by_hand = math.log(np.mean([(1 + share * 0.999 * 0.01 / 0.99) ** 299 for share in (0.1, 0.3, 0.6, 1.0)]))
    assert log_not_worse(probes(299), 0.01) == pytest.approx(by_hand, rel=1e-9)
    assert log_not_worse(probes(200), 0.01) < math.log(20) < log_not_worse(probes(450), 0.01)


def test_a_model_that_is_worse_by_a_point_is_hardly_ever_shown_to_be_no_worse() -> None:
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        bad = rng.random(600) < 0.05
        now = np.where(bad, rng.random(600) < 0.9, rng.random(600) < 0.015 / 0.95)  # .05 -> .06
        wrong += log_not_worse([Probe(str(i), bool(bad[i]), bool(now[i])) for i in range(600)], 0.01) >= math.log(20)
    assert wrong / 400 <= 0.05
    assert log_worse(probes(300, 5, 40)) > math.log(20) > log_worse(probes(300, 5, 8))


@pytest.mark.parametrize(
    ("how", "verdict", "key"),
    [
        ({"probes": probes(500)}, "promote", "ahead"),
        ({"probes": probes(200)}, "undecided", "safety_unproven"),
        ({"probes": probes(500, 2, 60)}, "keep", "safety_worse"),
        ({"probes": [*probes(500), Probe("毒", False, True, hard=True)]}, "keep", "hard_case"),
        ({"capability": {"計算": [0.5 + 0.01 * (i % 3) for i in range(30)]}}, "keep", "capability_worse"),
        ({"capability": {"計算": [0.5 * (-1) ** i for i in range(30)]}}, "promote", "ahead"),
    ],
)
def test_safety_and_ability_block_whatever_people_prefer(how: dict[str, object], verdict: str, key: str) -> None:
    found = decide(plain(150, 0.75), **how)  # type: ignore[arg-type]
    assert found.verdict == verdict and key in {one.key for one in found.reasons}


def test_a_candidate_that_loses_one_topic_is_kept_back_for_it() -> None:
    answers = [replace(one, topic="駅") for one in plain(150, 0.85)]
    answers += [replace(one, prompt=one.prompt + "b", topic="値段") for one in plain(40, 0.1, 1)]
    found = decide(answers)
    assert found.log_evidence > found.needed and found.verdict == "keep"
    assert [(one.key, one.about) for one in found.reasons if one.key == "topic_worse"] == [("topic_worse", "値段")]


def test_the_fixed_size_it_is_held_against_is_the_textbooks() -> None:
    # SCIENCE's table by the normal approximation: 153 for 80 % and 211 for 90 % at .60, 37 at .70
    assert fixed_size(0.60, 0.80, 0.05) == pytest.approx(153, abs=8)
    assert fixed_size(0.60, 0.90, 0.05) == pytest.approx(211, abs=10)
    assert fixed_size(0.70, 0.80, 0.05) == pytest.approx(37, abs=4)


def test_the_small_tier_of_the_gates_rehearsal_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rehearse", "gate", "--quick"]) == 0
    said = capsys.readouterr().out
    assert "false promotions" in said and "NOT met: at most 0.05" not in said
