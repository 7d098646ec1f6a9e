"""A decoder's layers by PyTorch, with as few operations as can be; `compiled` does the same in one call of C.

For small models a step's cost is the number of operations and the weights read, so what can be put together once is:
q, k and v are one matrix, gate and up another; a norm's weight is multiplied into the matrix behind it; adapters are
folded in; heads are ordered so that a rotation is one product of complex numbers and attention's output needs no copy.

N tokens, D hidden, H heads of d values, J heads of keys and values, G = H / J heads that share one, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

from tomoni.engine.blueprint import Blueprint, Layer, Projection
from tomoni.engine.matrices import MATRICES, Matrix, Weights
from tomoni.engine.slots import Piece, SlotRow, Slots

CALL = 400  # keys of a row that attention reads in the time that one more call takes


@dataclass(frozen=True, slots=True)
class _LayerWeights:
    qkv: Matrix
    head_norm_Hd: Tensor | None  # [H + J, d], Qwen3
    o: Matrix
    gate_up: Matrix
    down: Matrix


@dataclass(frozen=True, slots=True)
class _Pass:
    """What all layers of one pass share. `cis_N1d` rotate; keys and values are written to these slots and positions."""

    cis_N1d: Tensor
    slots_N: Tensor
    positions_N: Tensor
    spans: tuple[_Span, ...]


@dataclass(frozen=True, slots=True)
class _Span:
    """Attention's unit: either rows with a token each, in neighbouring slots, or many tokens of one row."""

    tokens: slice
    slots: slice
    seen: int  # keys
    mask: Tensor | None  # broadcast over [rows, J, queries, seen]
    one_row: bool


