"""Losses against numbers worked out from the papers' formulas, and gradients against finite differences, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.losses.test_trl import minimised, outputs, rows_of
from tomoni.losses import Outputs, Rows, Term, nll, policy, preference, ranking
from tomoni.report import CalibrationError

COUNTS = {"token": 7.0, "item": 2.0}
MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0]])  # two pairs: answers of 3 and 1, of 2 and 1 tokens
POLICY = (-0.5, -1.0, -0.25, -2.0, -0.75, -0.1, -3.0)
REFERENCE = (-0.7, -0.9, -0.5, -1.5, -1.0, -0.4, -2.5)
# log p/p_ref of the rows: .2 - .1 + .25 = .35, -.5, .25 + .3 = .55, -.5
RATIOS = (0.35, -0.5, 0.55, -0.5)


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pair_rows(**columns: Any) -> Rows:
    return rows_of(MASK, torch.tensor([0, 0, 1, 1]), reference_P=tensor(REFERENCE), **columns)


def log_sigmoid(x: float) -> float:
    return -math.log(1 + math.exp(-x))


def value(terms: dict[str, Term]) -> float:
    return minimised(terms, COUNTS).item()


def dpo(rows: Rows | None = None, logprobs: Any = POLICY, **how: Any) -> dict[str, Term]:
    return preference.dpo(outputs(tensor(logprobs)), rows or pair_rows(), **({"beta": 0.5} | how))


def test_a_conservative_choice_counts_its_opposite_too() -> None:
    expected = [
        -(1 - 0.1) * log_sigmoid(0.5 * h) - 0.1 * log_sigmoid(-0.5 * h)
        for h in (RATIOS[0] - RATIOS[1], RATIOS[2] - RATIOS[3])
    ]
    assert value(dpo(label_smoothing=0.1)) == pytest.approx(sum(expected) / 2, rel=1e-12)


def test_an_items_own_noise_wins_where_it_is_larger() -> None:
    both = dpo(pair_rows(noise_B=tensor([0.3, 0.05])), label_smoothing=0.1)
    parts = [
        -(1 - e) * log_sigmoid(0.5 * h) - e * log_sigmoid(-0.5 * h)
        for e, h in ((0.3, RATIOS[0] - RATIOS[1]), (0.1, RATIOS[2] - RATIOS[3]))
    ]
    assert value(both) == pytest.approx(sum(parts) / 2, rel=1e-12)


def test_robust_dpo_is_unbiased_under_flips() -> None:
    """The mean over flips of the loss with flips is the loss without."""
    e = 0.2
    flipped = [POLICY[3], *POLICY[:3], POLICY[6], *POLICY[4:6]]
    reference = [REFERENCE[3], *REFERENCE[:3], REFERENCE[6], *REFERENCE[4:6]]
    mask = torch.tensor([[1, 0, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]])
    other = rows_of(mask, torch.tensor([0, 0, 1, 1]), reference_P=tensor(reference))
    how = {"loss_type": "robust", "label_smoothing": e}
    mean = (1 - e) * value(dpo(**how)) + e * value(dpo(other, flipped, **how))
    assert mean == pytest.approx(value(dpo()), rel=1e-12)


def test_noise_beyond_its_bound_makes_robust_dpo_no_wilder() -> None:
    at_bound = value(dpo(loss_type="robust", label_smoothing=preference.MOST_NOISE))
    assert value(dpo(loss_type="robust", label_smoothing=0.49)) == at_bound
    assert math.isfinite(at_bound)


def test_swapped_answers_negate_the_margin() -> None:
    swapped = rows_of(
        MASK[[1, 0, 3, 2]],
        torch.tensor([0, 0, 1, 1]),
        reference_P=tensor([REFERENCE[3], *REFERENCE[:3], REFERENCE[6], *REFERENCE[4:6]]),
    )
    logprobs = [POLICY[3], *POLICY[:3], POLICY[6], *POLICY[4:6]]
    found, other = dpo(), dpo(swapped, logprobs)
    assert other["rewards/margins"].sum.item() == pytest.approx(-found["rewards/margins"].sum.item(), rel=1e-12)
    assert found["rewards/accuracies"].sum.item() == 2
    assert other["rewards/accuracies"].sum.item() == 0


def test_answers_that_are_alike_are_half_right() -> None:
    rows = rows_of(MASK[[1, 1]], torch.tensor([0, 0]), reference_P=tensor([-1.0, -1.0]))
    terms = preference.dpo(outputs(tensor([-2.0, -2.0])), rows, beta=0.1)
    assert terms["rewards/accuracies"].sum.item() == 0.5
    assert terms["loss"].sum.item() == pytest.approx(math.log(2))


def test_an_items_weight_multiplies_its_loss() -> None:
    weighted = dpo(pair_rows(weight_B=tensor([3.0, 0.0])))["loss"].sum.item()
    alone = -log_sigmoid(0.5 * (RATIOS[0] - RATIOS[1]))
    assert weighted == pytest.approx(3 * alone, rel=1e-12)


def test_orpo_by_hand() -> None:
    terms = preference.orpo(outputs(tensor(POLICY)), pair_rows(), beta=0.3)
    means = [-1.75 / 3, -2.0, -0.85 / 2, -3.0]
    odds = [mean - math.log(1 - math.exp(mean)) for mean in means]
    expected = -(means[0] + means[2]) / 2
    expected += -0.3 * (log_sigmoid(odds[0] - odds[1]) + log_sigmoid(odds[2] - odds[3])) / 2
    assert value(terms) == pytest.approx(expected, rel=1e-12)


def test_certain_tokens_leave_orpo_finite() -> None:
    logprobs = tensor([0.0] * 7).requires_grad_()
    found = minimised(preference.orpo(outputs(logprobs), pair_rows(), beta=0.3), COUNTS)
    assert math.isfinite(found.item())
    assert torch.isfinite(torch.autograd.grad(found, logprobs)[0]).all()


def test_a_score_is_centred_and_its_margin_wanted() -> None:
    scores = tensor([1.5, 0.5, -0.25, 1.0])
    rows = rows_of(torch.zeros(4, 1), torch.tensor([0, 0, 1, 1]), margin_B=tensor([0.4, 0.0]), noise_B=tensor([0.0, 0.25]))  # fmt: skip
    none = torch.zeros(0)
    terms = ranking.bradley_terry(Outputs(none, none, scores_N=scores[:, None]), rows, center_rewards_coefficient=0.1)
    expected = -log_sigmoid(1.0 - 0.4) - 0.75 * log_sigmoid(-1.25) - 0.25 * log_sigmoid(1.25)
    expected += 0.1 * (2.0**2 + 0.75**2)
    assert value(terms) == pytest.approx(expected / 2, rel=1e-12)
    assert terms["accuracy"].sum.item() == 1
    assert terms["margin"].sum.item() == pytest.approx(1.0 - 1.25)


# -- policies --------------------------------------------------------------------------------------------------------


def sampled(**columns: Any) -> Rows:
    usual = {"advantages_P": tensor([1.0, 1.0, 1.0, -2.0, 0.5, 0.5, -1.0]), "behaviour_P": tensor(REFERENCE)}
    return rows_of(MASK, torch.tensor([0, 0, 1, 1]), **(usual | columns))


def test_the_clipped_surrogate_by_hand() -> None:
    terms = policy.clipped_policy(outputs(tensor(POLICY)), sampled(), epsilon=0.2, epsilon_high=0.25)
    gains, cut = [], 0
    for new, old, advantage in zip(POLICY, REFERENCE, (1.0, 1.0, 1.0, -2.0, 0.5, 0.5, -1.0), strict=True):
        ratio = math.exp(new - old)
        clipped = min(max(ratio, 0.8), 1.25)
        gains.append(min(ratio * advantage, clipped * advantage))
        cut += clipped * advantage < ratio * advantage
    assert value(terms) == pytest.approx(-sum(gains) / 7, rel=1e-12)
    assert cut == 5 == terms["policy/clipfrac_avg"].sum.item()


def test_the_clipped_value_by_hand() -> None:
    scores = tensor([0.5, -0.2, 1.0, 0.0, 2.0, 0.3, -1.0])
    before = tensor([0.1, 0.0, 0.9, 0.4, 0.1, 0.3, -0.9])
    returns = tensor([1.0, 0.5, 0.2, 0.1, 0.0, 0.3, -2.0])
    terms = policy.clipped_value(
        Outputs(scores, scores, scores_P=scores[:, None]),
        sampled(values_P=before, returns_P=returns),
        cliprange=0.2,
        coefficient=0.1,
    )
    losses, held = [], 0
    for now, then, wanted in zip(scores.tolist(), before.tolist(), returns.tolist(), strict=True):
        near = then + min(max(now - then, -0.2), 0.2)
        losses.append(0.5 * max((now - wanted) ** 2, (near - wanted) ** 2))
        held += (near - wanted) ** 2 > (now - wanted) ** 2
    assert terms["loss/value_avg"].sum.item() == pytest.approx(sum(losses), rel=1e-12)
    assert terms["loss/value_avg"].coefficient == 0.1
    assert terms["val/clipfrac_avg"].sum.item() == held == 1


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_the_estimators_of_a_divergence_have_its_mean(kind: Any) -> None:
    """k1 and k3 exactly, k2 up to third order, for distributions that are near."""
    p, q = torch.softmax(tensor([0.3, -0.2, 0.5, 0.0]), 0), torch.softmax(tensor([0.25, -0.1, 0.45, 0.05]), 0)
    exact = float((p * (p / q).log()).sum())
    estimate = float((p * policy.kl_estimate(p.log(), q.log(), kind)).sum())
    assert estimate == pytest.approx(exact, rel=1e-12 if kind != "k2" else 0.05)


def test_k2_and_k3_ratio_have_the_gradient_of_the_divergence_and_k3_that_of_its_reverse() -> None:
    logits = tensor([0.3, -0.2, 0.5, 0.0]).requires_grad_()
    q = torch.softmax(tensor([-0.5, 0.4, 0.2, 0.1]), 0)
    p = torch.softmax(logits, 0)
    (forward,) = torch.autograd.grad((p * (p / q).log()).sum(), logits, retain_graph=True)
    (reverse,) = torch.autograd.grad((q * (q / p).log()).sum(), logits, retain_graph=True)
    ratio = p / p.detach()
    for kind, expected in (("k2", forward), ("k3", reverse), ("k3_ratio", forward)):
        estimate = (p.detach() * policy.kl_estimate(p.log(), q.log(), kind, ratio_P=ratio)).sum()  # type: ignore[arg-type]
        torch.testing.assert_close(torch.autograd.grad(estimate, logits, retain_graph=True)[0], expected)


def test_k3_ratio_has_the_gradient_of_the_divergence_where_another_policy_sampled_too() -> None:
    logits = tensor([0.3, -0.2, 0.5, 0.0]).requires_grad_()
    q = torch.softmax(tensor([-0.5, 0.4, 0.2, 0.1]), 0)
    sampled_by = torch.softmax(tensor([0.0, 0.3, -0.4, 0.2]), 0)
    p = torch.softmax(logits, 0)
    (expected,) = torch.autograd.grad((p * (p / q).log()).sum(), logits, retain_graph=True)
    estimate = (sampled_by * policy.kl_estimate(p.log(), q.log(), "k3_ratio", ratio_P=p / sampled_by)).sum()
    torch.testing.assert_close(torch.autograd.grad(estimate, logits)[0], expected)


# -- gradients -------------------------------------------------------------------------------------------------------

VALUES = {
    "values_P": tensor([0.1, 0.0, 0.9, 0.4, 0.1, 0.3, -0.9]),
    "returns_P": tensor([1.0, 0.5, 0.2, 0.1, 0.0, 0.35, -2.0]),
    "reference_P": tensor([-0.6, -1.2, -0.3, -1.9, -0.5, -0.2, -2.6]),
}
LOSSES: dict[str, Callable[[Outputs], dict[str, Term]]] = {
    "nll": lambda out: nll(out, pair_rows()),
    "dpo": lambda out: preference.dpo(out, pair_rows(), beta=0.5, label_smoothing=0.1),
    "robust": lambda out: preference.dpo(out, pair_rows(), beta=0.5, loss_type="robust", label_smoothing=0.1),
    "ipo": lambda out: preference.dpo(out, pair_rows(), beta=0.5, loss_type="ipo"),
    "hinge": lambda out: preference.dpo(out, pair_rows(), beta=0.5, loss_type="hinge"),
    "simpo": lambda out: preference.simpo(out, pair_rows(), beta=2.0, gamma=0.5, label_smoothing=0.1),
    "orpo": lambda out: preference.orpo(out, pair_rows(), beta=0.3),
    "grpo": lambda out: policy.clipped_policy(out, sampled(**VALUES), epsilon=0.3, beta=0.2, kl="k3"),
    "grpo, ratio": lambda out: policy.clipped_policy(out, sampled(**VALUES), epsilon=0.3, beta=0.2, kl="k3_ratio"),
    "rloo": lambda out: policy.clipped_sequence(out, sampled(), epsilon=0.5),
    "ppo": lambda out: policy.ppo(out, sampled(**VALUES), cliprange=0.2, cliprange_value=0.3, vf_coef=0.5),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_gradient_is_the_slope_of_its_loss(name: str) -> None:
    def loss(logprobs_P: Tensor, scores_P: Tensor) -> Tensor:
        out = Outputs(logprobs_P, torch.zeros_like(logprobs_P), scores_P=scores_P[:, None])
        return minimised(LOSSES[name](out), COUNTS)

    leaves = (tensor(POLICY).requires_grad_(), tensor([0.5, -0.2, 1.0, 0.1, 2.0, 0.31, -1.0]).requires_grad_())
    assert torch.autograd.gradcheck(loss, leaves, eps=1e-6, atol=1e-7)


def test_the_calibration_error_by_hand_however_the_pairs_are_grouped() -> None:
    """Bins of confidence from .5 to 1, each .05 wide; a bin's share times the distance of its means."""
    gaps = [0.0, 0.15, -0.15, 1.2, 1.3, -1.25, 4.0, 5.0, -0.02, 30.0, 0.6, 0.9]
    bins: dict[int, list[tuple[float, float]]] = {}
    for gap in gaps:
        sure = 1 / (1 + math.exp(-abs(gap)))
        right = 1.0 if gap > 0 else 0.5 if gap == 0 else 0.0
        bins.setdefault(min(9, int((sure - 0.5) / 0.05)), []).append((sure, right))
    expected = sum(
        len(found)
        / len(gaps)
        * abs(sum(sure for sure, _ in found) / len(found) - sum(right for _, right in found) / len(found))
        for found in bins.values()
    )
    assert len(bins) >= 4

    def measured(some: list[float]) -> CalibrationError:
        sums = [float(values.sum()) for values in ranking.calibration_gaps(tensor(some)).values()]
        return CalibrationError.of(sums, len(some))

    assert measured(gaps).value == pytest.approx(expected, rel=1e-9)
    assert (measured(gaps[:3]) + measured(gaps[3:])).value == pytest.approx(expected, rel=1e-9)


def test_a_model_that_is_as_sure_as_it_is_right_has_next_to_no_calibration_error() -> None:
    draw = torch.Generator().manual_seed(0)
    gap = torch.randn(200_000, generator=draw, dtype=torch.float64).abs() * 2
    right = torch.rand(200_000, generator=draw, dtype=torch.float64) < torch.sigmoid(gap)
    sums = ranking.calibration_gaps(torch.where(right, gap, -gap)).values()
    assert CalibrationError.of([float(values.sum()) for values in sums], 200_000).value < 0.005
