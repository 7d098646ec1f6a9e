"""Losses of models that score: which of two is better. Torch only."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from tomoni.losses import Outputs, Rows, Term
from tomoni.losses.preference import paired


def bradley_terry(
    outputs: Outputs, rows: Rows, *, label_smoothing: float = 0.0, center_rewards_coefficient: float = 0.0
) -> dict[str, Term]:
    """Bradley and Terry 1952 with a margin (Llama 2, equation 2) and a flip rate e, the larger of `label_smoothing` and
    the item's own noise; z = s(chosen) - s(rejected) - margin:

        - (1 - e) log sigmoid(z) - e log sigmoid(-z)  +  c (s(chosen) + s(rejected))²

    The second term holds scores about 0 (Eisenstein et al. 2023): pairs alone leave every prompt's level open.
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
    return terms | {
        name: Term((values_B * rows.weight_B).sum(), "item", metric=True) for name, values_B in found.items()
    }
