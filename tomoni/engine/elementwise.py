"""What a decoder layer does beside products, each in one pass by `kernels.c`, or by PyTorch where that is not to be had.

Names that end in an underscore work in place. All tensors are contiguous. Shapes: N rows of D numbers.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.nn.functional import silu

from tomoni.engine.calls import kernels_for, pointer, rows_and_width


def rms(x_ND: Tensor, weight_D: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """x / sqrt(mean x^2 + epsilon) * weight; and the factor 1 / sqrt(...) of each row [N, 1]."""
    built = kernels_for(x_ND, weight_D)
    if built is None:
        norms_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True)
        inverse_N1 = norms_N1.square_().div_(x_ND.shape[-1]).add_(epsilon).rsqrt_()
        return (x_ND * inverse_N1).mul_(weight_D), inverse_N1
    out_ND, inverse_N1 = torch.empty_like(x_ND), x_ND.new_empty(*x_ND.shape[:-1], 1)
    built.rms_forward(
        pointer(x_ND),
        pointer(weight_D),
        ctypes.c_float(epsilon),
        pointer(out_ND),
        pointer(inverse_N1),
        *rows_and_width(x_ND),
    )
    return out_ND, inverse_N1


def rms_again(x_ND: Tensor, weight_D: Tensor, inverse_N1: Tensor) -> Tensor:
    """The norm of `rms` from what it gave."""
    built = kernels_for(x_ND, weight_D)
    if built is None:
        return (x_ND * inverse_N1).mul_(weight_D)
    out_ND = torch.empty_like(x_ND)
    built.rms_again(pointer(x_ND), pointer(weight_D), pointer(inverse_N1), pointer(out_ND), *rows_and_width(x_ND))
    return out_ND


def rms_backward_(
    gradient_ND: Tensor,
    x_ND: Tensor,
    inverse_N1: Tensor,
    weight_D: Tensor,
    *,
    residual_ND: Tensor | None = None,
    weight_needed: bool = False,
) -> Tensor | None:
    """`gradient_ND` becomes the gradient of x, plus `residual_ND`; the result is the weight's gradient, where needed.

    With u = x / rms(x) and g = gradient * weight: dx = (g - u mean(g u)) / rms(x).
    """
    built = kernels_for(gradient_ND, x_ND, weight_D)
    if built is not None:
        dweight_D = torch.zeros_like(weight_D) if weight_needed else None
        built.rms_backward(
            pointer(gradient_ND),
            pointer(x_ND),
            pointer(inverse_N1),
            pointer(weight_D),
            pointer(residual_ND),
            pointer(dweight_D),
            *rows_and_width(x_ND),
        )
        return dweight_D
    u_ND = x_ND * inverse_N1
    dweight_D = torch.einsum("...d,...d->d", gradient_ND, u_ND) if weight_needed else None
    gradient_ND.mul_(weight_D)
    along_N1 = torch.linalg.vecdot(gradient_ND, u_ND).unsqueeze(-1).div_(-x_ND.shape[-1])
    gradient_ND.addcmul_(u_ND, along_N1).mul_(inverse_N1)
    if residual_ND is not None:
        gradient_ND.add_(residual_ND)
    return dweight_D


def swiglu(gate_NI: Tensor, up_NI: Tensor) -> Tensor:
    """silu(gate) * up."""
    built = kernels_for(gate_NI, up_NI)
    if built is None:
        return silu(gate_NI).mul_(up_NI)
    out_NI = torch.empty_like(gate_NI)
    built.swiglu_forward(pointer(gate_NI), pointer(up_NI), pointer(out_NI), ctypes.c_int64(gate_NI.numel()))
    return out_NI


def swiglu_backward_(inner_NI: Tensor, gate_NI: Tensor, up_NI: Tensor) -> tuple[Tensor, Tensor]:
    """`inner_NI`, the gradient of `swiglu`, becomes that of the gate; the results are that of `up`, and `swiglu` again."""
    built = kernels_for(inner_NI, gate_NI, up_NI)
    if built is None:
        active_NI = silu(gate_NI)
        dup_NI = inner_NI * active_NI
        inner_NI.copy_(torch.ops.aten.silu_backward(inner_NI.mul_(up_NI), gate_NI))
        return dup_NI, active_NI.mul_(up_NI)
    dup_NI, out_NI = torch.empty_like(gate_NI), torch.empty_like(gate_NI)
    built.swiglu_backward(
        pointer(inner_NI),
        pointer(gate_NI),
        pointer(up_NI),
        pointer(dup_NI),
        pointer(out_NI),
        ctypes.c_int64(gate_NI.numel()),
    )
    return dup_NI, out_NI


def rotated(x_NX: Tensor, cos_N1d: Tensor, sin_N1d: Tensor, scale: float, direction: float) -> Tensor:
    """Each head's halves as coordinates, turned to the row's position and scaled; -1 as direction turns back."""
    half = cos_N1d.shape[-1]
    out_NX = torch.empty_like(x_NX)
    heads = x_NX.shape[1] // (2 * half)
    built = kernels_for(x_NX, cos_N1d, sin_N1d)
    if built is not None:
        factors = ctypes.c_float(scale), ctypes.c_float(direction)
        sizes = (ctypes.c_int64(size) for size in (len(x_NX), heads, half))
        built.rotate(pointer(x_NX), pointer(cos_N1d), pointer(sin_N1d), pointer(out_NX), *factors, *sizes)
        return out_NX
    x_NHd, out_NHd = x_NX.view(len(x_NX), heads, 2 * half), out_NX.view(len(x_NX), heads, 2 * half)
    first, second = x_NHd[..., :half], x_NHd[..., half:]
    cos_N1d, sin_N1d = cos_N1d * scale, sin_N1d * (scale * direction)
    torch.mul(first, cos_N1d, out=out_NHd[..., :half]).addcmul_(second, sin_N1d, value=-1)
    torch.mul(second, cos_N1d, out=out_NHd[..., half:]).addcmul_(first, sin_N1d)
    return out_NX


def causal_softmax_(scores_MBE: Tensor) -> Tensor:
    """Softmax over the keys that each query sees: query b of the block's B sees the first E - B + b + 1 of E."""
    built = kernels_for(scores_MBE)
    among, block, end = scores_MBE.shape
    if built is not None:
        built.causal_softmax(pointer(scores_MBE), *(ctypes.c_int64(size) for size in (among, block, end)))
        return scores_MBE
    later_BB = scores_MBE.new_full((block, block), float("-inf")).triu_(1)
    scores_MBE[..., end - block :].add_(later_BB)
    return torch.softmax(scores_MBE, -1, out=scores_MBE)


