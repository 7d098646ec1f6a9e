"""The two halves of a BERT layer as one operation each, forward and backward, with `kernels.c` between the products.

Shapes: Q tokens of all texts, one text after another; D hidden, I between `up` and `down`. Float32 on a CPU, where the
kernels are built; anywhere else `flatencoder` runs the model's own modules.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from tomoni.engine.calls import kernels, pointer, rows_and_width
from tomoni.engine.dropout import Draw
from tomoni.engine.products import between, forward, into

LONGEST = 1024  # tokens of a text whose scores of one head are held at once; PyTorch's attention takes the longer ones


@dataclass(frozen=True, slots=True)
class Texts:
    """Where texts begin in the list of tokens that are seen, and in that of tokens that see: int64 [texts + 1] each."""

    starts: Tensor
    asks: Tensor
    heads: int

    def scratch(self, dim: int) -> Tensor:
        keys = int((self.starts[1:] - self.starts[:-1]).max())
        asked = int((self.asks[1:] - self.asks[:-1]).max())
        wide, across = -(-dim // 16) * 16, -(-keys // 16) * 16
        return torch.empty(2 * asked * wide + 2 * keys * wide + wide * across + 3 * asked * across)

    def told(self, dim: int, draw: Draw) -> tuple[Any, ...]:
        sizes = (ctypes.c_int64(size) for size in (len(self.starts) - 1, self.heads, dim))
        return pointer(self.starts), pointer(self.asks), *sizes, ctypes.c_float(dim**-0.5), *draw.told()


class Attend(Function):
    """Queries [A, D], keys and values [Q, D] -> [A, D]: attention to all tokens of the same text, head by head.

    Nothing is kept but what comes in: the probabilities are computed again in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, texts: Texts, draw: Draw, query_AD: Tensor, key_QD: Tensor, value_QD: Tensor) -> Tensor:
        ctx.texts, ctx.draw = texts, draw
        ctx.save_for_backward(query_AD, key_QD, value_QD)
        dim = query_AD.shape[1] // texts.heads
        seen_AD, scratch = torch.empty_like(query_AD), texts.scratch(dim)
        given = (pointer(query_AD), pointer(key_QD), pointer(value_QD), pointer(seen_AD))
        kernels().attend_forward(*given, *texts.told(dim, draw), pointer(scratch))
        return seen_AD

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient_AD: Tensor) -> tuple[Any, ...]:
        texts, given = ctx.texts, ctx.saved_tensors
        dim = given[0].shape[1] // texts.heads
        made, scratch = [torch.empty_like(one) for one in given], texts.scratch(dim)
        kernels().attend_backward(
            *(pointer(one) for one in (*given, gradient_AD.contiguous(), *made)),
            *texts.told(dim, ctx.draw),
            pointer(scratch),
        )
        return None, None, *made


