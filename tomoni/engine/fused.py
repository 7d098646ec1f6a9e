"""The layers of a Llama-like decoder with their own backward passes: fewer reads of memory, less of it kept.

Each function is one arrow of the layer:

    attend     x -> norm -> q, k, v          (`NormProject`)
               q, k, v -> rotate -> softmax(q k^T) v, causal, over rectangles of rows          (`Attention`)
               x + o(...)                    (`ProjectAdd`)
    mlp        x + down(silu(gate(norm x)) * up(norm x))          (`Mlp`)

What is cheap to compute again (norms, activations) is not kept. The gradients are those of the plain modules to
rounding; tests/engine/test_fused.py holds each against them. Shapes: N tokens of all rectangles one after another, D
hidden, H heads of d values, J heads of keys and values, G = H / J heads that share one; a rectangle is R rows of T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from tomoni.engine.blueprint import Projections
from tomoni.engine.elementwise import (
    causal_softmax_,
    causal_softmax_backward_,
    rms,
    rms_again,
    rms_backward_,
    rotated,
    swiglu,
    swiglu_backward_,
)
from tomoni.engine.products import forward

# numbers of one block of attention's probabilities: 2 MiB in float32 stay in the cache between the two products
BLOCK = 2**19
# probabilities of a layer that have more numbers than this are computed again in the backward pass; 32 MiB in float32
KEPT = 2**23


@dataclass(frozen=True, slots=True)
class Rectangle:
    """`rows` rows of `width` tokens that begin at `start` among the N tokens. Where rows share a prompt, it is a rectangle
    of one row, and theirs stand `behind` it: they see its keys before their own."""

    start: int
    rows: int
    width: int
    behind: Rectangle | None = None

    @property
    def before(self) -> int:
        """Tokens of the shared prompt."""
        return 0 if self.behind is None else self.behind.width

    @property
    def end(self) -> int:
        return self.start + self.rows * self.width


class NormProject(Function):
    """x [N, D] -> the projections of its root-mean-square norm, each [N, out]."""

    @staticmethod
    def forward(
        ctx: Any, projections: Projections, epsilon: float, x_ND: Tensor, norm_D: Tensor, *leaves: Tensor
    ) -> tuple[Tensor, ...]:
        normed_ND, inverse_N1 = rms(x_ND, norm_D, epsilon)
        ctx.projections = projections
        ctx.save_for_backward(x_ND, norm_D, inverse_N1)
        return tuple(projections(normed_ND))

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Any, ...]:
        x_ND, norm_D, inverse_N1 = ctx.saved_tensors
        x_needed, norm_needed, *leaves_needed = ctx.needs_input_grad[2:]
        normed_ND = rms_again(x_ND, norm_D, inverse_N1)
        gradients = ctx.projections.gradients(normed_ND, outputs, leaves_needed)
        if not (x_needed or norm_needed):  # the first trained layer
            return (None, None, None, None, *gradients)
        dx_ND = ctx.projections.into(outputs)
        dnorm_D = rms_backward_(dx_ND, x_ND, inverse_N1, norm_D, weight_needed=norm_needed)
        return (None, None, dx_ND, dnorm_D, *gradients)


class ProjectAdd(Function):
    """residual [N, D] + projection of x [N, in]."""

    @staticmethod
    def forward(ctx: Any, projections: Projections, residual_ND: Tensor, x_NI: Tensor, *leaves: Tensor) -> Tensor:
        ctx.projections = projections
        ctx.save_for_backward(x_NI)
        return _add_projection(residual_ND, projections, x_NI)

    @staticmethod
    def backward(ctx: Any, output_ND: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (x_NI,) = ctx.saved_tensors
        gradients = ctx.projections.gradients(x_NI, [output_ND], ctx.needs_input_grad[3:])
        dx_NI = ctx.projections.into([output_ND]) if ctx.needs_input_grad[2] else None
        return (None, output_ND, dx_NI, *gradients)


class Mlp(Function):
    """x [N, D] + down(silu(gate(norm x)) * up(norm x))."""

    @staticmethod
    def forward(
        ctx: Any,
        gate_up: Projections,
        down: Projections,
        epsilon: float,
        x_ND: Tensor,
        norm_D: Tensor,
        *leaves: Tensor,
    ) -> Tensor:
        normed_ND, inverse_N1 = rms(x_ND, norm_D, epsilon)
        gate_NI, up_NI = gate_up(normed_ND)
        ctx.parts = gate_up, down
        ctx.save_for_backward(x_ND, norm_D, inverse_N1, gate_NI, up_NI)
        return _add_projection(x_ND, down, swiglu(gate_NI, up_NI))

    @staticmethod
    def backward(ctx: Any, output_ND: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        gate_up, down = ctx.parts
        x_ND, norm_D, inverse_N1, gate_NI, up_NI = ctx.saved_tensors
        norm_needed, *needed = ctx.needs_input_grad[4:]
        first = len(gate_up.leaves)
        dgate_NI = down.into([output_ND])
        dup_NI, inner_NI = swiglu_backward_(dgate_NI, gate_NI, up_NI)
        down_gradients = down.gradients(inner_NI, [output_ND], needed[first:])
        normed_ND = rms_again(x_ND, norm_D, inverse_N1)
        gradients = gate_up.gradients(normed_ND, [dgate_NI, dup_NI], needed[:first])
        dx_ND = gate_up.into([dgate_NI, dup_NI])
        residual_ND = output_ND.contiguous()
        dnorm_D = rms_backward_(dx_ND, x_ND, inverse_N1, norm_D, residual_ND=residual_ND, weight_needed=norm_needed)
        return (None, None, None, dx_ND, dnorm_D, *gradients, *down_gradients)


class Rotate(Function):
    """x [N, heads * d] -> rotated to its positions and scaled; `cos_N1d` and `sin_N1d` are [N, 1, d / 2]."""

    @staticmethod
    def forward(ctx: Any, cos_N1d: Tensor, sin_N1d: Tensor, scale: float, x_NX: Tensor) -> Tensor:
        ctx.save_for_backward(cos_N1d, sin_N1d)
        ctx.scale = scale
        return rotated(x_NX, cos_N1d, sin_N1d, scale, 1.0)

    @staticmethod
    def backward(ctx: Any, output_NX: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        cos_N1d, sin_N1d = ctx.saved_tensors
        return (None, None, None, rotated(output_NX, cos_N1d, sin_N1d, ctx.scale, -1.0))


class Attention(Function):
    """Causal attention within each row: rotated and scaled q [N, H d], rotated k and v [N, J d] -> [N, H d].

    Heads that share keys are stacked as rows of one product. Probabilities are computed in blocks of queries that see
    only the keys before their end, and kept for the backward pass unless they are many.
    """

    @staticmethod
    def forward(
        ctx: Any, rectangles: Sequence[Rectangle], head_dim: int, q_NX: Tensor, k_NX: Tensor, v_NX: Tensor
    ) -> Tensor:
        out_NX = torch.empty_like(q_NX)
        kept: list[Tensor] = []
        keep = _are_kept(rectangles, q_NX.shape[1] // head_dim)
        for rectangle in rectangles:
            q_RJGTd = _grouped(q_NX, k_NX, rectangle, head_dim)
            out_RJGTd = _grouped(out_NX, k_NX, rectangle, head_dim)
            k_MTd, v_MTd = _keys(k_NX, rectangle, head_dim), _keys(v_NX, rectangle, head_dim)
            for start, end in _blocks(q_RJGTd, rectangle.before):
                seen = rectangle.before + end
                p_MQT = _probabilities(_stacked(q_RJGTd, start, end), k_MTd[:, :seen], end - start)
                block = out_RJGTd[..., start:end, :]
                block.copy_(torch.bmm(p_MQT, v_MTd[:, :seen]).view(block.shape))
                if keep:
                    kept.append(p_MQT)
        ctx.rectangles, ctx.head_dim = rectangles, head_dim
        ctx.save_for_backward(q_NX, k_NX, v_NX, *kept)
        return out_NX

    @staticmethod
    def backward(ctx: Any, output_NX: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        q_NX, k_NX, v_NX, *kept = ctx.saved_tensors
        probabilities = iter(kept)
        keep = _are_kept(ctx.rectangles, q_NX.shape[1] // ctx.head_dim)
        dq_NX, dk_NX, dv_NX = torch.empty_like(q_NX), torch.empty_like(k_NX), torch.empty_like(v_NX)
        for rectangle in ctx.rectangles:
            q_RJGTd, dq_RJGTd, dout_RJGTd = (
                _grouped(x_NX, k_NX, rectangle, ctx.head_dim) for x_NX in (q_NX, dq_NX, output_NX)
            )
            k_MTd, v_MTd = _keys(k_NX, rectangle, ctx.head_dim), _keys(v_NX, rectangle, ctx.head_dim)
            dk_MTd, dv_MTd = k_MTd.new_zeros(k_MTd.shape), v_MTd.new_zeros(v_MTd.shape)
            for start, end in _blocks(q_RJGTd, rectangle.before):
                seen = rectangle.before + end
                q_MQd, dout_MQd = _stacked(q_RJGTd, start, end), _stacked(dout_RJGTd, start, end)
                p_MQT = next(probabilities) if keep else _probabilities(q_MQd, k_MTd[:, :seen], end - start)
                dv_MTd[:, :seen].baddbmm_(p_MQT.transpose(1, 2), dout_MQd)
                dp_MQT = torch.bmm(dout_MQd, v_MTd[:, :seen].transpose(1, 2))
                by_query = (-1, end - start, seen)
                ds_MQT = causal_softmax_backward_(dp_MQT.view(by_query), p_MQT.view(by_query)).view(p_MQT.shape)
                block = dq_RJGTd[..., start:end, :]
                block.copy_(torch.bmm(ds_MQT, k_MTd[:, :seen]).view(block.shape))
                dk_MTd[:, :seen].baddbmm_(ds_MQT.transpose(1, 2), q_MQd)
            _give_keys(dk_NX, dk_MTd, rectangle, ctx.head_dim)
            _give_keys(dv_NX, dv_MTd, rectangle, ctx.head_dim)
        return (None, None, dq_NX, dk_NX, dv_NX)


class RmsNorm(Function):
    """Over the last dimension: x / sqrt(mean x^2 + epsilon) * weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm_D: Tensor, epsilon: float) -> Tensor:
        normed, inverse = rms(x, norm_D, epsilon)
        ctx.save_for_backward(x, norm_D, inverse)
        return normed

    @staticmethod
    def backward(ctx: Any, output: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, norm_D, inverse = ctx.saved_tensors
        dx = output.clone(memory_format=torch.contiguous_format)
        dnorm_D = rms_backward_(dx, x, inverse, norm_D, weight_needed=ctx.needs_input_grad[1])
        return dx, dnorm_D, None


def _add_projection(residual_ND: Tensor, projections: Projections, x_NI: Tensor) -> Tensor:
    (part,) = projections.parts
    return forward(x_NI, part.weight, part.bias, onto_QO=residual_ND)


# -- attention ----------------------------------------------------------------------------------------------------


def _heads(x_NX: Tensor, rectangle: Rectangle, head_dim: int) -> Tensor:
    """A view [R, heads, T, d] of a rectangle's rows."""
    return x_NX[rectangle.start : rectangle.end].view(rectangle.rows, rectangle.width, -1, head_dim).transpose(1, 2)


def _keys(k_NX: Tensor, rectangle: Rectangle, head_dim: int) -> Tensor:
    """[M, T, d] with M = R J; of a single row a view. Behind a shared prompt its keys come first."""
    own_RJTd = _heads(k_NX, rectangle, head_dim)
    if rectangle.behind is None:
        return own_RJTd.flatten(0, 1)
    shared_RJTd = _heads(k_NX, rectangle.behind, head_dim).expand(rectangle.rows, -1, -1, -1)
    return torch.cat([shared_RJTd, own_RJTd], 2).flatten(0, 1)


def _give_keys(into_NX: Tensor, found_MTd: Tensor, rectangle: Rectangle, head_dim: int) -> None:
    """Gradients of `_keys` to where the keys stand; a shared prompt, which comes before the rows behind it, has those of
    all of them."""
    own_RJTd = _heads(into_NX, rectangle, head_dim)
    found_RJTd = found_MTd.view(rectangle.rows, -1, *found_MTd.shape[1:])
    own_RJTd.copy_(found_RJTd[:, :, rectangle.before :])
    if rectangle.behind is not None:
        _heads(into_NX, rectangle.behind, head_dim).add_(found_RJTd[:, :, : rectangle.before].sum(0, keepdim=True))


def _grouped(x_NX: Tensor, k_NX: Tensor, rectangle: Rectangle, head_dim: int) -> Tensor:
    """A view [R, J, G, T, d]: the heads that share keys stand together."""
    return _heads(x_NX, rectangle, head_dim).unflatten(1, (k_NX.shape[1] // head_dim, -1))


def _blocks(q_RJGTd: Tensor, before: int) -> list[tuple[int, int]]:
    """Ranges of queries whose probabilities fit `BLOCK` numbers; `before` keys come before the row's own."""
    rows, among, group, width, _ = q_RJGTd.shape
    size = min(width, max(16, BLOCK // (rows * among * group * (before + width))))
    return [(start, min(start + size, width)) for start in range(0, width, size)]


def _are_kept(rectangles: Sequence[Rectangle], heads: int) -> bool:
    return sum(one.rows * heads * one.width * (one.before + one.width // 2) for one in rectangles) <= KEPT


def _stacked(q_RJGTd: Tensor, start: int, end: int) -> Tensor:
    """[M, Q, d] with Q = G B: the block's queries of all heads that share keys."""
    rows, among, group, _, head_dim = q_RJGTd.shape
    return q_RJGTd[..., start:end, :].reshape(rows * among, group * (end - start), head_dim)


def _probabilities(q_MQd: Tensor, k_MEd: Tensor, block: int) -> Tensor:
    """[M, Q, E]: of the keys up to each query of the block, whose last one sees all E."""
    scores_MQT = torch.bmm(q_MQd, k_MEd.transpose(1, 2))
    causal_softmax_(scores_MQT.view(-1, block, k_MEd.shape[1]))
    return scores_MQT
