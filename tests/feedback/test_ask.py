"""Which pair next: every score against its definition, and the rules that keep choosing honest."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from tomoni.errors import DataError
from tomoni.feedback.ask import RULES, Batch, Candidates, best_against_mean, check, choose, openness
from tomoni.feedback.channel import Channel
from tomoni.feedback.head import Head
from tomoni.feedback.people import NEWCOMER


def pool(prompts: int = 40, each: int = 4, d: int = 6, seed: int = 0, **how: Any) -> Candidates:
    rng = np.random.default_rng(seed)
    names = [f"答え{number}" for number in range(prompts * each)]
    return Candidates.of(
        names, [f"p{number // each:03}" for number in range(prompts * each)], rng.normal(size=(len(names), d)), **how
    )


def some_head(d: int = 6, n: int = 60, seed: int = 1) -> Head:
    rng = np.random.default_rng(seed)
    deltas, w = rng.normal(size=(n, d)), rng.normal(size=d)
    return Head.fit(deltas, (rng.random(n) < expit(deltas @ w)).astype(float), prior=1.0)


def test_all_pairs_of_answers_to_one_prompt_are_candidates_and_no_others() -> None:
    found = Candidates.of(["a", "b", "c", "d", "e"], ["x", "y", "x", "y", "x"], np.eye(5))
    pairs = {
        frozenset((found.answers[i], found.answers[j])) for i, j in zip(found.first_P, found.second_P, strict=True)
    }
    assert pairs == {frozenset(pair) for pair in ("ac", "ae", "ce", "bd")}
    named = Candidates.of(["a", "b", "c"], ["x"] * 3, np.eye(3), pairs=[("c", "a")])
    assert named.deltas(np.array([0])).tolist() == [[-1, 0, 1]]


@pytest.mark.parametrize("entropy", [False, True])
def test_how_open_a_pair_is_agrees_with_sampling(entropy: bool) -> None:
    rng = np.random.default_rng(0)
    mean, variance = np.array([0.0, 1.5, -3.0]), np.array([2.0, 0.5, 4.0])
    channel = NEWCOMER.channel(0)
    found = openness(mean, variance, channel, entropy=entropy)
    for m, v, score in zip(mean, variance, found, strict=True):
        q, _ = channel.first_wins(rng.normal(m, np.sqrt(v), 400_000))
        h = lambda p: -(p * np.log(p) + (1 - p) * np.log(1 - p))  # noqa: E731
        expected = h(q.mean()) - h(q).mean() if entropy else q.var()
        assert score == pytest.approx(expected, abs=2e-3)


def information(head: Head, delta: np.ndarray, channel: Channel) -> float:
    q, slope = channel.first_wins(np.array([head.mean(delta)]))
    return float(slope[0] ** 2 / (q[0] * (1 - q[0])))


def test_vopt_is_what_an_answer_takes_off_the_variance_of_the_targets() -> None:
    head, rng = some_head(), np.random.default_rng(3)
    deltas, targets, channel = rng.normal(size=(20, 6)), rng.normal(size=(50, 6)), NEWCOMER.channel(0)
    found = Batch(deltas, head, channel, "vopt", targets).scores()
    for delta, score in zip(deltas, found, strict=True):
        after = np.linalg.inv(
            np.linalg.inv(head.covariance_DD) + information(head, delta, channel) * np.outer(delta, delta)
        )
        taken = head.variance(targets) - ((targets @ after) * targets).sum(1)
        assert score == pytest.approx(taken.mean(), rel=1e-6)


def test_dopt_is_what_an_answer_takes_off_the_log_volume() -> None:
    head, rng = some_head(), np.random.default_rng(3)
    deltas, channel = rng.normal(size=(20, 6)), Channel.perfect(1)
    found = Batch(deltas, head, channel, "dopt").scores()
    for delta, score in zip(deltas, found, strict=True):
        precision = np.linalg.inv(head.covariance_DD)
        after = precision + information(head, delta, channel) * np.outer(delta, delta)
        assert score == pytest.approx(np.linalg.slogdet(after)[1] - np.linalg.slogdet(precision)[1], rel=1e-6)


@pytest.mark.parametrize("rule", ["vopt", "dopt", "infomax", "bald"])
def test_scores_after_picks_are_those_of_a_head_that_has_the_picks(rule: Any) -> None:
    head, rng = some_head(), np.random.default_rng(4)
    deltas, targets = rng.normal(size=(30, 6)), rng.normal(size=(9, 6))
    batch = Batch(deltas, head, Channel.perfect(1), rule, targets)
    precision = np.linalg.inv(head.covariance_DD)
    for pair in (3, 17, 3):
        batch.take(pair)
        precision += information(head, deltas[pair], Channel.perfect(1)) * np.outer(deltas[pair], deltas[pair])
    later = Head(head.w_D, np.linalg.inv(precision), head.scale)
    assert batch.scores() == pytest.approx(
        Batch(deltas, later, Channel.perfect(1), rule, targets).scores(), rel=1e-6, abs=1e-9
    )


def test_targets_are_the_best_answers_against_the_mean_of_their_prompt() -> None:
    candidates, head = pool(), some_head()
    by_hand = []
    for prompt in range(40):
        phi = candidates.phi_AD[candidates.prompt_A == prompt]
        by_hand.append(phi[np.argmax(phi @ head.w_D)] - phi.mean(0))
    assert best_against_mean(candidates, head) == pytest.approx(np.array(by_hand))


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_different_pairs_of_one_prompt_and_the_same_ones_for_the_same_seed(rule: Any) -> None:
    candidates, head = pool(), some_head()
    found = choose(candidates, head, n=30, seed=7, rule=rule)
    assert len(found) == len({one.pair for one in found}) == 30
    place = dict(zip(candidates.answers, candidates.prompt_A, strict=True))
    assert all(place[one.first] == place[one.second] and one.first != one.second for one in found)
    assert found == choose(candidates, head, n=30, seed=7, rule=rule)
    assert {one.selected_by for one in found} <= {rule, "random"}


def test_a_fifth_is_random_whatever_the_size_of_a_batch() -> None:
    candidates, head = pool(), some_head()
    for n in (1, 3, 10):
        told = [one.selected_by for seed in range(600 // n) for one in choose(candidates, head, n=n, seed=seed)]
        assert Counter(told)["random"] / len(told) == pytest.approx(0.2, abs=0.05)
    assert all(one.selected_by == "random" for one in choose(candidates, head, n=20, seed=0, rule="random"))


def test_random_pairs_follow_the_traffic_and_nothing_else() -> None:
    traffic = {f"p{number:03}": 1.0 for number in range(40)} | {"p000": 30.0, "p001": 0.0}
    candidates, head = pool(traffic=traffic), some_head()
    place = dict(zip(candidates.answers, candidates.prompt_A, strict=True))
    seen = Counter(
        int(place[one.first]) for seed in range(2000) for one in choose(candidates, head, n=1, seed=seed, rule="random")
    )
    assert seen[0] / 2000 == pytest.approx(30 / 68, abs=0.04) and seen[1] == 0
    pairs = Counter(one.pair for s in range(3000) for one in choose(pool(1), head, n=1, seed=s, rule="random"))
    assert len(pairs) == 6 and max(pairs.values()) < 1.25 * min(pairs.values())


def test_one_pair_a_prompt_while_there_are_enough() -> None:
    candidates, head = pool(prompts=12), some_head()
    place = dict(zip(candidates.answers, candidates.prompt_A, strict=True))
    for rule in ("vopt", "dopt", "bald", "dts"):
        found = choose(candidates, head, n=12, seed=0, rule=rule, random_share=0)  # type: ignore[arg-type]
        assert len({place[one.first] for one in found}) == 12
    assert len(choose(candidates, head, n=500, seed=0)) == 72


def test_pairs_of_nearly_one_answer_and_foregone_ones_are_not_chosen_but_by_chance() -> None:
    phi = np.array([[0.0, 0], [1e-5, 0], [40.0, 0], [0.5, 1.0]])
    candidates = Candidates.of(list("abcd"), ["p"] * 4, phi)
    head = Head(np.array([1.0, 0.2]), np.eye(2), 1.0)
    for rule in ("vopt", "infomax", "bald", "dopt"):
        found = choose(candidates, head, n=6, seed=0, rule=rule, random_share=0)  # type: ignore[arg-type]
        active = {one.first + one.second for one in found if one.selected_by == rule}
        assert active == {"ad", "bd"}
    nothing = Candidates.of(list("ab"), ["p"] * 2, np.zeros((2, 2)))
    assert [one.selected_by for one in choose(nothing, head, n=1, seed=0, random_share=0)] == ["random"]


def test_the_second_taste_is_drawn_until_it_likes_another_answer() -> None:
    candidates = Candidates.of(list("abc"), ["p"] * 3, np.array([[1.0, 0], [0, 1.0], [-9, -9]]))
    sure = Head(np.array([1.0, 1.0]), np.eye(2) * 0.5, 1.0)
    pairs = {
        frozenset((one.first, one.second))
        for s in range(40)
        for one in choose(candidates, sure, n=1, seed=s, rule="dts", random_share=0)
    }
    assert pairs == {frozenset("ab")}
    certain = Head(np.array([0.01, 0.0]), np.eye(2) * 1e-12, 1.0)
    assert len(choose(candidates, certain, n=1, seed=0, rule="dts", random_share=0)) == 1


def test_hard_pairs_go_unasked_where_the_person_would_only_guess() -> None:
    """A good channel raises every score; a coin's makes all of them 0."""
    head, rng = some_head(), np.random.default_rng(0)
    deltas = rng.normal(size=(10, 6))
    coin, good = Channel.flipping(np.array([0.5])), Channel.perfect(1)
    for rule in ("vopt", "dopt", "infomax", "bald"):
        scores = [Batch(deltas, head, channel, rule, deltas).scores() for channel in (coin, good)]  # type: ignore[arg-type]
        assert scores[0] == pytest.approx(np.zeros(10), abs=1e-9) and (scores[1] > 1e-6).all()


