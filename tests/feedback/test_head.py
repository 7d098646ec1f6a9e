"""The reward head against optimisers, integrals, finite differences and refits."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize
from scipy.special import expit

from tomoni.errors import DataError
from tomoni.feedback.channel import Channel
from tomoni.feedback.head import Head, Space, calibrated
from tomoni.feedback.weights import Weight

Array = np.ndarray


def labels(n: int, d: int, seed: int = 0, gap: float = 2.0) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    w = rng.normal(size=d)
    w *= gap / np.linalg.norm(w) / np.sqrt(2)
    deltas = rng.normal(size=(n, d)) * np.sqrt(2)
    return deltas, (rng.random(n) < expit(deltas @ w)).astype(float), w


def some_channel(n: int, seed: int = 1) -> Channel:
    rng = np.random.default_rng(seed)
    a, f, s = rng.dirichlet([6, 2, 2], size=n).T
    return Channel(a, f, s * rng.random(n), rng.normal(0, 0.5, n))


def log_posterior(w: Array, deltas: Array, y: Array, weights: Array, channel: Channel, scale: float) -> float:
    """Written out label by label, from the definition."""
    total = -float(w @ w) / (2 * scale**2)
    for n in range(len(y)):
        gap = float(deltas[n] @ w)
        q = (
            channel.attends_N[n] / (1 + np.exp(-gap - channel.offset_N[n]))
            + channel.reverses_N[n] / (1 + np.exp(gap))
            + channel.base_N[n]
        )
        total += weights[n] * (y[n] * np.log(q) + (1 - y[n]) * np.log(1 - q))
    return total


@given(
    gap=st.floats(-6, 6),
    a=st.floats(0, 1),
    share=st.floats(0, 1),
    click=st.floats(0.01, 0.99),
    b=st.floats(-2, 2),
    y=st.sampled_from([0.0, 0.5, 1.0]),
)
@settings(max_examples=100, deadline=None)
def test_slopes_and_information_of_a_channel_are_those_of_finite_differences_and_enumeration(
    gap: float, a: float, share: float, click: float, b: float, y: float
) -> None:
    f = (1 - a) * share
    channel = Channel(np.array([a]), np.array([f]), np.array([(1 - a - f) * click]), np.array([b]))
    at, h = np.array([gap]), 1e-5
    q = float(channel.first_wins(at)[0][0])
    if not 1e-4 < q < 1 - 1e-4:
        return
    found = channel.answered(at, np.array([y]))
    near = [float(channel.answered(at + step, np.array([y])).loglik_N[0]) for step in (h, -h)]
    assert found.slope_N[0] == pytest.approx((near[0] - near[1]) / (2 * h), abs=1e-4, rel=1e-4)
    slopes = [float(channel.answered(at, np.array([answer])).slope_N[0]) for answer in (1.0, 0.0)]
    assert found.information_N[0] == pytest.approx(q * slopes[0] ** 2 + (1 - q) * slopes[1] ** 2, rel=1e-6, abs=1e-9)


def test_the_mode_is_where_an_optimiser_finds_it() -> None:
    deltas, y, _ = labels(80, 6)
    y[::7] = 0.5
    weights, channel = np.linspace(0.2, 1.5, 80), some_channel(80)
    head = Head.fit(deltas, y, weights_N=weights, channel=channel, prior=0.6)
    cost = lambda w: -log_posterior(w, deltas, y, weights, channel, 0.6)  # noqa: E731
    best = optimize.minimize(cost, np.zeros(6), method="BFGS", options={"gtol": 1e-7})
    assert head.w_D == pytest.approx(best.x, abs=1e-4)


def test_the_covariance_is_the_inverse_of_the_curvature_at_the_mode() -> None:
    deltas, y, _ = labels(60, 3)
    head = Head.fit(deltas, y, prior=0.8)
    h, eye = 1e-4, np.eye(3)
    at = lambda w: log_posterior(w, deltas, y, np.ones(60), Channel.perfect(60), 0.8)  # noqa: E731
    bend = [
        [
            (at(w + h * i + h * j) - at(w + h * i - h * j) - at(w - h * i + h * j) + at(w - h * i - h * j))
            / (4 * h * h)
            for j in eye
        ]
        for w in [head.w_D]
        for i in eye
    ]
    assert head.covariance_DD == pytest.approx(np.linalg.inv(-np.array(bend)), rel=1e-3)


def test_the_evidence_is_the_integral_over_all_tastes() -> None:
    deltas, y, _ = labels(25, 2)
    head = Head.fit(deltas, y, noise_N=np.full(25, 0.1), prior=0.5)

    def joint(w0: float, w1: float) -> float:
        w = np.array([w0, w1])
        q = 0.1 + 0.8 * expit(deltas @ w)
        density = np.exp(-(w @ w) / (2 * 0.25)) / (2 * np.pi * 0.25)
        return float(np.prod(np.where(y == 1, q, 1 - q)) * density)

    whole, _ = integrate.dblquad(joint, -5, 5, -5, 5, epsabs=1e-14)
    assert head.evidence == pytest.approx(np.log(whole), abs=0.15)


@pytest.mark.parametrize("gap", [0.5, 2.0, 4.0])
def test_the_scale_by_evidence_finds_the_spread_of_gaps(gap: float) -> None:
    found = []
    for seed in range(8):
        deltas, y, w = labels(600, 12, seed, gap)
        found.append(Head.fit(deltas, y).scale / np.sqrt(np.mean(w**2)))
    assert 0.75 < np.exp(np.mean(np.log(found))) < 1.35


def test_scales_by_evidence_and_by_folds_predict_about_equally_well() -> None:
    losses = {"evidence": 0.0, "cv": 0.0}
    for seed in range(6):
        deltas, y, _ = labels(1200, 20, seed)
        for prior in ("evidence", "cv"):
            p = Head.fit(deltas[:200], y[:200], prior=prior).probability(deltas[200:])  # type: ignore[arg-type]
            losses[prior] -= float(np.mean(y[200:] * np.log(p) + (1 - y[200:]) * np.log(1 - p))) / 6
    assert losses["evidence"] < losses["cv"] + 0.01 < 0.69


@given(mean=st.floats(-4, 4), variance=st.floats(0, 9))
@settings(max_examples=60, deadline=None)
def test_calibrated_probabilities_are_near_the_integral(mean: float, variance: float) -> None:
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    exact = float((expit(mean + np.sqrt(variance) * nodes) * weights).sum() / weights.sum())
    assert float(calibrated(np.array(mean), np.array(variance))) == pytest.approx(exact, abs=0.025)


@pytest.mark.parametrize("n", [5, 50, 500, 5000])
def test_from_five_labels_to_five_thousand_it_predicts_better_than_a_coin_and_is_calibrated(n: int) -> None:
    losses, gaps = [], []
    for seed in range(10 if n < 5000 else 2):
        deltas, y, w = labels(n + 2000, 48, seed)
        head = Head.fit(deltas[:n], y[:n])
        truth, p = expit(deltas[n:] @ w), head.probability(deltas[n:])
        losses.append(float((truth * np.log(truth / p) + (1 - truth) * np.log((1 - truth) / (1 - p))).mean()))
        sure = np.abs(p - 0.5) > 0.2
        gaps.append(float((p - truth)[sure & (p > 0.5)].mean()) if (sure & (p > 0.5)).any() else 0.0)
    # nats over what is lost by one who knows the taste; a coin loses .22
    assert np.mean(losses) < {5: 0.235, 50: 0.2, 500: 0.06, 5000: 0.01}[n]
    assert abs(np.mean(gaps)) < (0.1 if n < 500 else 0.03)


def test_a_label_of_weight_two_is_that_label_twice_and_a_coin_says_nothing() -> None:
    deltas, y, _ = labels(20, 4)
    twice = Head.fit(np.vstack([deltas, deltas[:5]]), np.append(y, y[:5]), prior=0.5)
    weighted = Head.fit(deltas, y, weights_N=np.append(np.full(5, 2.0), np.ones(15)), prior=0.5)
    assert weighted.w_D == pytest.approx(twice.w_D, abs=1e-6)
    coins = Head.fit(deltas, y, noise_N=np.append(np.full(5, 0.5), np.zeros(15)), prior=0.5)
    without = Head.fit(deltas[5:], y[5:], prior=0.5)
    assert coins.w_D == pytest.approx(without.w_D, abs=1e-6)
    assert coins.covariance_DD == pytest.approx(without.covariance_DD, abs=1e-9)


def test_a_tie_is_half_a_vote_to_each_side() -> None:
    deltas, y, _ = labels(20, 4)
    tied = Head.fit(deltas, np.append(np.full(3, 0.5), y[3:]), prior=0.5)
    halves = Head.fit(
        np.vstack([deltas, deltas[:3]]),
        np.concatenate([np.ones(3), y[3:], np.zeros(3)]),
        weights_N=np.concatenate([np.full(3, 0.5), np.ones(17), np.full(3, 0.5)]),
        prior=0.5,
    )
    assert tied.w_D == pytest.approx(halves.w_D, abs=1e-6)
    assert tied.covariance_DD == pytest.approx(halves.covariance_DD, abs=1e-9)


def test_swapping_the_answers_of_every_label_changes_nothing() -> None:
    deltas, y, _ = labels(30, 5)
    assert Head.fit(-deltas, 1 - y).w_D == pytest.approx(Head.fit(deltas, y).w_D, abs=1e-8)


def test_the_first_label_told_is_the_first_label_fitted() -> None:
    deltas, y, _ = labels(1, 6)
    told = Head.blank(6, scale=0.7).told(deltas[0], y[0], noise=0.2)
    fitted = Head.fit(deltas, y, noise_N=np.array([0.2]), prior=0.7)
    assert told.w_D == pytest.approx(fitted.w_D, abs=1e-4)
    assert told.covariance_DD == pytest.approx(fitted.covariance_DD, abs=1e-4)


def test_a_batch_told_one_by_one_is_near_the_batch_fitted() -> None:
    deltas, y, _ = labels(300, 12)
    head = Head.fit(deltas[:250], y[:250], prior=0.4)
    for n in range(250, 300):
        head = head.told(deltas[n], y[n])
    whole = Head.fit(deltas, y, prior=0.4)
    assert head.labels == 300
    fresh = np.random.default_rng(5).normal(size=(500, 12))
    assert np.corrcoef(head.mean(fresh), whole.mean(fresh))[0, 1] > 0.999
    assert np.abs(head.probability(fresh) - whole.probability(fresh)).max() < 0.03


def test_what_the_others_say_of_a_label_is_what_a_fit_without_it_says() -> None:
    deltas, y, _ = labels(120, 10)
    channel = some_channel(120)
    head = Head.fit(deltas, y, channel=channel, prior=0.4)
    cavity = head.cavity(deltas, y, channel)
    others = [np.delete(np.arange(120), n) for n in range(120)]
    without = [Head.fit(deltas[rest], y[rest], channel=channel[rest], prior=0.4) for rest in others]
    means = np.array([float(one.mean(deltas[n])) for n, one in enumerate(without)])
    variances = np.array([float(one.variance(deltas[n])) for n, one in enumerate(without)])
    assert np.abs(cavity.mean_N - means).max() < 0.25 and np.median(np.abs(cavity.mean_N - means)) < 0.03
    assert np.abs(np.log(cavity.variance_N / variances)).max() < 0.15
    assert np.median(np.abs(head.mean(deltas) - means)) > 0.1  # what it corrects


def test_a_score_is_what_is_known_less_what_is_not() -> None:
    head = Head(np.array([1.0, -2.0]), np.diag([0.25, 0.04]), 1.0, length=1)
    reference = np.array([[0.0, 0.0], [2.0, 2.0]])
    phi = np.array([[3.0, 2.0]])  # from the reference: 2, 1
    by_hand = 2 * 1 - 1 * 2 - np.sqrt(4 * 0.25 + 1 * 0.04)
    assert head.scores(phi, reference_MD=reference) == pytest.approx([by_hand])
    assert head.scores(phi, reference_MD=reference, length=0.0) == pytest.approx([2 - np.sqrt(1.0)])
    assert head.scores(phi, reference_MD=reference, length=0.3, caution=0) == pytest.approx([2 + 0.3])


def test_with_length_taken_out_a_longer_answer_scores_the_same() -> None:
    deltas, y, _ = labels(100, 5)
    head = Head.fit(deltas, y, length=4)
    phi = np.random.default_rng(0).normal(size=(6, 5))
    longer = phi + np.array([0, 0, 0, 0, 3.0])
    scores = [head.scores(one, reference_MD=phi, length=0.0) for one in (phi, longer)]
    assert scores[0] == pytest.approx(scores[1])
    assert head.scores(longer, reference_MD=phi) != pytest.approx(scores[0])


def test_a_head_and_a_space_survive_json_bit_for_bit() -> None:
    deltas, y, _ = labels(30, 5)
    head = Head.fit(deltas, y, length=3)
    again = Head.from_json(json.loads(json.dumps(head.to_json())))
    assert again.w_D.tobytes() == head.w_D.tobytes()
    assert again.covariance_DD.tobytes() == head.covariance_DD.tobytes()
    assert (again.scale, again.labels, again.evidence, again.length) == (head.scale, 30, head.evidence, 3)
    rng = np.random.default_rng(0)
    features, lengths = rng.normal(size=(40, 16)), rng.integers(1, 50, 40)
    space = Space.fit(features, lengths, -rng.random(40))
    read = Space.from_json(json.loads(json.dumps(space.to_json())))
    assert read(features, lengths).tobytes() == space(features, lengths).tobytes()


@pytest.mark.parametrize(
    "form",
    [
        None,
        {},
        {"kind": "head", "schema": 9},
        {"kind": "head", "schema": 1, "w": {"shape": [2], "float64": "!"}},
        {"kind": "head", "schema": 1, "w": {"shape": [2], "float64": "AAAAAAAA+H8AAAAAAAD4fw=="}},
        {"kind": "head", "schema": 1, "w": {"shape": [3], "float64": "AAAAAAAA8D8="}},
    ],
)
def test_a_damaged_head_is_refused(form: object) -> None:
    with pytest.raises(DataError):
        Head.from_json(form)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"y_N": np.array([0.0, 2.0])}, "labels"),
        ({"noise_N": np.array([0.0, 0.6])}, "noise"),
        ({"weights_N": np.array([1.0, -1.0])}, "weights"),
        ({"deltas_ND": np.array([[1.0], [np.nan]])}, "differences"),
        ({"deltas_ND": np.ones((3, 1))}, "one row a label"),
    ],
)
def test_labels_that_cannot_be_are_named(change: dict[str, Array], said: str) -> None:
    given = {"deltas_ND": np.ones((2, 1)), "y_N": np.array([0.0, 1.0])} | change
    with pytest.raises(DataError, match=said):
        Head.fit(**given)  # type: ignore[arg-type]


def test_without_labels_it_knows_nothing() -> None:
    head = Head.fit(np.zeros((0, 7)), np.zeros(0))
    assert head.probability(np.ones(7)) == pytest.approx(0.5)
    assert head.variance(np.ones(7)) > 0
    wide = Head.fit(np.zeros((0, 7)), np.zeros(0), prior=3.0)
    assert wide.scale == 3 and wide.variance(np.eye(7)[0]) == pytest.approx(9)


def test_a_start_is_only_a_start() -> None:
    deltas, y, _ = labels(60, 6)
    plain = Head.fit(deltas, y)
    far = Head.fit(-deltas, y)
    assert Head.fit(deltas, y, prior=plain.scale, start=far).w_D == pytest.approx(plain.w_D, abs=1e-3)
    assert Head.fit(deltas, y, start=Head.blank(9)).w_D == pytest.approx(plain.w_D, abs=1e-6)


# the space


@pytest.mark.parametrize("whiten", [True, False])
def test_components_are_blind_to_length_and_white_or_as_large_as_answers_differ(whiten: bool) -> None:
    rng = np.random.default_rng(3)
    prompts = np.repeat(np.arange(50), 8)
    lengths = rng.integers(3, 60, 400)
    topic = rng.normal(size=(50, 24))[prompts] * 20
    features = (
        topic
        + rng.normal(size=(400, 24)) @ rng.normal(size=(24, 24))
        + np.log1p(lengths)[:, None] * rng.normal(size=24)
    )
    space = Space.fit(features, lengths, prompts=prompts.tolist(), components=10, whiten=whiten)
    phi = space(features, lengths)
    inside = phi - np.array([phi[prompts == prompt].mean(0) for prompt in range(50)])[prompts]
    assert space.dimensions == phi.shape[1] == 11
    covariance = inside.T @ inside / 400
    if whiten:
        assert covariance == pytest.approx(np.eye(11), abs=1e-6)
        return
    sizes = np.diag(covariance)
    assert covariance == pytest.approx(np.diag(sizes), abs=1e-6)
    assert sizes[:10].sum() == pytest.approx(1) and sizes[10] == pytest.approx(0.3**2)
    assert (np.diff(sizes[:10]) < 0).all()


def test_log_probabilities_that_are_not_known_count_as_the_mean() -> None:
    rng = np.random.default_rng(4)
    features, lengths, logprobs = rng.normal(size=(30, 6)), np.full(30, 9), -rng.random(30)
    logprobs[3] = np.nan
    space = Space.fit(features, lengths, logprobs)
    phi = space(features, lengths, logprobs)
    assert np.isfinite(phi).all() and phi[3, -1] == 0
    assert space(features, lengths)[:, -1] == pytest.approx(np.zeros(30))
    assert np.nanmean(phi[:, -1]) == pytest.approx(0, abs=1e-9)
    assert phi[:, space.length] == pytest.approx(np.zeros(30))  # all of one length


def test_features_that_do_not_vary_or_do_not_fit_are_seen() -> None:
    flat = Space.fit(np.ones((5, 8)), np.arange(5))
    assert flat.dimensions <= 9 and np.isfinite(flat(np.ones((2, 8)), np.array([1, 9]))).all()
    with pytest.raises(DataError, match="embed the answers again"):
        flat(np.ones((2, 7)), np.ones(2))
    with pytest.raises(DataError):
        Space.fit(np.full((5, 2), np.inf), np.arange(5))
    with pytest.raises(DataError):
        Space.fit(np.ones((1, 2)), np.ones(1))


# weights


@given(kappa=st.floats(-1, 1))
def test_the_pull_of_a_weighted_comparison_at_gap_zero_is_the_reliability(kappa: float) -> None:
    weight = Weight.of(kappa)
    assert weight.weight * (1 - 2 * weight.noise) == pytest.approx(max(kappa, 0.0), abs=1e-12)
    assert 0 <= weight.noise <= 0.35 and 0 <= weight.weight <= 1