class TorchLayers:
    """The layers and the head; weights as of the last `refresh`."""

    def __init__(self, inner: Any, plan: Blueprint, weights: Weights, slots: Slots) -> None:
        self.plan, self.slots = plan, slots
        self._inner, self._weights = inner, weights
        self._epsilon = torch.tensor([plan.epsilon])
        self._ends: list[int] = []  # of the groups in which rows were last decoded
        self._cis_Td = torch.empty(0, dtype=torch.complex64)

    def refresh(self) -> None:
        self._layers = [_fused(self.plan, layer, self._weights) for layer in self.plan.layers]
        head = self._inner.get_output_embeddings()
        self._head = MATRICES[self._weights](head.weight * self.plan.norm, head.bias)

    def extend(self, pieces: Sequence[Piece], at_P: Sequence[int] | None) -> Tensor:
        """The logits [P, V] behind the tokens at these places of all the pieces', or behind each."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        spans = []
        for piece in pieces:
            spans.append(self._prompt_span(piece, len(tokens)))
            tokens += piece.tokens
            slots += [piece.row.slot] * len(piece.tokens)
            positions += piece.positions
        places = None if at_P is None else torch.tensor(at_P, dtype=torch.long)
        return self._run(tokens, slots, positions, tuple(spans), places)

    def decode(self, rows: Sequence[SlotRow], tokens: Sequence[int]) -> Tensor:
        """The logits [N, V] behind each row's next token."""
        self.slots.settle(rows, self._ends)
        order = sorted(range(len(rows)), key=lambda index: rows[index].slot)
        positions = [rows[index].length for index in order]
        places = None
        if order != list(range(len(order))):
            places = torch.empty(len(order), dtype=torch.long)
            places[order] = torch.arange(len(order))
        slots = list(range(len(rows)))
        return self._run([tokens[index] for index in order], slots, positions, self._row_spans(positions), places)

    # -- attention's units -------------------------------------------------------------------------------------------

    def _row_spans(self, positions: Sequence[int]) -> tuple[_Span, ...]:
        self._ends = _group_ends(positions)
        return tuple(self._rows_span(positions[start:end], start) for start, end in pairwise([0, *self._ends]))

    def _rows_span(self, positions: Sequence[int], start: int) -> _Span:
        rows = slice(start, start + len(positions))
        seen = max(positions) + 1
        mask = None
        if min(positions) + 1 < seen or self._is_past_window(seen):
            mask = self._mask(torch.tensor(positions), seen)[:, None, None]
        return _Span(rows, rows, seen, mask, one_row=False)

    def _prompt_span(self, piece: Piece, start: int) -> _Span:
        before, count = piece.row.length, len(piece.tokens)
        mask = None
        if (before and count > 1) or self._is_past_window(before + count):
            mask = self._mask(torch.arange(before, before + count), before + count)
        slot = slice(piece.row.slot, piece.row.slot + 1)
        return _Span(slice(start, start + count), slot, before + count, mask, one_row=True)

    def _is_past_window(self, length: int) -> bool:
        return self.plan.window is not None and length > self.plan.window

    def _mask(self, positions_N: Tensor, seen: int) -> Tensor:
        """[N, seen]: 0 for what a token at its position sees, -inf for what it does not."""
        distance_NT = positions_N[:, None] - torch.arange(seen)
        hidden_NT = distance_NT < 0
        if self.plan.window is not None:
            hidden_NT |= distance_NT >= self.plan.window
        return torch.zeros(hidden_NT.shape).masked_fill_(hidden_NT, float("-inf"))

    # -- layers ------------------------------------------------------------------------------------------------------

    def _run(
        self,
        tokens: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        spans: tuple[_Span, ...],
        at_P: Tensor | None,
    ) -> Tensor:
        positions_N = torch.tensor(positions)
        cis_N1d = self._rotations(max(positions) + 1)[positions_N][:, None]
        shared = _Pass(cis_N1d, torch.tensor(slots), positions_N, spans)
        x_ND = self.plan.embedding.weight[torch.tensor(tokens)]
        last = len(self._layers) - 1
        for index, layer in enumerate(self._layers):
            x_ND = self._layer(layer, index, x_ND, shared, at_P if index == last else None)
        return self._head(self._normed(x_ND))

    def _layer(self, layer: _LayerWeights, index: int, x_ND: Tensor, shared: _Pass, at_P: Tensor | None) -> Tensor:
        plan = self.plan
        qkv_NX = layer.qkv(self._normed(x_ND))
        rotated = plan.heads + plan.kv_heads
        heads_NHd = qkv_NX.view(len(x_ND), -1, plan.head_dim)
        qk_NHd = heads_NHd[:, :rotated]
        if layer.head_norm_Hd is not None:
            qk_NHd.mul_(_inverse_rms(qk_NHd, self._epsilon)).mul_(layer.head_norm_Hd)
        pairs = torch.view_as_complex(qk_NHd.unflatten(-1, (-1, 2)))
        pairs.mul_(shared.cis_N1d)
        memory_SYCd = self.slots.memory_LSYCd[index]
        memory_SYCd[shared.slots_N, :, shared.positions_N] = heads_NHd[:, plan.heads :]
        if at_P is not None and not len(at_P):
            return x_ND[:0]
        seen = [self._attend(heads_NHd[:, : plan.heads], memory_SYCd, span) for span in shared.spans]
        seen_NX = seen[0] if len(seen) == 1 else torch.cat(seen)
        if at_P is not None:
            x_ND, seen_NX = x_ND[at_P], seen_NX[at_P]
        x_ND = layer.o.added(x_ND, seen_NX)
        gate_NI, up_NI = layer.gate_up(self._normed(x_ND)).chunk(2, -1)
        return layer.down.added(x_ND, silu(gate_NI).mul_(up_NI))

    def _attend(self, q_NHd: Tensor, memory_SYCd: Tensor, span: _Span) -> Tensor:
        """[N, G J d] of the span's tokens."""
        plan = self.plan
        kv_RYTd = memory_SYCd[span.slots, :, : span.seen]
        k_RJTd, v_RJTd = kv_RYTd[:, : plan.kv_heads], kv_RYTd[:, plan.kv_heads :]
        q_NJGd = q_NHd[span.tokens].unflatten(1, (plan.kv_heads, -1))
        if not span.one_row:
            # the heads that share keys stand where queries do
            out_NJGd = scaled_dot_product_attention(q_NJGd, k_RJTd, v_RJTd, attn_mask=span.mask)
            return out_NJGd.transpose(1, 2).reshape(len(q_NJGd), -1)
        q_JGNd = q_NJGd.permute(1, 2, 0, 3)
        shape = (-1, q_JGNd.shape[1], -1, -1)
        k_JGTd, v_JGTd = k_RJTd.transpose(0, 1).expand(shape), v_RJTd.transpose(0, 1).expand(shape)
        out_JGNd = scaled_dot_product_attention(
            q_JGNd, k_JGTd, v_JGTd, attn_mask=span.mask, is_causal=span.mask is None and len(q_NJGd) > 1
        )
        return out_JGNd.permute(2, 1, 0, 3).reshape(len(q_NJGd), -1)

    def _normed(self, x_ND: Tensor) -> Tensor:
        """Without the norm's weight, which the matrix behind it contains."""
        return x_ND * _inverse_rms(x_ND, self._epsilon)

    def _rotations(self, length: int) -> Tensor:
        """complex64 [T, d / 2], of at least `length` positions."""
        if len(self._cis_Td) < length:
            self._cis_Td = torch.complex(*self.plan.rotations(max(length, 2 * len(self._cis_Td))))
        return self._cis_Td