class Counting(np.ndarray):
    """An array that counts the multiplications of matrix products it takes part in."""

    multiplied = 0

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **how: Any) -> Any:
        plain = [np.asarray(one) if isinstance(one, Counting) else one for one in inputs]
        if "out" in how:
            how["out"] = tuple(np.asarray(one) for one in how["out"])
        if ufunc is np.matmul:
            Counting.multiplied += int(np.prod(plain[0].shape)) * (plain[1].shape[1] if plain[1].ndim == 2 else 1)
        result = getattr(ufunc, method)(*plain, **how)
        return result.view(Counting) if isinstance(result, np.ndarray) else result


@pytest.mark.parametrize("rule", ["vopt", "dopt"])
def test_ten_thousand_candidates_cost_a_few_products_and_each_pick_one_pass(rule: Any) -> None:
    d, n, pairs = 32, 10, 10_000
    rng = np.random.default_rng(0)
    deltas, head = rng.normal(size=(pairs, d)).view(Counting), some_head(d)
    Counting.multiplied = 0
    batch = Batch(deltas, head, Channel.perfect(1), rule, rng.normal(size=(100, d)))
    first = Counting.multiplied
    for _ in range(n):
        batch.take(int(batch.scores().argmax()))
    assert first <= pairs * d * (2 * d + 2)  # Sigma delta, its reach to the targets, and the means
    assert Counting.multiplied - first <= n * (pairs + d) * d * 1.01


