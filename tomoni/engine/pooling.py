"""One vector for each row of a rectangle's states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tomoni.engine.batch import Tile


def pooled(tiles: Sequence[tuple[Tensor, Tile]], how: str) -> Tensor:
    """[N, D] of states [N, T, D] and their tiles, in the order of the micro-batch's rows: the first token's, the last
    one's, or the mean over all real tokens."""
    parts = [_pool(states_NTD, tile.lengths_N.to(states_NTD.device), how) for states_NTD, tile in tiles]
    order = torch.tensor([index for _, tile in tiles for index in tile.rows], device=parts[0].device)
    return torch.cat(parts)[torch.argsort(order)]


def _pool(hidden_NTD: Tensor, lengths_N: Tensor, how: str) -> Tensor:
    if how == "first":
        return hidden_NTD[:, 0]
    if how == "last":
        return hidden_NTD[torch.arange(len(lengths_N), device=lengths_N.device), lengths_N - 1]
    mask_NT = torch.arange(hidden_NTD.shape[1], device=lengths_N.device)[None] < lengths_N[:, None]
    return (hidden_NTD * mask_NT[..., None]).sum(1) / lengths_N[:, None]