def causal_softmax_backward_(gradient_MBE: Tensor, probabilities_MBE: Tensor) -> Tensor:
    """The gradient of the probabilities becomes that of the scores."""
    built = kernels_for(gradient_MBE, probabilities_MBE)
    if built is None:
        dtype = gradient_MBE.dtype
        return torch._softmax_backward_data(gradient_MBE, probabilities_MBE, -1, dtype)
    sizes = (ctypes.c_int64(size) for size in gradient_MBE.shape)
    built.causal_softmax_backward(pointer(gradient_MBE), pointer(probabilities_MBE), *sizes)
    return gradient_MBE


def target_softmax_(logits_QV: Tensor, targets_Q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits become e^(logit - largest). The results [Q]: the targets' log-probabilities, 1.0 where no logit is larger
    than the target's, and the sums of the exponentials."""
    built = kernels_for(logits_QV)
    if built is None or not targets_Q.is_contiguous():
        own_Q = logits_QV.gather(1, targets_Q[:, None]).squeeze(1)
        largest_Q = logits_QV.amax(1)
        total_Q = logits_QV.sub_(largest_Q[:, None]).exp_().sum(1)
        return own_Q - largest_Q - total_Q.log(), (own_Q >= largest_Q).to(own_Q.dtype), total_Q
    own_Q, likeliest_Q, total_Q = (logits_QV.new_empty(len(targets_Q)) for _ in range(3))
    built.target_softmax(
        pointer(logits_QV),
        pointer(targets_Q),
        pointer(own_Q),
        pointer(likeliest_Q),
        pointer(total_Q),
        *rows_and_width(logits_QV),
    )
    return own_Q, likeliest_Q, total_Q
