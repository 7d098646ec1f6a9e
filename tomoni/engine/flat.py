"""The body of a Llama-like decoder over the tokens of many rows laid one after another.

Only attention needs to know where a row begins, so all products run over all tokens at once: rows of any lengths share
them, and padding is only what rows of one rectangle differ by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tomoni.engine.batch import Tile
from tomoni.engine.blueprint import Blueprint, Layer
from tomoni.engine.fused import Attention, Mlp, NormProject, ProjectAdd, Rectangle, RmsNorm, Rotate

# what one more rectangle costs, in tokens: only attention runs over rectangles here
RECTANGLE_COST = 24


@dataclass(frozen=True, slots=True)
class Layout:
    """Where rows stand among the N tokens, and each token's cosines and sines [N, 1, d / 2]."""

    rectangles: tuple[Rectangle, ...]
    cos_N1d: Tensor
    sin_N1d: Tensor


class FlatDecoder:
    """Runs a blueprint's layers. `refresh` comes before the first use and after every change of a weight."""

    def __init__(self, blueprint: Blueprint, *, keep_no_activations: bool = False) -> None:
        self.blueprint = blueprint
        self.keep_no_activations = keep_no_activations
        self._rotations: tuple[Tensor, Tensor] | None = None

    def refresh(self) -> None:
        self.blueprint.refresh()

    def fits(self, tiles: Sequence[Tile]) -> bool:
        """Whether every row is within the model's window, where it has one."""
        window = self.blueprint.window
        return window is None or all(tile.tokens_NT.shape[1] + tile.before <= window for tile in tiles)

    def hidden(self, tiles: Sequence[Tile], *, at_P: Tensor | None = None) -> Tensor:
        """[N, D] after the last layer and its norm, of the rectangles' tokens (padding included) one after another; or
        [P, D] of the tokens `at_P` alone: what follows the last layer's attention is then computed for these only."""
        layout = self.layout([tuple(tile.tokens_NT.shape) for tile in tiles], [tile.behind for tile in tiles])
        first, x_ND = self._entering(tiles)
        layers = self.blueprint.layers[first:]
        if not layers:
            return self.after(x_ND if at_P is None else x_ND.index_select(0, at_P))
        for layer in layers[:-1]:
            x_ND = self.through(layer, x_ND, layout)
        return self.after(self.through(layers[-1], x_ND, layout, at_P))

    def lowest(self, count: int, tiles: Sequence[Tile]) -> Tensor:
        """[N, D] after the lowest `count` layers."""
        layout = self.layout([tuple(tile.tokens_NT.shape) for tile in tiles])
        _, x_ND = self._entering(tiles)
        for layer in self.blueprint.layers[:count]:
            x_ND = self.through(layer, x_ND, layout)
        return x_ND

    def _entering(self, tiles: Sequence[Tile]) -> tuple[int, Tensor]:
        """The first layer that runs, and what enters it [N, D]."""
        known = [tile.entering for tile in tiles if tile.entering is not None]
        if known:
            return known[0].layer, torch.cat([entering.states_NTD.flatten(0, 1) for entering in known])
        return 0, self.blueprint.embedding(torch.cat([tile.tokens_NT.flatten() for tile in tiles]))

    def layout(self, shapes: Sequence[tuple[int, ...]], behind: Sequence[int | None] = ()) -> Layout:
        """For rectangles of (rows, tokens); `behind` says behind which of them one stands."""
        start = 0
        rectangles: list[Rectangle] = []
        for (rows, width), prompt in zip(shapes, behind or [None] * len(shapes), strict=True):
            rectangles.append(Rectangle(start, rows, width, None if prompt is None else rectangles[prompt]))
            start += rows * width
        cos_Td, sin_Td = self._positions(max(one.before + one.width for one in rectangles))
        places = torch.cat(
            [
                torch.arange(one.before, one.before + one.width, device=cos_Td.device).repeat(one.rows)
                for one in rectangles
            ]
        )
        return Layout(tuple(rectangles), cos_Td[places][:, None], sin_Td[places][:, None])

    def through(self, layer: Layer, x_ND: Tensor, layout: Layout, at_P: Tensor | None = None) -> Tensor:
        """One layer; its outputs at `at_P` alone, where given."""
        if self.keep_no_activations and torch.is_grad_enabled():
            again: Tensor = checkpoint(
                self._through, layer, x_ND, layout, at_P, use_reentrant=False, preserve_rng_state=False
            )
            return again
        return self._through(layer, x_ND, layout, at_P)

    def after(self, x_ND: Tensor) -> Tensor:
        """The norm after the last layer."""
        normed: Tensor = RmsNorm.apply(x_ND, self.blueprint.norm, self.blueprint.epsilon)  # type: ignore[no-untyped-call]
        return normed

    def _through(self, layer: Layer, x_ND: Tensor, layout: Layout, at_P: Tensor | None) -> Tensor:
        plan = self.blueprint
        q_NX, k_NX, v_NX = NormProject.apply(  # type: ignore[no-untyped-call]
            layer.qkv, plan.epsilon, x_ND, layer.attention_norm, *layer.qkv.leaves
        )
        q_NX, k_NX = self._head_norm(q_NX, layer.q_norm), self._head_norm(k_NX, layer.k_norm)
        q_NX = Rotate.apply(layout.cos_N1d, layout.sin_N1d, plan.scale, q_NX)  # type: ignore[no-untyped-call]
        k_NX = Rotate.apply(layout.cos_N1d, layout.sin_N1d, 1.0, k_NX)  # type: ignore[no-untyped-call]
        seen_NX = Attention.apply(layout.rectangles, plan.head_dim, q_NX, k_NX, v_NX)  # type: ignore[no-untyped-call]
        if at_P is not None:
            x_ND, seen_NX = x_ND.index_select(0, at_P), seen_NX.index_select(0, at_P)
        x_ND = ProjectAdd.apply(layer.o, x_ND, seen_NX, *layer.o.leaves)  # type: ignore[no-untyped-call]
        leaves = (*layer.gate_up.leaves, *layer.down.leaves)
        out_ND: Tensor = Mlp.apply(layer.gate_up, layer.down, plan.epsilon, x_ND, layer.mlp_norm, *leaves)  # type: ignore[no-untyped-call]
        return out_ND

    def _head_norm(self, x_NX: Tensor, norm_d: Tensor | None) -> Tensor:
        if norm_d is None:
            return x_NX
        x_NHd = x_NX.view(len(x_NX), -1, self.blueprint.head_dim)
        normed: Tensor = RmsNorm.apply(x_NHd, norm_d, self.blueprint.epsilon)  # type: ignore[no-untyped-call]
        return normed.view(x_NX.shape)

    def _positions(self, length: int) -> tuple[Tensor, Tensor]:
        """The rotations of at least `length` positions, computed once and again only for longer rows."""
        found = self._rotations  # lanes come here at the same time; each goes on with what it has seen
        if found is None or len(found[0]) < length:
            found = self.blueprint.rotations(max(length, 2 * len(found[0]) if found else 0))
            self._rotations = found
        return found
