"""What a decoder multiplies by: weights as float32, or as int8 with one scale per output.

A matrix is made from a weight [out, in] and never changes; who changes the weight makes a new one. N rows, I in, O out.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

Weights = Literal["float32", "int8"]
LARGEST = 127  # of int8, the same on both sides of 0


class Matrix(Protocol):
    def __call__(self, x_NI: Tensor) -> Tensor:
        """[N, I] -> [N, O]."""
        ...

    def added(self, to_NO: Tensor, x_NI: Tensor) -> Tensor:
        """[N, O]: the product and `to_NO`."""
        ...


def rounded(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [O, I], and float32 [O]: the scale of each output, by which the whole numbers are to be multiplied."""
    scale_O1 = weight_OI.abs().amax(1, keepdim=True).clamp_(min=1e-30).div_(LARGEST)
    return (weight_OI / scale_O1).round_().to(torch.int8), scale_O1.squeeze(1)


class FloatMatrix:
    """float32, laid out [in, out]: for few rows that is read two to three times as fast as [out, in]."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        self.weight_IO = weight_OI.t().contiguous()
        self.bias_O = bias_O

    def __call__(self, x_NI: Tensor) -> Tensor:
        if self.bias_O is None:
            return torch.mm(x_NI, self.weight_IO)
        return torch.addmm(self.bias_O, x_NI, self.weight_IO)

    def added(self, to_NO: Tensor, x_NI: Tensor) -> Tensor:
        out_NO = torch.addmm(to_NO, x_NI, self.weight_IO)
        return out_NO if self.bias_O is None else out_NO.add_(self.bias_O)


class Int8Matrix:
    """Symmetric int8 with a scale per output; the input is rounded to int8 with a scale per row.

    Both sides are whole numbers and their products are summed exactly, so a row's result does not depend on the rows
    beside it. Weights are a quarter of the memory, and reading them is what a step of one row costs.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        self.weight_OI, self.scale_O = rounded(weight_OI)
        self._weight_IO = self.weight_OI.t()
        self.bias_O = bias_O

    def __call__(self, x_NI: Tensor) -> Tensor:
        most_N1 = torch.linalg.vector_norm(x_NI, float("inf"), dim=-1, keepdim=True).clamp_(min=1e-30)
        whole_NI = torch.mul(x_NI, LARGEST / most_N1).round_().to(torch.int8)
        out_NO = torch.mul(torch._int_mm(whole_NI, self._weight_IO), self.scale_O).mul_(most_N1.div_(LARGEST))
        return out_NO if self.bias_O is None else out_NO.add_(self.bias_O)

    def added(self, to_NO: Tensor, x_NI: Tensor) -> Tensor:
        return self(x_NI).add_(to_NO)


MATRICES: dict[Weights, type[FloatMatrix] | type[Int8Matrix]] = {"float32": FloatMatrix, "int8": Int8Matrix}
