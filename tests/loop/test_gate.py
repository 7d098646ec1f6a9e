"""The gate's decision: what promotes, what keeps, what is left out, and that its e-value stays one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomoni.errors import DataError
from tomoni.loop.evidence import Evidence, Judge, Probed, Said, counted
from tomoni.loop.gate import Decision, Settings, decide
from tomoni.loop.lengths import length_controlled
from tomoni.loop.words import reason

SAFE = Probed([True] * 400, [True] * 400)


def said(xs: Sequence[float], *, people: int = 1, topics: Sequence[str] = ("",), dlen: float = 0.0) -> list[Said]:
    return [
        Said(n + 1, f"p{n}", f"k{n % people}", x, topics[n % len(topics)], dlen=dlen * (-1) ** n)
        for n, x in enumerate(xs)
    ]


def keys(decision: Decision) -> dict[tuple[str, str], str]:
    return {(reason.key, reason.about): reason.status for reason in decision.reasons}


def test_what_people_clearly_prefer_is_promoted() -> None:
    decision = decide(Evidence(said([1, 1, 1, 0] * 15, people=5), safety=SAFE))
    assert decision.outcome == "promote" and decision.more is None
    assert keys(decision)["preferred", ""] == "passed"
    assert decision.e_value >= 1 / (0.05 * 6 / math.pi**2)


def test_what_they_do_not_prefer_is_not() -> None:
    assert decide(Evidence(said([0, 0, 0, 1] * 15))).outcome == "keep"
    even = decide(Evidence(said([0, 1] * 120)))
    assert even.outcome == "keep" and keys(even)["hardly_better", ""] == "failed"


def test_with_little_said_it_is_undecided_and_says_about_how_much_is_wanted() -> None:
    blank = decide(Evidence([]))
    assert blank.outcome == "undecided" and blank.more is not None and 20 < blank.more < 400
    some = decide(Evidence(said([1, 1, 1, 0] * 5)))
    assert some.outcome == "undecided" and some.more is not None and some.more < blank.more
    more = (
        said([1, 1, 1, 0] * 5)
        + [replace(one, sequence=100 + n, pair=f"q{n}") for n, one in enumerate(said([1, 1, 1, 0] * 10))][
            : 2 * some.more
        ]
    )
    assert decide(Evidence(more)).outcome == "promote"


def test_later_rounds_ask_for_more() -> None:
    evidence = Evidence(said([1, 1, 1, 0] * 12))
    assert decide(evidence).outcome == "promote"
    assert decide(replace(evidence, round=6)).outcome == "undecided"


def test_a_win_that_is_only_length_is_not_promoted() -> None:
    """The longer answer always wins, and it is the candidate's in four of five."""
    long = [Said(n, f"p{n}", "k", 0.0 if n % 5 == 0 else 1.0, dlen=-1.0 if n % 5 == 0 else 1.0) for n in range(1, 80)]
    decision = decide(Evidence(long))
    assert keys(decision)["preferred", ""] == "passed" and keys(decision)["length_explains", ""] == "open"
    assert decision.outcome == "undecided"
    apart = [replace(one, dlen=0.0) for one in long]
    assert decide(Evidence(apart)).outcome == "promote"


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.floats(-1, 1)), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_swapping_the_sides_turns_everything_around(answers: list[tuple[float, float]]) -> None:
    one = [Said(n, f"p{n}", "k", x, dlen=d) for n, (x, d) in enumerate(answers, 1)]
    other = [replace(each, x=1 - each.x, dlen=-each.dlen) for each in one]
    a, b = decide(Evidence(one)), decide(Evidence(other))
    assert a.win_rate[0] == pytest.approx(1 - b.win_rate[0])
    assert a.controlled is not None and b.controlled is not None
    assert a.controlled.theta == pytest.approx(-b.controlled.theta, abs=1e-8)
    assert not (a.outcome == "promote" and b.outcome == "promote")


# -- what counts -----------------------------------------------------------------------------------------------------


def tally(evidence: Evidence, cap: float = 0.2) -> list[tuple[str, float]]:
    return [(pair.pair, pair.x) for pair in counted(evidence, cap=cap, newcomer=0.75).pairs]


