"""Products of float32 matrices in training, by `products.c` where it is the faster one, else by PyTorch.

    forward(x, W)     x W'     [Q, I], [O, I] -> [Q, O]
    into(dy, W)       dy W     [Q, O], [O, I] -> [Q, I], the gradient of what came in
    between(dy, x)    dy' x    [Q, O], [Q, I] -> [O, I], that of the weights
    product(x, W)     x W'     always by `products.c`: no row's numbers depend on the rows beside it

Which is taken depends on the processor, the shapes and whether the product has one core, never on what was measured in a
process: so a run that is taken up again has the same bits. On AMD's processors with AVX-512 (measured on Zen 4, LOG.md) MKL,
which PyTorch brings, is 5 to 9 % slower on one core. TOMONI_PRODUCTS=ours or torch decides instead of the processor.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Literal

import torch
from torch import Tensor

from tomoni.engine.calls import kernels, kernels_for, pointer
from tomoni.engine.kernels import library, processor
from tomoni.errors import UserError

FEWEST_ROWS = 128  # for fewer, laying out the weights costs more than is gained
FEWEST_OUTPUTS = 32  # a panel of the widest registers
PAGE = 1024  # numbers: rows a multiple of it apart compete for the same places of the nearest cache


class _Product(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("left", "right", "bias", "onto", "out")),
        *(
            (name, ctypes.c_int64)
            for name in ("left_row", "left_in", "right_in", "right_out", "rows", "inputs", "outs")
        ),
    )


def forward(x_QI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None, *, onto_QO: Tensor | None = None) -> Tensor:
    """With the bias and `onto`, which stays as it is, added."""
    if _ours(x_QI, weight_OI, rows=len(x_QI), outs=len(weight_OI)) and x_QI.shape[1] % PAGE:
        return product(x_QI, weight_OI, bias_O, onto_QO=onto_QO)
    if onto_QO is None:
        return x_QI @ weight_OI.t() if bias_O is None else torch.addmm(bias_O, x_QI, weight_OI.t())
    out_QO = torch.addmm(onto_QO, x_QI, weight_OI.t())
    return out_QO if bias_O is None else out_QO.add_(bias_O)


def into(dy_QO: Tensor, weight_OI: Tensor, *, onto_QI: Tensor | None = None) -> Tensor:
    """Added to `onto` in place, where that is given."""
    outputs, inputs = weight_OI.shape
    given = (dy_QO, weight_OI) if onto_QI is None else (dy_QO, weight_OI, onto_QI)
    if _ours(*given, rows=len(dy_QO), outs=inputs) and outputs % PAGE:
        out_QI = dy_QO.new_empty(len(dy_QO), inputs) if onto_QI is None else onto_QI
        return _run(dy_QO, (outputs, 1), weight_OI, (inputs, 1), out_QI, outputs, onto=onto_QI)
    return dy_QO @ weight_OI if onto_QI is None else onto_QI.addmm_(dy_QO, weight_OI)


def between(dy_QO: Tensor, x_QI: Tensor) -> Tensor:
    outputs, inputs = dy_QO.shape[1], x_QI.shape[1]
    if _ours(dy_QO, x_QI, rows=min(outputs, len(dy_QO)), outs=inputs):
        return _run(dy_QO, (1, outputs), x_QI, (inputs, 1), x_QI.new_empty(outputs, inputs), len(dy_QO))
    return dy_QO.t() @ x_QI


def product(x_QI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None, *, onto_QO: Tensor | None = None) -> Tensor:
    x_QI, weight_OI = x_QI.contiguous(), weight_OI.contiguous()
    onto_QO = None if onto_QO is None else onto_QO.contiguous()
    inputs, out_QO = x_QI.shape[1], x_QI.new_empty(len(x_QI), len(weight_OI))
    return _run(x_QI, (inputs, 1), weight_OI, (1, inputs), out_QO, inputs, bias=bias_O, onto=onto_QO)


def made_by() -> Literal["ours", "torch"]:
    """Whose products training takes, where they are large enough and have one core."""
    asked = os.environ.get("TOMONI_PRODUCTS") or None
    if asked not in (None, "ours", "torch"):
        raise UserError(
            f"TOMONI_PRODUCTS is {asked!r}", choices=("ours", "torch"), next_step="correct it, or leave it out"
        )
    return _made_by(asked)


@functools.cache
def _made_by(asked: str | None) -> Literal["ours", "torch"]:
    if library() is None or asked == "torch":
        return "torch"
    about = processor()
    return "ours" if asked == "ours" or (b"AuthenticAMD" in about and b"avx512f" in about) else "torch"


def _ours(*matrices: Tensor, rows: int, outs: int) -> bool:
    if rows < FEWEST_ROWS or outs < FEWEST_OUTPUTS or torch.get_num_threads() > 1 or made_by() == "torch":
        return False
    return kernels_for(*matrices) is not None and all(matrix.dim() == 2 for matrix in matrices)


def _run(
    left: Tensor,
    left_apart: tuple[int, int],
    right: Tensor,
    right_apart: tuple[int, int],
    out: Tensor,
    inputs: int,
    *,
    bias: Tensor | None = None,
    onto: Tensor | None = None,
) -> Tensor:
    """How far numbers stand apart: of `left` from a row to the next and from an input to the next, of `right` of inputs
    and of outputs."""
    rows, outs = out.shape
    wanted = (left, rows * inputs), (right, inputs * outs), (bias, outs), (onto, rows * outs)
    there = [(one, size) for one, size in wanted if one is not None]
    if kernels_for(*(one for one, _ in there)) is None or any(one.numel() != size for one, size in there):
        seen = ", ".join(f"{one.dtype} {tuple(one.shape)}" for one, _ in there)
        raise RuntimeError(f"matrices that do not fit a product of [{rows}, {inputs}] and [{inputs}, {outs}]: {seen}")
    given = (pointer(one) for one in (left, right, bias, onto, out))
    told, built = _Product(*given, *left_apart, *right_apart, rows, inputs, outs), kernels()
    room = out.new_empty(built.product_room(ctypes.byref(told)))
    built.product(ctypes.byref(told), pointer(room))
    return out
