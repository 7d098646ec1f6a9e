"""A decoder for answers: the layers of a Llama-like model for a few tokens at a time, with as few operations as can be.

For small models a step's cost is the number of operations and the weights read, so what can be put together once is:
q, k and v are one matrix, gate and up another; a norm's weight is multiplied into the matrix behind it; adapters are
folded in; heads are ordered so that a rotation is one product of complex numbers and attention's output needs no copy.
Keys and values stand in `Slots`. The weights are copies, made by `refresh`.

N tokens, D hidden, H heads of d values, J heads of keys and values, G = H / J heads that share one, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from tomoni.engine import blueprint
from tomoni.engine.blueprint import Blueprint, Layer, Projection
from tomoni.engine.forward import in_eval_mode, virtual_tokens, without_adapter
from tomoni.engine.matrices import MATRICES, Matrix, Weights
from tomoni.engine.slots import SlotRow, Slots, flat_places

PROBE = (11, 3)  # tokens of the trial's two rows
CALL = 400  # keys of a row that attention reads in the time that one more call takes


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of a prompt that are computed now, behind those of their row that were computed before. `last`: they are
    the prompt's end."""

    row: SlotRow
    tokens: Sequence[int]
    last: bool


@dataclass(frozen=True, slots=True)
class _LayerWeights:
    qkv: Matrix
    head_norm_Hd: Tensor | None  # [H + J, d], Qwen3
    o: Matrix
    gate_up: Matrix
    down: Matrix


@dataclass(frozen=True, slots=True)
class _Pass:
    """What all layers of one pass share. `cis_N1d` rotate; `places_N` is where keys and values are written."""

    cis_N1d: Tensor
    places_N: Tensor
    spans: tuple[_Span, ...]


@dataclass(frozen=True, slots=True)
class _Span:
    """Attention's unit: either rows with a token each, in neighbouring slots, or many tokens of one row."""

    tokens: slice
    slots: slice
    seen: int  # keys
    mask: Tensor | None  # broadcast over [rows, J, queries, seen]
    one_row: bool


class SlotDecoder:
    """Prompts by `extend`, then a token a row by `decode`."""

    virtual_tokens = 0

    def __init__(self, model: nn.Module, plan: Blueprint, weights: Weights) -> None:
        self.model, self.weights = model, weights
        self._inner: Any = without_adapter(model)
        self.vocabulary: int = self._inner.config.get_text_config().vocab_size
        self._epsilon = torch.tensor([plan.epsilon])
        self._ends: list[int] = []  # of the groups in which rows were last decoded
        self._state: tuple[tuple[int, int], ...] = ()
        self._cis_Td = torch.empty(0, dtype=torch.complex64)
        self.plan = plan
        self.slots = Slots(len(plan.layers), 2 * plan.kv_heads * plan.head_dim)
        self.refresh()

    # -- the verbs -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def refresh(self) -> None:
        """Take up weights that have changed since. Not while rows are remembered: their keys are the old weights'."""
        state = tuple((weight.data_ptr(), weight._version) for weight in self.model.parameters())
        if state == self._state:
            return
        self._layers = [_fused(self.plan, layer, self.weights) for layer in self.plan.layers]
        head = self._inner.get_output_embeddings()
        self._head = MATRICES[self.weights](head.weight * self.plan.norm, head.bias)
        self._state = state

    def extend(self, pieces: Sequence[Piece], *, every: bool = False) -> Tensor:
        """Compute the pieces; the logits [P, V] behind those that are a prompt's end, in their order, or behind `every`
        token."""
        tokens: list[int] = []
        positions: list[int] = []
        starts, slots, ends = [], [], []
        for piece in pieces:
            starts.append(len(tokens))
            tokens += piece.tokens
            slots += [piece.row.slot] * len(piece.tokens)
            positions += range(piece.row.length, piece.row.length + len(piece.tokens))
            if piece.last:
                ends.append(len(tokens) - 1)
        spans = tuple(self._prompt_span(piece, start) for piece, start in zip(pieces, starts, strict=True))
        out_PV = self._run(tokens, slots, positions, spans, None if every else torch.tensor(ends, dtype=torch.long))
        for piece in pieces:
            piece.row.length += len(piece.tokens)
        return out_PV

    def decode(self, rows: Sequence[SlotRow], tokens: Sequence[int]) -> Tensor:
        """The logits [N, V] behind each row's next token."""
        self.slots.reserve(max(row.length for row in rows) + 1)
        self.slots.settle(rows, self._ends)
        order = sorted(range(len(rows)), key=lambda index: rows[index].slot)
        positions = [rows[index].length for index in order]
        places = None
        if order != list(range(len(order))):
            places = torch.empty(len(order), dtype=torch.long)
            places[order] = torch.arange(len(order))
        slots = list(range(len(rows)))
        out_NV = self._run([tokens[index] for index in order], slots, positions, self._row_spans(positions), places)
        for row in rows:
            row.length += 1
        return out_NV

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
        cis_N1d = self._rotations(max(positions) + 1)[torch.tensor(positions)][:, None]
        shared = _Pass(cis_N1d, flat_places(slots, positions, self.slots.room), spans)
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
        memory_SCX = self.slots.memory_LSCX[index]
        memory_SCX.flatten(0, 1).index_copy_(0, shared.places_N, heads_NHd[:, plan.heads :].flatten(1))
        if at_P is not None and not len(at_P):
            return x_ND[:0]
        seen = [self._attend(heads_NHd[:, : plan.heads], memory_SCX, span) for span in shared.spans]
        seen_NX = seen[0] if len(seen) == 1 else torch.cat(seen)
        if at_P is not None:
            x_ND, seen_NX = x_ND[at_P], seen_NX[at_P]
        x_ND = layer.o.added(x_ND, seen_NX)
        gate_NI, up_NI = layer.gate_up(self._normed(x_ND)).chunk(2, -1)
        return layer.down.added(x_ND, silu(gate_NI).mul_(up_NI))

    def _attend(self, q_NHd: Tensor, memory_SCX: Tensor, span: _Span) -> Tensor:
        """[N, G J d] of the span's tokens."""
        plan = self.plan
        kv_RTJd = memory_SCX[span.slots, : span.seen].unflatten(-1, (2 * plan.kv_heads, plan.head_dim))
        kv_RJTd = kv_RTJd.transpose(1, 2)
        k_RJTd, v_RJTd = kv_RJTd[:, : plan.kv_heads], kv_RJTd[:, plan.kv_heads :]
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


