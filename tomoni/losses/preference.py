"""Losses on preferences: pairs of a chosen and a rejected answer, and single answers with a thumb. Torch only.

An item is a pair, its first row the chosen answer; log p(y) is the sum of the log-probabilities of a row's trained
tokens. Every loss is a sum over items times their weights.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tomoni.losses import Outputs, Rows, Term

DpoLoss = Literal["sigmoid", "ipo", "hinge", "robust"]
ROUNDING = 1e-5  # of rewards: nearer than this they are equal, as at the start, where policy and reference are the same
MOST_NOISE = 0.35  # beyond it 1 / (1 - 2 e) makes more noise than it removes


def dpo(
    outputs: Outputs, rows: Rows, *, beta: float, loss_type: DpoLoss = "sigmoid", label_smoothing: float = 0.0
) -> dict[str, Term]:
    """Direct preference optimisation. With h = log p(chosen)/p_ref(chosen) - log p(rejected)/p_ref(rejected) and a flip
    rate e, the larger of `label_smoothing` and the item's own noise:

    sigmoid  - (1 - e) log s(beta h) - e log s(-beta h)               Rafailov et al. 2023, equation 7; e > 0: cDPO
    robust   (that of a choice - e that of its opposite) / (1 - 2 e)   Chowdhury et al. 2024: unbiased under flips
    hinge    max(0, 1 - beta h)                                       Zhao et al. 2023 (SLiC)
    ipo      (h per token - 1 / (2 beta))²                            Azar et al. 2023, equation 17
    """
    assert rows.reference_P is not None
    ratio_N = rows.sum_per_row(outputs.logprobs_P - rows.reference_P)
    chosen_B, rejected_B = paired(ratio_N)
    h_B = chosen_B - rejected_B
    e_B = rows.noise_B.clamp(min=label_smoothing)
    match loss_type:
        case "sigmoid":
            loss_B = -(1 - e_B) * logsigmoid(beta * h_B) - e_B * logsigmoid(-beta * h_B)
        case "robust":
            e_B = e_B.clamp(max=MOST_NOISE)
            loss_B = (-(1 - e_B) * logsigmoid(beta * h_B) + e_B * logsigmoid(-beta * h_B)) / (1 - 2 * e_B)
        case "hinge":
            loss_B = torch.relu(1 - beta * h_B)
        case "ipo":
            first_B, second_B = paired(ratio_N / _lengths(rows))
            loss_B = (first_B - second_B - 1 / (2 * beta)).square()
    return {"loss": Term((loss_B * rows.weight_B).sum(), "item")} | _rewards(
        outputs, rows, beta * chosen_B, beta * rejected_B
    )


def simpo(outputs: Outputs, rows: Rows, *, beta: float, gamma: float, label_smoothing: float = 0.0) -> dict[str, Term]:
    """Simple preference optimisation (Meng et al. 2024, equation 6): mean log-probabilities, no reference, a margin.

    - log s(beta (log p(chosen) / |chosen| - log p(rejected) / |rejected|) - gamma)
    """
    chosen_B, rejected_B = paired(beta * rows.sum_per_row(outputs.logprobs_P) / _lengths(rows))
    h_B = chosen_B - rejected_B - gamma
    e_B = rows.noise_B.clamp(min=label_smoothing)
    loss_B = -(1 - e_B) * logsigmoid(h_B) - e_B * logsigmoid(-h_B)
    return {"loss": Term((loss_B * rows.weight_B).sum(), "item")} | _rewards(outputs, rows, chosen_B, rejected_B)


def orpo(outputs: Outputs, rows: Rows, *, beta: float) -> dict[str, Term]:
    """Odds ratio preference optimisation (Hong et al. 2024, equations 6 and 7), with p(y) the geometric mean of the
    tokens' probabilities:

    - log p(chosen)  - beta log s(log odds(chosen) - log odds(rejected)),   odds(y) = p(y) / (1 - p(y))
    """
    mean_N = rows.sum_per_row(outputs.logprobs_P) / _lengths(rows)
    chosen_B, rejected_B = paired(mean_N)
    odds_N = mean_N - torch.log(-torch.expm1(mean_N.clamp(max=-1e-6)))  # p = 1 has no odds
    first_B, second_B = paired(odds_N)
    return {
        "loss": Term(-(chosen_B * rows.weight_B).sum(), "item"),
        "odds_ratio_loss": Term(-(logsigmoid(first_B - second_B) * rows.weight_B).sum(), "item", coefficient=beta),
    } | _rewards(outputs, rows, beta * chosen_B, beta * rejected_B)


def kto(
    outputs: Outputs,
    rows: Rows,
    *,
    beta: float,
    reference_point: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> dict[str, Term]:
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, equation 8): one row an item, its label says whether it was
    liked. `reference_point` is z0, an estimate of KL(policy || reference) over the whole step, without gradient.

    desirable:  w_d (1 - s(beta (log p/p_ref - z0)))      undesirable:  w_u (1 - s(beta (z0 - log p/p_ref)))
    """
    assert rows.reference_P is not None
    assert rows.label_N is not None
    ratio_N = rows.sum_per_row(outputs.logprobs_P - rows.reference_P)
    good_N = rows.label_N > 0
    sign_N = torch.where(good_N, 1.0, -1.0)
    weight_N = torch.where(good_N, desirable_weight, undesirable_weight) * rows.weight_B
    loss_N = 1 - torch.sigmoid(beta * sign_N * (ratio_N - reference_point))
    reward_N = (beta * ratio_N).detach() * rows.weight_B
    return {
        "loss": Term((loss_N * weight_N).sum(), "item"),
        "rewards/signed": Term((reward_N * sign_N).sum(), "item", metric=True),
        "accuracy": Term(
            ((beta * (ratio_N - reference_point) > ROUNDING) == good_N).float().mul(rows.weight_B).sum(),
            "item",
            metric=True,
        ),
    }


def paired(values_N: Tensor) -> tuple[Tensor, Tensor]:
    """[2 B] -> the chosen answers' [B], the rejected answers' [B]."""
    chosen_B, rejected_B = values_N.view(-1, 2).unbind(1)
    return chosen_B, rejected_B


def _lengths(rows: Rows) -> Tensor:
    """[N] trained tokens of each row."""
    return torch.bincount(rows.row_P, minlength=len(rows.item_N)).clamp(min=1).to(rows.weights_P.dtype)


def _rewards(outputs: Outputs, rows: Rows, chosen_B: Tensor, rejected_B: Tensor) -> dict[str, Term]:
    """What TRL's trainers log: implicit rewards, and log-probabilities of whole answers."""
    chosen_B, rejected_B = chosen_B.detach(), rejected_B.detach()
    margin_B = chosen_B - rejected_B
    right_B = (margin_B > ROUNDING).float() + 0.5 * (margin_B.abs() <= ROUNDING).float()
    first_B, second_B = paired(rows.sum_per_row(outputs.logprobs_P.detach()))
    found = {
        "rewards/chosen": chosen_B,
        "rewards/rejected": rejected_B,
        "rewards/margins": margin_B,
        "rewards/accuracies": right_B,
        "logps/chosen": first_B,
        "logps/rejected": second_B,
    }
    return {name: Term((values_B * rows.weight_B).sum(), "item", metric=True) for name, values_B in found.items()}
