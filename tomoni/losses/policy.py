"""Losses of reinforcement learning on sampled completions. Torch only.

Rows are prompt and completion as they were sampled. `behaviour_P` holds the log-probabilities under the policy that
sampled them; where it is missing the policy has not moved since (its own, without gradient, stand in: the ratio is 1 and
the gradient that of REINFORCE). How a completion's tokens count is in the rows' weights, and in the unit they are divided
by: see `methods.grpo.weighted`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tomoni.losses import Outputs, Rows, Term, Unit

Estimator = Literal["k1", "k2", "k3", "k3_ratio"]


def clipped_policy(
    outputs: Outputs,
    rows: Rows,
    *,
    epsilon: float,
    epsilon_high: float | None = None,
    unit: Unit = "token",
    beta: float = 0.0,
    kl: Estimator = "k3_ratio",
) -> dict[str, Term]:
    """PPO's clipped surrogate, token by token (Schulman et al. 2017, equation 7), as GRPO uses it too (Shao et al. 2024,
    equation 3):

        - min(ratio A, clip(ratio, 1 - epsilon, 1 + epsilon_high) A)  + beta kl
    """
    assert rows.advantages_P is not None
    weights_P, advantages_P = rows.weights_P, rows.advantages_P
    log_ratio_P = outputs.logprobs_P - _behaviour(outputs, rows)
    ratio_P = log_ratio_P.exp()
    clipped_P = ratio_P.clamp(1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high))
    gain_P = torch.minimum(ratio_P * advantages_P, clipped_P * advantages_P)
    terms = {"loss": Term(-(gain_P * weights_P).sum(), unit)}
    with torch.no_grad():
        cut_P = (clipped_P * advantages_P < ratio_P * advantages_P).float()
        terms["policy/clipfrac_avg"] = Term((cut_P * weights_P).sum(), unit, metric=True)
        terms["policy/approxkl_avg"] = Term((0.5 * log_ratio_P.square() * weights_P).sum(), unit, metric=True)
    if beta:
        kl_P = kl_estimate(outputs.logprobs_P, rows.reference_P, kl, ratio_P=ratio_P)
        terms["kl"] = Term((kl_P * weights_P).sum(), unit, coefficient=beta)
    return terms


def clipped_sequence(
    outputs: Outputs, rows: Rows, *, epsilon: float, epsilon_high: float | None = None
) -> dict[str, Term]:
    """The surrogate with a completion as one action (Ahmadian et al. 2024): its ratio is that of the whole completion's
    probabilities. `advantages_P` is the same at all of a row's positions; the rows of an item share its weight evenly."""
    assert rows.advantages_P is not None
    log_ratio_N = rows.sum_per_row(outputs.logprobs_P - _behaviour(outputs, rows))
    ratio_N = log_ratio_N.exp()
    advantage_N = _first_per_row(rows, rows.advantages_P)
    share_N = rows.weight_B[rows.item_N] / torch.bincount(rows.item_N, minlength=len(rows.weight_B))[rows.item_N]
    clipped_N = ratio_N.clamp(1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high))
    gain_N = torch.minimum(ratio_N * advantage_N, clipped_N * advantage_N)
    terms = {"loss": Term(-(gain_N * share_N).sum(), "item")}
    with torch.no_grad():
        cut_N = (clipped_N * advantage_N < ratio_N * advantage_N).float()
        terms["policy/clipfrac_avg"] = Term((cut_N * share_N).sum(), "item", metric=True)
        terms["policy/approxkl_avg"] = Term((0.5 * log_ratio_N.square() * share_N).sum(), "item", metric=True)
    return terms


def clipped_value(outputs: Outputs, rows: Rows, *, cliprange: float, coefficient: float) -> dict[str, Term]:
    """Half the squared error of the values, or of the values held within `cliprange` of those before the update, whichever
    is larger (lm-human-preferences)."""
    assert outputs.scores_P is not None
    assert rows.values_P is not None
    assert rows.returns_P is not None
    value_P = outputs.scores_P[:, 0]
    held_P = rows.values_P + (value_P - rows.values_P).clamp(-cliprange, cliprange)
    error_P, held_error_P = (value_P - rows.returns_P).square(), (held_P - rows.returns_P).square()
    return {
        "loss/value_avg": Term(
            (0.5 * torch.maximum(error_P, held_error_P) * rows.weights_P).sum(), "token", coefficient=coefficient
        ),
        "val/clipfrac_avg": Term(
            ((held_error_P > error_P).float() * rows.weights_P).sum().detach(), "token", metric=True
        ),
    }


def ppo(outputs: Outputs, rows: Rows, *, cliprange: float, cliprange_value: float, vf_coef: float) -> dict[str, Term]:
    """The clipped surrogate and the values' loss, token by token."""
    return clipped_policy(outputs, rows, epsilon=cliprange) | clipped_value(
        outputs, rows, cliprange=cliprange_value, coefficient=vf_coef
    )


def kl_estimate(
    logprobs_P: Tensor, reference_P: Tensor | None, kind: Estimator, *, ratio_P: Tensor | None = None
) -> Tensor:
    """Of KL(policy || reference) at each sampled token, d = log p - log p_ref (Schulman 2020, "Approximating KL"):
    k1 = d, k2 = d²/2, k3 = exp(-d) - 1 + d; k3_ratio is k3 times p / p_behaviour, with the gradient of both factors
    (DeepSeek-V3.2, 2025).

    As part of a loss k2 and k3_ratio have the gradient of the divergence itself (d times that of log p), k3_ratio also
    where the policy has moved since it sampled; that of k3 is the gradient of KL(reference || policy), and k1 has none in
    expectation.
    """
    assert reference_P is not None
    d_P = logprobs_P - reference_P
    match kind:
        case "k1":
            return d_P
        case "k2":
            return 0.5 * d_P.square()
        case "k3":
            return (-d_P).exp() - 1 + d_P
        case "k3_ratio":
            assert ratio_P is not None
            return ratio_P * ((-d_P).exp() - 1 + d_P)


def _behaviour(outputs: Outputs, rows: Rows) -> Tensor:
    return outputs.logprobs_P.detach() if rows.behaviour_P is None else rows.behaviour_P


def _first_per_row(rows: Rows, values_P: Tensor) -> Tensor:
    """[P] -> [N] where all of a row's values are the same; 0 for a row without positions."""
    ones_N = rows.sum_per_row(torch.ones_like(values_P))
    return rows.sum_per_row(values_P) / ones_N.clamp(min=1)