class SlotCohort:
    """Answers that are decoded together, in the order the sampler has them."""

    def __init__(self, slots: Slots, rows: list[SlotRow]) -> None:
        self._slots = slots
        self.rows = rows

    def select(self, rows: list[int]) -> None:
        """Keep these rows, in this order."""
        kept = [self.rows[index] for index in rows]
        staying = set(map(id, kept))
        for row in self.rows:
            if id(row) not in staying:
                self._slots.free(row)
        self.rows = kept


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


# -- which models ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def slot_decoder(model: nn.Module, weights: Weights) -> SlotDecoder | None:
    """A decoder of this kind, where the model is one that it can stand in for; that is tried once on a few tokens."""
    inner: Any = without_adapter(model)
    if any(weight.device.type != "cpu" or weight.dtype != torch.float32 for weight in model.parameters()):
        return None
    plan = None if virtual_tokens(model) else blueprint.read(inner)
    if plan is None or not _is_regular(inner, plan):
        return None
    decoder = SlotDecoder(model, plan, weights)
    return decoder if _agrees(decoder, inner) else None


def _is_regular(inner: Any, plan: Blueprint) -> bool:
    """A plain head, and a window for all layers or none."""
    if type(inner.get_output_embeddings()) is not nn.Linear:
        return False
    kinds = set(getattr(inner.config, "layer_types", None) or ())
    return plan.window is None or len(kinds) < 2


def _agrees(decoder: SlotDecoder, inner: Any) -> bool:
    """Two rows, one in two pieces, then a token each, against the model's own forward pass. int8 differs by its
    rounding, so it is held only to being much nearer than chance."""
    rows = [[(7 * at + start) % decoder.vocabulary for at in range(PROBE[0])] for start in PROBE]
    with in_eval_mode(inner):
        expected = inner(input_ids=torch.tensor(rows), use_cache=False).logits[:, -1].float()
    places = [decoder.slots.new(PROBE[0]) for _ in rows]
    decoder.extend([Piece(places[0], rows[0][:5], False), Piece(places[1], rows[1][:-1], True)])
    decoder.extend([Piece(places[0], rows[0][5:-1], True)])
    found = decoder.decode(places, [row[-1] for row in rows])
    for place in places:
        decoder.slots.free(place)
    if found.shape != expected.shape:
        return False
    off = float((found - expected).norm() / expected.norm().clamp(min=1e-30))
    return off < (1e-3 if decoder.weights == "float32" else 0.5)
