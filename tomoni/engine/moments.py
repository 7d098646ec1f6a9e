"""AdamW's state as tensors with names, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

KEYS = ("step", "exp_avg", "exp_avg_sq")


def named(optimizer: torch.optim.Optimizer, trained: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """KEY.NAME of every weight that has a state."""
    return {
        f"{key}.{name}": value.detach().cpu().contiguous()
        for name, weight in trained.items()
        for key, value in optimizer.state.get(weight, {}).items()
    }


def take_up(
    optimizer: torch.optim.Optimizer,
    trained: Mapping[str, nn.Parameter],
    moments: Mapping[str, Tensor],
    device: torch.device,
) -> None:
    """Give the optimizer what `named` gave; a weight without moments there had none."""
    optimizer.state.clear()
    for name, weight in trained.items():
        if f"step.{name}" in moments:
            optimizer.state[weight] = {
                key: moments[f"{key}.{name}"].to(device if key != "step" or device.type == "cuda" else "cpu")
                for key in KEYS
            }