def _inverse_rms(x: Tensor, epsilon: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.addcmul(epsilon, norm, norm, value=1 / x.shape[-1]).rsqrt_()


def _group_ends(lengths: Sequence[int], start: int = 0) -> list[int]:
    """Where neighbouring rows are parted so that each group is padded to its own longest row only; a group more has to
    save more than `CALL` keys."""
    longest = max(lengths)
    best, most = 0, CALL
    until, behind = 0, list(accumulate(reversed(lengths), max))
    for place in range(1, len(lengths)):
        until = max(until, lengths[place - 1])
        saved = place * (longest - until) + (len(lengths) - place) * (longest - behind[-place - 1])
        if saved > most:
            best, most = place, saved
    if not best:
        return [start + len(lengths)]
    return [*_group_ends(lengths[:best], start), *_group_ends(lengths[best:], start + best)]


# -- making the weights ------------------------------------------------------------------------------------------------


def _fused(plan: Blueprint, layer: Layer, weights: Weights) -> _LayerWeights:
    make = MATRICES[weights]
    heads, kv_heads, head_dim = plan.heads, plan.kv_heads, plan.head_dim
    for projections in layer.projections():
        projections.refresh()
    q, k, v = layer.qkv.parts
    pairs = torch.arange(head_dim).view(2, -1).t().flatten()  # a rotation's two halves become neighbours
    among = torch.arange((heads + kv_heads) * head_dim).view(-1, head_dim)[:, pairs].flatten()
    order = torch.cat([among, torch.arange(len(among), len(among) + kv_heads * head_dim)])
    qkv_XD, qkv_bias = _stacked([q, k, v])
    qkv = make(qkv_XD[order] * layer.attention_norm, None if qkv_bias is None else qkv_bias[order])
    (o,), (down,) = layer.o.parts, layer.down.parts
    columns = torch.arange(heads * head_dim).view(kv_heads, -1, head_dim).transpose(0, 1).flatten()
    gate_up_ID, gate_up_bias = _stacked(layer.gate_up.parts)
    head_norm_Hd = None
    if layer.q_norm is not None and layer.k_norm is not None:
        norms = [layer.q_norm.expand(heads, -1), layer.k_norm.expand(kv_heads, -1)]
        head_norm_Hd = torch.cat(norms)[:, pairs].contiguous()
    return _LayerWeights(
        qkv=qkv,
        head_norm_Hd=head_norm_Hd,
        o=make(o.weight[:, columns], o.bias),
        gate_up=make(gate_up_ID * layer.mlp_norm, gate_up_bias),
        down=make(down.weight, down.bias),
    )


def _stacked(parts: Sequence[Projection]) -> tuple[Tensor, Tensor | None]:
    weight = torch.cat([part.weight for part in parts])
    if all(part.bias is None for part in parts):
        return weight, None
    return weight, torch.cat(
        [part.weight.new_zeros(len(part.weight)) if part.bias is None else part.bias for part in parts]
    )
