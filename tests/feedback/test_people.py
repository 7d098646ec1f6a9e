"""The reliability model: who attends, who reverses, who clicks."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from tests.feedback.crowds import answers
from tomoni.errors import DataError
from tomoni.feedback.people import GOLD_GAP, NEWCOMER, Judged, People, fit, surely_worse
from tomoni.feedback.weights import Weight


@pytest.fixture(scope="module")
def mixed() -> People:
    return fit(answers(seed=1)[0])


def kinds(people: People) -> list[tuple[str, float]]:
    return [(name.split()[1], one.kappa) for name, one in people.by_person.items()]


def test_each_kind_of_person_is_seen_for_what_it_is(mixed: People) -> None:
    for name, one in mixed.by_person.items():
        match name.split()[1]:
            case "reversed":
                assert one.f > 0.5 > one.a and one.reversing > 0.95, name
            case "position":
                assert one.s > max(one.a, one.f) and one.clicks > 1, name
            case "random":
                assert abs(one.kappa) < 0.65 and one.low < 0.1, name
    crowd = [kappa for kind, kappa in kinds(mixed) if kind == "crowd"]
    assert 0.4 < np.mean(crowd) < 0.75  # the truth is .5; the prior's mean is .56


def test_bad_people_are_told_from_good_ones_by_40_answers() -> None:
    # the protocol's own figure, on other seeds and 20 people, stands in docs/science.md
    found = []
    for seed in range(4):
        people = fit(answers(seed=seed)[0])
        found.append(roc_auc_score([k != "crowd" for k, _ in kinds(people)], [-kappa for _, kappa in kinds(people)]))
    assert np.mean(found) > 0.95


def test_the_posterior_of_a_person_is_that_of_plain_sampling_from_the_prior() -> None:
    """Gold answers only, so that every gap is known: importance sampling over a continuous prior."""
    rng = np.random.default_rng(0)
    n = 30
    delta = np.eye(4)[rng.integers(0, 4, n)]
    expected = rng.integers(0, 2, n).astype(float)
    y = np.where(rng.random(n) < 0.75, expected, 1 - expected)
    y[::6] = 0.5
    side = rng.choice([-1, 1], n)
    judged = [Judged("花子", delta[i], y[i], int(side[i]), expected[i]) for i in range(n)]
    one = fit(judged, scale=0.5).of("花子")
    draws = 400_000
    broad = rng.random(draws) < 0.25
    shares = np.where(broad[:, None], rng.dirichlet([1, 1, 1], draws), rng.dirichlet([8, 1, 1], draws))
    clicks = rng.choice([-2.5, 0.0, 2.5], draws)
    gap = (2 * expected - 1) * GOLD_GAP
    log = np.zeros(draws)
    for i in range(n):
        q = (
            shares[:, 0] * expit(gap[i] + side[i] * one.position)
            + shares[:, 1] * expit(-gap[i])
            + shares[:, 2] * expit(side[i] * clicks)
        )
        if y[i] != 0.5:
            log += np.log(q if y[i] else 1 - q)
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    mean = weight @ shares
    assert [one.a, one.f, one.s] == pytest.approx(mean, abs=0.02)
    kappa = shares[:, 0] - shares[:, 1]
    assert one.reversing == pytest.approx(weight[kappa < 0].sum(), abs=0.02)
    assert one.surely_inattentive == pytest.approx(weight[shares[:, 0] < 0.5].sum(), abs=0.05)
    order = np.argsort(kappa**2)
    low, high = (kappa[order][np.searchsorted(np.cumsum(weight[order]), edge)] ** 2 for edge in (0.025, 0.975))
    assert (one.low, one.high) == pytest.approx((low, high), abs=0.08)


def test_intervals_of_the_value_hold_the_truth_about_as_often_as_they_say() -> None:
    held = []
    for seed in range(5):
        people = fit(answers(("crowd",) * 10 + ("trained",) * 10, each=60, seed=seed)[0])
        truth = {"crowd": 0.25, "trained": 0.49}
        held += [one.low - 0.02 <= truth[name.split()[1]] <= one.high + 0.02 for name, one in people.by_person.items()]
    assert np.mean(held) > 0.88


def test_gold_keeps_the_sign_when_most_people_are_reversed() -> None:
    crowd = ("reversed",) * 7 + ("perfect",) * 4
    judged, w = answers(crowd, each=60, seed=3, gold=0.15)
    people = fit(judged)
    assert people.head.w_D @ w > 0
    assert all((one.kappa > 0) == ("perfect" in name) for name, one in people.by_person.items())


def test_reversed_people_teach_the_head_and_do_not_mislead_it() -> None:
    judged, w = answers(("perfect",) * 4 + ("reversed",) * 4, each=60, seed=5)
    fresh = np.random.default_rng(0).normal(size=(4000, 16))
    right = lambda head: float(np.mean(head.mean(fresh) * (fresh @ w) > 0))  # noqa: E731
    good_alone = fit([one for one in judged if "perfect" in one.person])
    assert right(fit(judged).head) > right(good_alone.head)


def test_nobody_is_praised_for_agreeing_with_himself() -> None:
    rng = np.random.default_rng(0)
    judged = [Judged("alone", rng.normal(size=30), float(rng.random() < 0.5), 1) for _ in range(25)]
    people = fit(judged)
    assert people.of("alone").kappa < NEWCOMER.kappa + 0.15
    assert people.signal < 0.05


def test_ties_are_no_fault_and_do_not_hide_what_the_other_answers_say() -> None:
    found = []
    for seed in range(4):
        judged, _ = answers(("perfect",) * 5, each=60, seed=seed)
        rng = np.random.default_rng(seed)
        tied = [replace(one, y=0.5) if "00" in one.person and rng.random() < 0.6 else one for one in judged]
        found.append(fit(tied).of("00 perfect"))
    assert np.mean([one.kappa for one in found]) > 0.5
    assert all(not one.blind and one.n == 60 and one.decided < 35 for one in found)
    always = fit([replace(one, y=0.5) if "00" in one.person else one for one in judged]).of("00 perfect")
    assert always.kappa == pytest.approx(NEWCOMER.kappa) and always.decided == 0


def test_order_of_answers_sides_and_names_do_not_matter() -> None:
    judged, _ = answers(("perfect", "random", "reversed"), each=30, seed=2)
    here = fit(judged)
    swapped = fit(
        [
            replace(
                one,
                delta=-one.delta,
                y=1 - one.y,
                side=-one.side,
                expected=None if one.expected is None else 1 - one.expected,
            )
            for one in judged
        ]
    )
    mixed_up = fit(judged[::-1])
    for name, one in here.by_person.items():
        assert swapped.of(name).kappa == pytest.approx(one.kappa, abs=0.02)
        assert mixed_up.of(name).kappa == pytest.approx(one.kappa, abs=0.02)


def test_a_newcomer_is_taken_for_the_prior_and_an_empty_store_is_no_error() -> None:
    people = fit([], dimensions=5)
    one = people.of("はじめての人")
    assert one.n == 0 and one.person == "はじめての人" and 0.5 < one.kappa < 0.65 and not one.blind
    assert one.low < one.value < one.high
    assert people.head.probability(np.ones(5)) == 0.5
    assert people.weights() == {}


def test_weights_follow_reliability_and_nobody_is_deleted(mixed: People) -> None:
    weights = mixed.weights()
    assert set(weights) == set(mixed.by_person)
    for name, weight in weights.items():
        one = mixed.of(name)
        if not one.blind:
            assert weight.weight * (1 - 2 * weight.noise) == pytest.approx(max(one.kappa, 0))
    assert weights["18 reversed"].weight == 0


def test_a_stream_that_turns_blind_is_stopped_within_40_labels_and_returns_when_it_recovers() -> None:
    judged, _ = answers(("perfect",) * 5, each=120, seed=7, gold=0.05)
    rng = np.random.default_rng(1)
    coins = [
        replace(one, y=float(rng.random() < 0.5)) if "04" in one.person and number >= 5 * 80 else one
        for number, one in enumerate(judged)
    ]
    blind = fit(coins)
    assert blind.blind == ("04 perfect",)
    assert blind.weights()["04 perfect"] == Weight(0.0, 0.35)
    more, _ = answers(("perfect",) * 5, each=60, seed=7, gold=0.05)
    again = [*coins, *[one for one in more if "04" in one.person]]
    assert fit(again).blind == ()


def test_the_channel_of_a_person_gives_the_probability_of_the_model() -> None:
    one = replace(NEWCOMER, a=0.7, f=0.1, s=0.2, position=0.4, clicks=2.0)
    for side in (1, -1):
        left = lambda gap: 0.7 / (1 + np.exp(-gap - 0.4)) + 0.1 / (1 + np.exp(gap)) + 0.2 / (1 + np.exp(-2.0))  # noqa: E731
        wanted = left(1.3) if side == 1 else 1 - left(-1.3)
        assert float(one.channel(side).first_wins(np.array([1.3]))[0][0]) == pytest.approx(wanted)


def test_answers_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(DataError, match="2 spaces"):
        fit([Judged("a", np.ones(3), 1), Judged("a", np.ones(4), 1)])
    with pytest.raises(DataError, match="side 0"):
        fit([Judged("a", np.ones(3), 1, side=0)])


def test_skills_are_nearer_the_truth_than_crowd_kits_noisy_bradley_terry() -> None:
    """Skill as theirs, the chance of attending: ours is A + F (a reversed one attends, too) against their gamma; the
    comparison that matters is of a - f, so both are turned into predicted accuracy on the pairs asked."""
    pandas = pytest.importorskip("pandas")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from crowdkit.aggregation import NoisyBradleyTerry
    ours, theirs = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        phi = rng.normal(size=(12, 12)) / np.sqrt(12) * 2.5
        w = rng.normal(size=12)
        skill = {f"{k:02}": 1 - 2 * e for k, e in enumerate(np.linspace(0, 0.5, 12))}
        rows, judged = [], []
        for person, kappa in skill.items():
            for _ in range(40):
                i, j = rng.choice(12, 2, replace=False)
                first = rng.random() < expit((phi[i] - phi[j]) @ w)
                first = first if rng.random() < (1 + kappa) / 2 else not first
                rows.append((person, f"i{i:02}", f"i{j:02}", f"i{i:02}" if first else f"i{j:02}"))
                judged.append(Judged(person, phi[i] - phi[j], float(first)))
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            model = NoisyBradleyTerry().fit(pandas.DataFrame(rows, columns=["worker", "left", "right", "label"]))
        people = fit(judged)
        ours += [people.of(name).kappa - truth for name, truth in skill.items()]
        theirs += [float(model.skills_[name]) - truth for name, truth in skill.items()]
    rmse = [float(np.sqrt(np.mean(np.square(errors)))) for errors in (ours, theirs)]
    assert rmse[0] < rmse[1]


def test_how_surely_one_is_worse_here_than_there_is_that_of_drawing_both_from_their_posteriors() -> None:
    rng = np.random.default_rng(0)
    expected = rng.integers(0, 2, 60).astype(float)
    right = np.where(np.arange(60) < 20, rng.random(60) < 0.5, rng.random(60) < 0.8)
    judged = [Judged("a", np.eye(2)[0], e if r else 1 - e, 1, e) for e, r in zip(expected, right, strict=True)]
    people = fit(judged, scale=0.5)
    here, there = range(20), range(20, 60)
    found = surely_worse(judged, people.gaps, here, there)
    draws = np.concatenate([rng.dirichlet([8, 1, 1], 150_000), rng.dirichlet([1, 1, 1], 50_000)])
    clicks = rng.choice([-2.5, 0.0, 2.5], len(draws))
    kappa = draws[:, 0] - draws[:, 1]

    def drawn(which: range) -> np.ndarray:
        log = np.zeros(len(draws))
        for i in which:
            gap = GOLD_GAP if expected[i] else -GOLD_GAP
            q = draws[:, 0] * expit(gap) + draws[:, 1] * expit(-gap) + draws[:, 2] * expit(clicks)
            log += np.log(q if judged[i].y else 1 - q)
        weight = np.exp(log - log.max())
        return rng.choice(kappa, 200_000, p=weight / weight.sum())

    assert found == pytest.approx(float(np.mean(drawn(here) < drawn(there))), abs=0.02)
    assert surely_worse(judged, people.gaps, there, there) == pytest.approx(0.5, abs=1e-6)
