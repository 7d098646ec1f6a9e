"""The head that is solved for, against scikit-learn and by the condition that every optimum meets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss

from tomoni.engine import linear
from tomoni.engine.linear import STRENGTHS, solve

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(240, 12)) * np.linspace(0.1, 30, 12) + 5).astype(np.float32)
TRUE = RNG.normal(size=(12, 3)) / np.linspace(0.1, 30, 12)[:, None]
LABELS = (((X - 5) @ TRUE) + RNG.gumbel(size=(240, 3))).argmax(1)


def evened(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)) / (x.std(0) * np.sqrt(x.shape[1]))


def test_classes_are_scikit_learns_logistic_regression() -> None:
    found = solve(X, LABELS, kind="class", size=3, strength=1e-3)
    other = LogisticRegression(C=1 / (1e-3 * len(X)), max_iter=10_000, tol=1e-10).fit(
        evened(X.astype(np.float64)), LABELS
    )
    scores = X.astype(np.float64) @ found.weight_CD.T + found.bias_C
    p = np.exp(scores - scores.max(1, keepdims=True))
    np.testing.assert_allclose(
        p / p.sum(1, keepdims=True), other.predict_proba(evened(X.astype(np.float64))), atol=2e-3
    )


def test_numbers_are_scikit_learns_ridge() -> None:
    numbers = (X @ TRUE)[:, 0] + RNG.normal(size=240)
    found = solve(X, numbers, kind="number", size=1, strength=1e-3)
    other = Ridge(alpha=1e-3 * len(X)).fit(evened(X.astype(np.float64)), numbers)
    np.testing.assert_allclose(
        X @ found.weight_CD[0] + found.bias_C[0], other.predict(evened(X.astype(np.float64))), rtol=1e-3, atol=1e-3
    )


def test_each_of_several_classes_is_a_logistic_regression_of_its_own() -> None:
    marks = (((X - 5) @ TRUE) > 0).astype(np.float32)
    found = solve(X, marks, kind="classes", size=3, strength=1e-3)
    for c in range(3):
        # the mean over classes makes each one's loss a third
        other = LogisticRegression(C=1 / (3e-3 * len(X)), max_iter=10_000, tol=1e-10).fit(
            evened(X.astype(np.float64)), marks[:, c]
        )
        p = 1 / (1 + np.exp(-(X.astype(np.float64) @ found.weight_CD[c] + found.bias_C[c])))
        np.testing.assert_allclose(p, other.predict_proba(evened(X.astype(np.float64)))[:, 1], atol=5e-3)


def test_rows_of_weight_two_count_as_if_they_stood_there_twice() -> None:
    weights = np.where(np.arange(240) < 60, 2.0, 1.0)
    one = solve(X, LABELS, kind="class", size=3, weights_N=weights, strength=1e-2)
    # features are evened by the rows as they stand, so the strength means another thing where rows are doubled: by scores
    same = solve(X, LABELS, kind="class", size=3, weights_N=2 * weights, strength=1e-2)
    np.testing.assert_allclose(one.weight_CD, same.weight_CD, rtol=1e-6)
    plain = solve(X, LABELS, kind="class", size=3, strength=1e-2)
    assert np.abs(one.weight_CD - plain.weight_CD).max() > 1e-4


def test_the_same_rows_give_the_same_head_to_the_bit() -> None:
    one, other = (solve(X, LABELS, kind="class", size=3, seed=3) for _ in range(2))
    assert one.weight_CD.tobytes() == other.weight_CD.tobytes() and one.strength == other.strength
    assert one.strength in STRENGTHS


def test_without_a_bias_the_scores_at_zero_are_zero() -> None:
    found = solve(X, LABELS, kind="class", size=3, bias=False, strength=1e-3)
    assert not found.bias_C.any()
    assert ((X @ found.weight_CD.T).argmax(1) == LABELS).mean() > 0.6


def test_a_feature_that_never_changes_does_no_harm() -> None:
    still = np.concatenate([X, np.full((240, 1), 7, dtype=np.float32)], 1)
    found = solve(still, LABELS, kind="class", size=3, strength=1e-3)
    assert np.isfinite(found.weight_CD).all()
    assert found.loss == pytest.approx(solve(X, LABELS, kind="class", size=3, strength=1e-3).loss, rel=0.02)


def test_a_feature_that_hardly_moves_gets_no_giant_weight() -> None:
    """MiniLM has a feature of a spread of 1e-6 beside others of a tenth; with a weight of millions on it the next step of
    training would throw the model far away."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, size=300)
    features = (random.normal(size=(300, 8)) + 2 * np.eye(3, 8)[labels]).astype(np.float32)
    faint = features.copy()
    faint[:, 5] = 1e-6 * random.normal(size=300)
    found = solve(faint, labels, kind="class", size=3)
    assert np.abs(found.weight_CD).max() < 100
    without = solve(np.delete(faint, 5, 1), labels, kind="class", size=3)
    assert found.loss == pytest.approx(without.loss, abs=5e-3)


