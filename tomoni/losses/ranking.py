"""Losses of models that score: which of two is better. Torch only."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tomoni.losses import Outputs, Rows, Term
from tomoni.losses.preference import paired

BINS = 10  # of confidence, from 1/2 to 1
GAP = "calibration/"


def bradley_terry(
    outputs: Outputs,
    rows: Rows,
    *,
    label_smoothing: float = 0.0,
    center_rewards_coefficient: float = 0.0,
    calibration: bool = False,
) -> dict[str, Term]:
    """Bradley and Terry 1952 with a margin (Llama 2, equation 2) and a flip rate e, the larger of `label_smoothing` and
    the item's own noise; z = s(chosen) - s(rejected) - margin:

        - (1 - e) log sigmoid(z) - e log sigmoid(-z)  +  c (s(chosen) + s(rejected))²

    The second term holds scores about 0 (Eisenstein et al. 2023): pairs alone leave every prompt's level open.
    `calibration`: with the sums that `methods.reward` makes the expected calibration error of.
    """
    assert outputs.scores_N is not None
    chosen_B, rejected_B = paired(outputs.scores_N[:, 0])
    gap_B = chosen_B - rejected_B
    z_B = gap_B - rows.margin_B
    e_B = rows.noise_B.clamp(min=label_smoothing)
    loss_B = -(1 - e_B) * logsigmoid(z_B) - e_B * logsigmoid(-z_B)
    terms = {"loss": Term((loss_B * rows.weight_B).sum(), "item")}
    if center_rewards_coefficient:
        centre_B = (chosen_B + rejected_B).square()
        terms["center"] = Term((centre_B * rows.weight_B).sum(), "item", coefficient=center_rewards_coefficient)
    gap_B = gap_B.detach()
    found = {
        "accuracy": (gap_B > 0).float() + 0.5 * (gap_B == 0).float(),
        "margin": gap_B,
        "mean_reward": 0.5 * (chosen_B + rejected_B).detach(),
        "brier": torch.sigmoid(-gap_B).square(),
    }
    found |= calibration_gaps(gap_B) if calibration else {}
    return terms | {
        name: Term((values_B * rows.weight_B).sum(), "item", metric=True) for name, values_B in found.items()
    }


def calibration_gaps(gap_B: Tensor) -> dict[str, Tensor]:
    """For each bin of confidence, [B]: how sure the model is of its own choice, max(p, 1 - p) with p = sigmoid(gap),
    minus whether that choice is right; 0 outside of the bin. Sums of these add up over any grouping of pairs."""
    sure_B = torch.sigmoid(gap_B.abs())
    right_B = (gap_B > 0).to(sure_B.dtype) + 0.5 * (gap_B == 0)
    bin_B = ((sure_B - 0.5) * (2 * BINS)).long().clamp(max=BINS - 1)
    return {f"{GAP}{number}": (sure_B - right_B) * (bin_B == number) for number in range(BINS)}