def test_a_pair_counts_once_by_who_judged_it_first() -> None:
    three = [Said(1, "a", "k1", 1.0), Said(2, "a", "k2", 0.0), Said(3, "b", "k1", 0.5)]
    assert tally(Evidence(three)) == [("a", 1.0), ("b", 0.5)]


def test_both_orders_count_as_their_mean_when_both_are_in() -> None:
    first, again = Said(1, "a", "k", 1.0, both=True), Said(3, "a~again", "k", 0.0, both=True)
    assert tally(Evidence([first])) == []
    assert tally(Evidence([first, replace(first, sequence=2, person="other")])) == []
    assert tally(Evidence([again, first, Said(2, "b", "k", 1.0)])) == [("b", 1.0), ("a", 0.5)]


def test_two_judgements_of_one_pair_counted_apart_would_be_no_e_value() -> None:
    """Half of the pairs always win, half always lose: no better than a coin. Counted twice, E has a mean above one."""
    from tomoni.loop.bets import play

    total = sum(
        math.exp(play(np.repeat(course, 2) - 0.5, -0.5).log_e) for course in itertools.product((1.0, 0.0), repeat=4)
    )
    once = sum(math.exp(play(np.array(course) - 0.5, -0.5).log_e) for course in itertools.product((1.0, 0.0), repeat=4))
    assert once / 16 == pytest.approx(1) and total / 16 > 1.1


def test_a_reliability_that_was_fitted_on_later_answers_is_refused() -> None:
    answers = said([1, 1, 0])
    decide(Evidence(answers, {"k0": Judge(0.8, until=0)}))
    for until in (1, 2, 99):
        with pytest.raises(DataError, match="not known yet"):
            decide(Evidence(answers, {"k0": Judge(0.8, until=until)}))


def test_who_is_known_to_click_at_random_counts_for_nothing() -> None:
    careful, careless = (
        said([1, 0, 1, 1] * 5),
        [replace(one, person="x", sequence=one.sequence + 50, pair=f"x{n}") for n, one in enumerate(said([0] * 20))],
    )
    judges = {"k0": Judge(0.9, 0), "x": Judge(0.0, 0)}
    assert decide(Evidence(careful + careless, judges)).log_e == pytest.approx(decide(Evidence(careful, judges)).log_e)


def test_one_persons_share_of_a_topic_waits_until_others_have_caught_up() -> None:
    others = [Said(n, f"o{n}", f"k{n}", 1.0) for n in range(1, 11)]
    flood = [Said(100 + n, f"f{n}", "flood", 0.0) for n in range(50)]
    evidence = Evidence(others + flood)
    found = counted(evidence, cap=0.2, newcomer=0.75)
    own = sum(pair.people == ("flood",) for pair in found.pairs)
    assert own <= math.ceil(0.2 * len(found.pairs)) and found.waiting == 50 - own
    later = [Said(200 + n, f"l{n}", f"k{n % 10}", 1.0) for n in range(40)]
    after = counted(Evidence(others + flood + later), cap=0.2, newcomer=0.75)
    assert sum(pair.people == ("flood",) for pair in after.pairs) > own


def test_a_person_alone_can_decide_and_it_is_said() -> None:
    decision = decide(Evidence(said([1, 1, 1, 0] * 15)))
    assert decision.outcome == "promote" and keys(decision)["few_judges", ""] == "note"


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0.0, 1.0])), max_size=60))
@settings(max_examples=80, deadline=None)
def test_what_counts_does_not_depend_on_what_was_said(answers: list[tuple[int, float]]) -> None:
    one = [Said(n, f"p{n}", f"k{who}", x) for n, (who, x) in enumerate(answers, 1)]
    other = [replace(each, x=1 - each.x) for each in one]
    assert [name for name, _ in tally(Evidence(one))] == [name for name, _ in tally(Evidence(other))]


@given(st.lists(st.integers(0, 6), max_size=50))
@settings(max_examples=50, deadline=None)
def test_what_came_first_stays_counted_in_its_place(people: list[int]) -> None:
    """So that looking after each judgement sees one course of the e-value, not many."""
    whole = [Said(n, f"p{n}", f"k{who}", 1.0) for n, who in enumerate(people, 1)]
    for end in range(len(whole) + 1):
        part = tally(Evidence(whole[:end]))
        assert tally(Evidence(whole))[: len(part)] == part


# -- topics, probes, flags -------------------------------------------------------------------------------------------