def test_scores_are_held_in_parts_where_there_are_many_and_the_solution_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = solve(X, LABELS, kind="class", size=3, strength=1e-3)
    seen: list[int] = []
    scores = linear._Problem.scores

    def counted(self: linear._Problem, flat: np.ndarray, x_ND: torch.Tensor) -> torch.Tensor:
        seen.append(len(x_ND) * self.size)
        return scores(self, flat, x_ND)

    monkeypatch.setattr(linear._Problem, "scores", counted)
    monkeypatch.setattr(linear, "SCORES_AT_ONCE", 100)
    parts = solve(X, LABELS, kind="class", size=3, strength=1e-3)
    assert max(seen) <= 100 and sum(seen) >= 240 * 3
    np.testing.assert_allclose(parts.weight_CD, whole.weight_CD, rtol=1e-3, atol=1e-4)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)


def many_classes(classes: int = 40, each: int = 30) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(3)
    centres = draw.normal(size=(classes, 16))
    labels = np.repeat(np.arange(classes), each)
    return (centres[labels] + 0.8 * draw.normal(size=(len(labels), 16))).astype(np.float32), labels


def test_where_classes_are_very_many_the_strength_is_chosen_on_some_and_the_head_is_nearly_as_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nearly as good as scikit-learn's with the best of the same strengths, on rows that neither has seen."""
    x, labels = many_classes()
    seen, unseen = np.arange(len(labels)) % 3 != 0, np.arange(len(labels)) % 3 == 0
    sizes: list[int] = []
    solved = linear._Problem.solved

    def watched(self: linear._Problem, *args: object, **named: object) -> object:
        sizes.append(self.size)
        return solved(self, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(linear._Problem, "solved", watched)
    monkeypatch.setattr(linear, "LARGE", int(seen.sum()) * 16 * 40 // 4)
    found = solve(x[seen], labels[seen], kind="class", size=40)
    assert set(sizes[:-1]) == {20} and sizes[-1] == 40  # half of the classes: a quarter of the work
    mean, spread = x[seen].mean(0), x[seen].std(0) * np.sqrt(16)
    best = min(
        log_loss(
            labels[unseen],
            LogisticRegression(C=1 / (strength * seen.sum()), max_iter=2000)
            .fit((x[seen] - mean) / spread, labels[seen])
            .predict_proba((x[unseen] - mean) / spread),
        )
        for strength in STRENGTHS
    )
    scores = x[unseen] @ found.weight_CD.T + found.bias_C
    assert (
        log_loss(labels[unseen], softmax(scores, axis=1)) <= 1.5 * best
    )  # over the strengths it goes from 1 to 11 times


def test_of_very_many_independent_classes_some_columns_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = np.stack([kind == LABELS for kind in (0, 1, 2)], 1).astype(np.float64)
    exact = solve(X, wanted, kind="classes", size=3, strength=1e-3)
    monkeypatch.setattr(linear, "LARGE", X.size * 2)
    single = solve(X, wanted, kind="classes", size=3, strength=1e-3)
    np.testing.assert_allclose(single.weight_CD, exact.weight_CD, rtol=2e-2, atol=2e-3)
    assert solve(X, wanted, kind="classes", size=3).strength in STRENGTHS


def test_every_round_is_told_and_whoever_hears_it_may_end_the_search() -> None:
    heard: list[int] = []
    found = solve(X, LABELS, kind="class", size=3, strength=1e-3, told=heard.append)
    assert heard == list(range(1, found.rounds + 1))

    def stop(rounds: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve(X, LABELS, kind="class", size=3, told=stop)