def attend_once(texts: Texts, draw: Draw, query_ND: Tensor, x_QD: Tensor, key: nn.Linear, value: nn.Linear) -> Tensor:
    """What `Attend` gives for one query a text, [N, D], without its keys and values, which are most of the work then.

    A head's score q (W x + b) is (q W) x + q b, and its weighted sum of W x + b is W of the weighted sum of x, and b times
    the weights' sum: so each head sees the tokens themselves, D numbers and a 1 that takes the biases along.
    """
    count, heads = len(query_ND), texts.heads

    def by_head(of: nn.Linear) -> Tensor:
        return torch.cat([of.weight, of.bias[:, None]], 1).unflatten(0, (heads, -1))  # [h, d, D + 1]

    tokens_QE = torch.cat([x_QD, x_QD.new_ones(len(x_QD), 1)], 1)
    asked_hNE = query_ND.unflatten(1, (heads, -1)).transpose(0, 1) @ by_head(key)
    # Attend divides by the root of the width it sees
    scale = (tokens_QE.shape[1] / (query_ND.shape[1] // heads)) ** 0.5
    asked_AE = asked_hNE.transpose(0, 1).flatten(0, 1) * scale
    each_head = Texts(texts.starts, torch.arange(0, count * heads + 1, heads), 1)
    found_AE: Tensor = Attend.apply(each_head, draw, asked_AE, tokens_QE, tokens_QE)  # type: ignore[no-untyped-call]
    seen_hNd = found_AE.unflatten(0, (count, heads)).transpose(0, 1) @ by_head(value).transpose(1, 2)
    return seen_hNd.transpose(0, 1).flatten(1)


class ProjectAddNorm(Function):
    """norm(dropped(x W' + bias) + residual): x [Q, I], W [D, I], residual [Q, D] -> [Q, D]."""

    @staticmethod
    def forward(
        ctx: Any,
        draw: Draw,
        epsilon: float,
        x_QI: Tensor,
        residual_QD: Tensor,
        weight_DI: Tensor,
        bias_D: Tensor,
        scale_D: Tensor,
        shift_D: Tensor,
    ) -> Tensor:
        sum_QD = forward(x_QI, weight_DI)
        normed_QD, mean_Q, inverse_Q = add_norm(sum_QD, bias_D, residual_QD, scale_D, shift_D, epsilon, draw)
        ctx.draw = draw
        ctx.save_for_backward(x_QI, weight_DI, scale_D, sum_QD, mean_Q, inverse_Q)
        return normed_QD

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient_QD: Tensor) -> tuple[Any, ...]:
        x_QI, weight_DI, scale_D, sum_QD, mean_Q, inverse_Q = ctx.saved_tensors
        x_needed, residual_needed, weight_needed = ctx.needs_input_grad[2:5]
        dsum_QD, inner_QD, dscale_D, dshift_D, dbias_D = _add_norm_backward(
            gradient_QD, sum_QD, mean_Q, inverse_Q, scale_D, ctx.draw
        )
        dx_QI = into(inner_QD, weight_DI) if x_needed else None
        dweight_DI = between(inner_QD, x_QI) if weight_needed else None
        dresidual_QD = dsum_QD if residual_needed else None
        return None, None, dx_QI, dresidual_QD, dweight_DI, dbias_D, dscale_D, dshift_D


class FeedAddNorm(Function):
    """norm(dropped(down(gelu(up(x)))) + x), [Q, D] -> [Q, D]; GELU's outcome is computed again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        draw: Draw,
        epsilon: float,
        x_QD: Tensor,
        up_ID: Tensor,
        up_bias_I: Tensor,
        down_DI: Tensor,
        down_bias_D: Tensor,
        scale_D: Tensor,
        shift_D: Tensor,
    ) -> Tensor:
        up_QI = forward(x_QD, up_ID)
        active_QI = torch.empty_like(up_QI)
        kernels().gelu_forward(pointer(up_QI), pointer(up_bias_I), pointer(active_QI), *rows_and_width(up_QI))
        sum_QD = forward(active_QI, down_DI)
        normed_QD, mean_Q, inverse_Q = add_norm(sum_QD, down_bias_D, x_QD, scale_D, shift_D, epsilon, draw)
        ctx.draw = draw
        ctx.save_for_backward(x_QD, up_ID, down_DI, scale_D, up_QI, sum_QD, mean_Q, inverse_Q)
        return normed_QD

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient_QD: Tensor) -> tuple[Any, ...]:
        x_QD, up_ID, down_DI, scale_D, up_QI, sum_QD, mean_Q, inverse_Q = ctx.saved_tensors
        x_needed, up_needed, _, down_needed = ctx.needs_input_grad[2:6]
        dsum_QD, inner_QD, dscale_D, dshift_D, ddown_bias_D = _add_norm_backward(
            gradient_QD, sum_QD, mean_Q, inverse_Q, scale_D, ctx.draw
        )
        dup_QI, active_QI = into(inner_QD, down_DI), torch.empty_like(up_QI)
        dup_bias_I = torch.zeros(up_QI.shape[1])
        kernels().gelu_backward(
            pointer(dup_QI), pointer(up_QI), pointer(active_QI), pointer(dup_bias_I), *rows_and_width(up_QI)
        )
        ddown_DI = between(inner_QD, active_QI) if down_needed else None
        dup_ID = between(dup_QI, x_QD) if up_needed else None
        dx_QD = into(dup_QI, up_ID, onto_QI=dsum_QD) if x_needed else None
        return None, None, dx_QD, dup_ID, dup_bias_I, ddown_DI, ddown_bias_D, dscale_D, dshift_D


class Project(Function):
    """x [Q, D] -> x W' + bias for each W and bias of `leaves` (weight, bias, weight, bias …): one gradient of x for all."""

    @staticmethod
    def forward(ctx: Any, x_QD: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x_QD, *leaves[::2])
        pairs = zip(leaves[::2], leaves[1::2], strict=True)
        return tuple(forward(x_QD, weight_ED, bias_E) for weight_ED, bias_E in pairs)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_QD, *weights = ctx.saved_tensors
        x_needed, *needed = ctx.needs_input_grad
        dx_QD: Tensor | None = None
        found: list[Tensor | None] = []
        for number, (weight_ED, given_QE) in enumerate(zip(weights, gradients, strict=True)):
            gradient_QE = given_QE.contiguous()
            if x_needed:
                dx_QD = into(gradient_QE, weight_ED, onto_QI=dx_QD)
            found.append(between(gradient_QE, x_QD) if needed[2 * number] else None)
            found.append(_column_sums(gradient_QE) if needed[2 * number + 1] else None)
        return dx_QD, *found


def _column_sums(x_QE: Tensor) -> Tensor:
    sums_E = torch.zeros(x_QE.shape[1])
    kernels().column_sums(pointer(x_QE), pointer(sums_E), *rows_and_width(x_QE))
    return sums_E


def add_norm(
    sum_QD: Tensor, bias_D: Tensor, residual_QD: Tensor, scale_D: Tensor, shift_D: Tensor, epsilon: float, draw: Draw
) -> tuple[Tensor, Tensor, Tensor]:
    """norm(dropped(sum + bias) + residual), and each row's mean and 1 / standard deviation; `sum` becomes what is normed."""
    normed_QD = torch.empty_like(sum_QD)
    mean_Q, inverse_Q = sum_QD.new_empty(len(sum_QD)), sum_QD.new_empty(len(sum_QD))
    kernels().add_norm_forward(
        *(pointer(one) for one in (sum_QD, bias_D, residual_QD, scale_D, shift_D)), ctypes.c_float(epsilon), *draw.told(),
        pointer(normed_QD), pointer(mean_Q), pointer(inverse_Q), *rows_and_width(sum_QD),
    )  # fmt: skip
    return normed_QD, mean_Q, inverse_Q


def _add_norm_backward(
    gradient_QD: Tensor, sum_QD: Tensor, mean_Q: Tensor, inverse_Q: Tensor, scale_D: Tensor, draw: Draw
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the sum, of what was added to it by the product, of the norm's scale and shift, of the bias."""
    dsum_QD = gradient_QD.clone(memory_format=torch.contiguous_format)  # others may hold what came in
    inner_QD = torch.empty_like(dsum_QD) if draw.p else dsum_QD
    dscale_D, dshift_D, dbias_D = (torch.zeros(sum_QD.shape[1]) for _ in range(3))
    kernels().add_norm_backward(
        *(pointer(one) for one in (dsum_QD, sum_QD, mean_Q, inverse_Q, scale_D)), *draw.told(),
        *(pointer(one) for one in (inner_QD, dscale_D, dshift_D, dbias_D)), *rows_and_width(sum_QD),
    )  # fmt: skip
    return dsum_QD, inner_QD, dscale_D, dshift_D, dbias_D