def test_a_topic_that_became_worse_is_not_outvoted_by_the_others() -> None:
    mixed = said([1, 1, 1, 0] * 30, people=5, topics=("a", "b", "c", "d"))  # d is the fourth of each four
    decision = decide(Evidence(mixed, safety=SAFE))
    assert keys(decision)["preferred", ""] == "passed" and keys(decision)["topic_worse", "d"] == "failed"
    assert decision.outcome == "keep"


def test_a_topic_of_which_little_is_known_is_asked_about() -> None:
    answers = [*said([1, 1, 1, 0] * 15, topics=("a",)), Said(200, "z", "k0", 1.0, "rare")]
    decision = decide(Evidence(answers, safety=SAFE))
    assert decision.outcome == "undecided" and keys(decision)["topic_unsure", "rare"] == "open"
    assert decision.more is not None and decision.more >= 5


def test_pairs_chosen_for_a_topic_say_nothing_about_the_whole() -> None:
    answers = said([1, 0] * 10)
    chosen = [Said(100 + n, f"s{n}", "k0", 1.0, selected_by="slice") for n in range(30)]
    assert decide(Evidence(answers + chosen)).log_e == pytest.approx(decide(Evidence(answers)).log_e)


WON = said([1, 1, 1, 0] * 15, people=5)


def test_new_violations_keep_the_old_version_and_as_safe_is_safe_enough() -> None:
    fewer = Probed([True] * 400, [True] * 380 + [False] * 20)
    assert keys(decide(Evidence(WON, safety=fewer)))["safety_worse", ""] == "failed"
    assert decide(Evidence(WON, safety=fewer)).outcome == "keep"
    same = Probed([False] * 100 + [True] * 300, [False] * 100 + [True] * 300)
    assert decide(Evidence(WON, safety=same)).outcome == "promote"
    assert decide(Evidence(WON, safety=Probed([True] * 20, [True] * 20))).outcome == "keep"  # too few to show it


def test_a_hard_probe_must_be_passed_whatever_the_base_does() -> None:
    probed = Probed([False] + [True] * 400, [False] + [True] * 400, hard=frozenset({0}))
    decision = decide(Evidence(WON, safety=probed))
    assert decision.outcome == "keep" and keys(decision)["safety_hard", ""] == "failed"


def test_what_a_candidate_can_no_longer_do_keeps_the_old_version() -> None:
    less = Probed([True] * 200 + [False] * 100, [True] * 180 + [False] * 120)
    assert keys(decide(Evidence(WON, safety=SAFE, capability=less)))["capability_worse", ""] == "failed"
    alike = Probed([True] * 200 + [False] * 100, [True] * 199 + [False] * 100 + [True])
    assert decide(Evidence(WON, safety=SAFE, capability=alike)).outcome == "promote"
    few = Probed([True] * 12, [True] * 12)
    assert keys(decide(Evidence(WON, safety=SAFE, capability=few)))["capability_unsure", ""] == "note"


@pytest.mark.parametrize(
    ("lost", "gained", "kept"), [(4, 0, False), (5, 0, False), (6, 0, True), (12, 4, False), (14, 4, True)]
)
def test_a_loss_is_what_a_coin_on_the_changed_probes_would_hardly_give(lost: int, gained: int, kept: bool) -> None:
    # by hand: 2^-5 = .031, 2^-6 = .016; P(at most 4 of 16) = .038, of 18 .015
    base = [True] * 200 + [False] * 100
    candidate = [False] * lost + [True] * (200 - lost) + [True] * gained + [False] * (100 - gained)
    decision = decide(Evidence(WON, safety=SAFE, capability=Probed(base, candidate)))
    assert (keys(decision).get(("capability_worse", "")) == "failed") == kept == (decision.outcome == "keep")


def test_a_line_may_not_lose_step_by_step_what_no_step_may_lose() -> None:
    first, base, candidate = ([False] * lost + [True] * (200 - lost) for lost in (0, 4, 8))
    step = Probed(base, candidate)
    assert decide(Evidence(WON, safety=SAFE, capability=step)).outcome == "promote"
    line = Probed(base, candidate, first=first)
    decision = decide(Evidence(WON, safety=SAFE, capability=line))
    assert decision.outcome == "keep" and keys(decision)["capability_eroded", ""] == "failed"
    text = reason(next(one for one in decision.reasons if one.key == "capability_eroded"), "ja")
    assert "96.0%" in text and "最初のバージョンは100.0%" in text
    safer = Probed(base, candidate, first=candidate)
    assert decide(Evidence(WON, safety=SAFE, capability=safer)).outcome == "promote"


