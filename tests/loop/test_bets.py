"""Betting against a null: what makes it an e-value, by sums over every course that it can take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom

from tomoni.errors import DataError
from tomoni.loop.bets import MARGINS, UNIFORM, WINS, Prior, growth, play, spent, uniform_mixture

PRIORS = [UNIFORM, WINS, MARGINS, Prior(1, 1, nodes=3)]


def expected_e(
    outcomes: dict[float, float], n: int, stake: Callable[[tuple[float, ...]], float], prior: Prior, null: float
) -> float:
    """The mean of E_n, by a sum over all courses; `stake` is the bet that a course so far leads to."""
    total = 0.0
    for course in itertools.product(outcomes, repeat=n):
        chance = math.prod(outcomes[x] for x in course)
        bets = [stake(course[:place]) for place in range(n)]
        total += chance * math.exp(play(np.array(course) - null, -null, bet_N=np.array(bets), prior=prior).log_e)
    return total


@pytest.mark.parametrize("prior", PRIORS)
def test_under_the_null_the_mean_of_e_is_one_at_every_length(prior: Prior) -> None:
    for n in range(1, 8):
        assert expected_e({1.0: 0.5, 0.0: 0.5}, n, lambda _: 1.0, prior, 0.5) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("prior", PRIORS)
def test_it_is_one_with_ties_and_with_bets_that_follow_what_came_before(prior: Prior) -> None:
    def follows(past: tuple[float, ...]) -> float:
        return 0.2 + 0.8 * (sum(past) / len(past) if past else 0.5)

    for n in range(1, 7):
        assert expected_e({1.0: 0.3, 0.5: 0.4, 0.0: 0.3}, n, follows, prior, 0.5) == pytest.approx(1, abs=1e-12)


def test_where_the_null_holds_with_room_to_spare_the_mean_is_below_one() -> None:
    assert expected_e({1.0: 0.4, 0.0: 0.6}, 6, lambda _: 1.0, UNIFORM, 0.5) < 1
    assert expected_e({1.0: 0.3, 0.0: 0.7}, 6, lambda _: 1.0, MARGINS, 0.35) < 1


def test_a_bet_that_knows_the_outcome_is_no_bet() -> None:
    """What the rules about earlier answers guard against: such stakes make the mean grow beyond all bounds."""
    total = 0.0
    for course in itertools.product((1.0, 0.0), repeat=6):
        total += math.exp(play(np.array(course) - 0.5, -0.5, bet_N=np.array(course)).log_e) / 2**6
    assert total > 2


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (0, 3), (7, 3), (30, 20), (60, 35)])
def test_the_closed_form_is_the_integral_over_all_win_rates_above_one_half(wins: int, losses: int) -> None:
    n = wins + losses
    integral, _ = quad(lambda p: 2.0 ** (n + 1) * p**wins * (1 - p) ** losses, 0.5, 1, epsabs=0, epsrel=1e-10)
    assert math.exp(uniform_mixture(wins, losses)) == pytest.approx(integral, rel=1e-8)
    x_N = np.array([1.0] * wins + [0.0] * losses)
    assert play(x_N - 0.5, -0.5).log_e == pytest.approx(math.log(integral), abs=1e-7)


def test_known_values() -> None:
    assert math.exp(uniform_mixture(1, 0)) == pytest.approx(1.5)  # 2 * 2 * int p dp over .5 to 1
    assert math.exp(uniform_mixture(5, 0)) == pytest.approx(2**6 / 6 * (1 - 2**-6))
    assert math.exp(uniform_mixture(0, 5)) == pytest.approx(2**6 / 6 * 2**-6)


@pytest.mark.parametrize("prior", [WINS, MARGINS])
def test_with_another_prior_it_is_the_integral_over_that(prior: Prior) -> None:
    from scipy.stats import beta

    wins, losses, null = 20, 9, 0.4
    integral, _ = quad(
        lambda u: beta.pdf(u, prior.a, prior.b) * (1 + u / null * (1 - null)) ** wins * (1 - u / null * null) ** losses,
        0,
        1,
    )
    x_N = np.array([1.0] * wins + [0.0] * losses)
    assert play(x_N - null, -null, prior=prior).log_e == pytest.approx(math.log(integral), abs=1e-8)


def test_a_tie_changes_nothing_and_the_order_does_not_matter_to_the_end() -> None:
    x_N = np.array([1, 0, 1, 1, 0.5, 1, 0, 0.5, 1])
    plain = play(x_N[x_N != 0.5] - 0.5, -0.5).log_e
    assert play(x_N - 0.5, -0.5).log_e == pytest.approx(plain)
    assert play(x_N[::-1] - 0.5, -0.5).log_e == pytest.approx(plain)


def test_a_judge_who_flips_is_bet_on_as_the_likelihood_ratio_has_it() -> None:
    """With one stake, u, the factor is that of win rate (1 + u)/2 against one half, seen through flips."""
    one = Prior(3, 4, nodes=1)
    u, kappa = float(one.share_G[0]), 0.6
    p = 0.5 + kappa * u / 2
    assert play(np.array([0.5]), -0.5, bet_N=kappa, prior=one).log_e == pytest.approx(math.log(p / 0.5))
    assert play(np.array([-0.5]), -0.5, bet_N=kappa, prior=one).log_e == pytest.approx(math.log((1 - p) / 0.5))


def test_under_a_coin_a_twentieth_at_most_ever_passes_twenty() -> None:
    x_RN = np.random.default_rng(3).integers(0, 2, (400, 300)).astype(float)
    ever = [float(play(x_N - 0.5, -0.5, prior=WINS).log_e_N.max()) >= math.log(20) for x_N in x_RN]
    assert np.mean(ever) <= binom.ppf(0.999, 400, 0.05) / 400


def test_rounds_spend_the_whole_and_no_more() -> None:
    total = sum(spent(round_) for round_ in range(1, 20001))
    assert 0.0499 < total < 0.05
    assert spent(1) == pytest.approx(0.05 * 6 / math.pi**2)
    with pytest.raises(DataError):
        spent(0)


def test_growth_at_the_best_stake_is_the_divergence_of_the_two_rates() -> None:
    p = 0.7
    divergence = p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)
    assert growth(p, 0.5, prior=UNIFORM) == pytest.approx(divergence, rel=1e-2)


@pytest.mark.parametrize(
    "given",
    [{"bet_N": 1.2}, {"bet_N": -0.1}, {"least_N": -0.3}, {"least_N": 0.1}, {"bet_N": float("nan")}],
)
def test_stakes_that_could_lose_more_than_there_is_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(DataError):
        play(np.array([-0.5]), **({"least_N": -0.5} | given))