def told(n: int, *, d: int, seed: int, narrow: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of which a fifth is random; the others ask along all axes, or, if `narrow`, along one only."""
    rng = np.random.default_rng(seed)
    w, random_N = rng.normal(size=d), rng.random(n) < 0.3
    deltas = rng.normal(size=(n, d))
    wide = deltas * 2.5
    one_axis = np.zeros((n, d))
    one_axis[:, 0] = 0.3 * deltas[:, 0]
    deltas = np.where(random_N[:, None], deltas, one_axis if narrow else wide)
    return deltas, (rng.random(n) < expit(deltas @ w * 1.5)).astype(float), random_N


def test_a_rule_that_asks_useless_questions_is_given_up_for_random_and_a_good_one_is_kept() -> None:
    useless = [check(*told(300, d=5, seed=seed, narrow=True), seed=0) for seed in range(10)]
    assert sum(one.rule == "random" for one in useless) >= 9
    good = [check(*told(300, d=5, seed=seed, narrow=False), seed=0) for seed in range(10)]
    assert sum(one.rule == "vopt" for one in good) >= 7
    assert all(one.checked and one.low < one.gain < one.high for one in [*useless, *good])


def test_before_a_hundred_labels_nothing_is_compared() -> None:
    found = check(*told(99, d=3, seed=0, narrow=True), seed=0, rule="bald")
    assert found.rule == "bald" and not found.checked
    assert check(*told(300, d=3, seed=0, narrow=True), seed=1) == check(*told(300, d=3, seed=0, narrow=True), seed=1)


def test_what_cannot_be_chosen_from_is_refused() -> None:
    with pytest.raises(DataError, match="possible: vopt"):
        choose(pool(), some_head(), n=1, seed=0, rule="best")  # type: ignore[arg-type]
    with pytest.raises(DataError):
        Candidates.of(["a"], ["p", "q"], np.ones((1, 2)))
    with pytest.raises(DataError, match="no answer 'z'"):
        Candidates.of(["a"], ["p"], np.ones((1, 2)), pairs=[("a", "z")])