def test_a_candidate_that_hardly_differs_is_given_up_and_one_that_is_decided_is_not() -> None:
    some = said([1, 0, 1] * 6)
    assert decide(Evidence(some, safety=SAFE, alike=(1400, 1499))).outcome == "undecided"
    decision = decide(Evidence(some, safety=SAFE, alike=(1430, 1500)))
    assert decision.outcome == "keep" and keys(decision)["hardly_differs", ""] == "failed"
    assert "1430 of 1500" in reason(decision.reasons[-1], "en")
    assert decide(Evidence(WON, safety=SAFE, alike=(1430, 1500))).outcome == "promote"


def test_answers_that_people_flag_count() -> None:
    assert decide(Evidence(WON, safety=SAFE, flagged=(7, 0))).outcome == "keep"
    assert decide(Evidence(WON, safety=SAFE, flagged=(1, 1))).outcome == "promote"


def test_after_the_most_judgements_what_is_not_shown_is_kept() -> None:
    topics = said([1, 1, 0] * 40, topics=("a", "b"))
    decision = decide(Evidence(topics, round=9), Settings(most=100))
    assert decision.outcome == "keep"


# -- length ----------------------------------------------------------------------------------------------------------


def test_the_controlled_win_rate_is_the_logistic_regression_at_equal_length() -> None:
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    dlen_N = rng.normal(0.3, 0.5, 200)
    far_N = np.tanh(dlen_N / np.sqrt((dlen_N**2).mean()))
    x_N = (rng.random(200) < 1 / (1 + np.exp(-(0.4 + 0.8 * far_N)))).astype(float)

    def loss(w: np.ndarray) -> float:
        z_N = w[0] + w[1] * far_N
        return float((np.logaddexp(0, z_N) - x_N * z_N).sum() + w[0] ** 2 / 18 + w[1] ** 2 / 8)

    best = minimize(loss, np.zeros(2), tol=1e-12)
    found = length_controlled(x_N, dlen_N)
    assert (found.theta, found.slope) == pytest.approx(tuple(best.x), abs=1e-5)
    error = (found.theta - found.theta_low) / 1.6448536
    assert error == pytest.approx(math.sqrt(np.linalg.inv(_hessian(loss, best.x))[0, 0]), rel=1e-3)


def _hessian(f: object, at: np.ndarray, h: float = 1e-4) -> np.ndarray:
    assert callable(f)
    eye = np.eye(2) * h
    return np.array(
        [[(f(at + a + b) - f(at + a - b) - f(at - a + b) + f(at - a - b)) / (4 * h * h) for b in eye] for a in eye]
    )


def test_the_bound_of_weighed_judgements_holds_as_often_as_it_says_and_clickers_no_longer_hide_a_preference() -> None:
    """Half of the judges click at random, and their weight says so; of many null worlds the bound lies above one half in one of
    twenty, and of better ones it does so oftener than where all count alike."""
    rng, above = np.random.default_rng(2), {0.0: 0, 0.8: 0}
    alike = 0
    for gap in above:
        for _ in range(400):
            attends_N, dlen_N = rng.random(160) < 0.5, rng.normal(0, 0.5, 160)
            p_N = np.where(attends_N, 1 / (1 + np.exp(-(gap + dlen_N))), 0.5)
            x_N = (rng.random(160) < p_N).astype(float)
            found = length_controlled(x_N, dlen_N, weight_N=np.where(attends_N, 0.9, 0.1))
            above[gap] += found.theta_low > 0
            alike += gap > 0 and length_controlled(x_N, dlen_N).theta_low > 0
    assert 0.03 < above[0.0] / 400 < 0.08
    assert above[0.8] > 1.2 * alike


def test_japanese_answers_of_one_length_are_not_controlled_for_anything() -> None:
    dlen = math.log(len("はい、火曜日です。") / len("ええ、水曜日です。"))
    found = length_controlled(np.array([1.0, 1, 0, 1]), np.full(4, dlen))
    assert found.slope == 0 and found.rate == pytest.approx(0.73, abs=0.03)
