"""A BERT layer that is not trained, over the tokens of many texts at once, such that no text's numbers depend on the others.

PyTorch's products choose the order of their sums by how many rows there are; those of `products.c` do not. So frozen
layers can run over as many texts at once as is fast, and a text still gets, bit by bit, what it gets alone.

Q tokens of all texts, D hidden, I between `up` and `down`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tomoni.engine.calls import kernels, pointer, rows_and_width
from tomoni.engine.dropout import Draw
from tomoni.engine.encoderparts import Attend, Texts, add_norm
from tomoni.engine.products import product


def layer(parts: Any, x_QD: Tensor, texts: Texts) -> Tensor:
    """[Q, D] behind a layer of plain modules (`flatencoder`), without dropout and without gradients."""
    given = (product(x_QD, module.weight, module.bias) for module in (parts.query, parts.key, parts.value))
    seen_QD = Attend.apply(texts, Draw(), *given)  # type: ignore[no-untyped-call]
    x_QD = _normed(parts.attention_norm, product(seen_QD, parts.out.weight), parts.out.bias, x_QD)
    up_QI = product(x_QD, parts.up.weight)
    active_QI = torch.empty_like(up_QI)
    kernels().gelu_forward(*map(pointer, (up_QI, parts.up.bias, active_QI)), *rows_and_width(up_QI))
    return _normed(parts.norm, product(active_QI, parts.down.weight), parts.down.bias, x_QD)


def _normed(norm: nn.LayerNorm, sum_QD: Tensor, bias_D: Tensor, residual_QD: Tensor) -> Tensor:
    normed_QD, _, _ = add_norm(sum_QD, bias_D, residual_QD, norm.weight, norm.bias, norm.eps, Draw())
    return normed_QD
