"""How the kernels in C are told of tensors."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from tomoni.engine.kernels import library


def kernels_for(*tensors: Tensor) -> ctypes.CDLL | None:
    """The built kernels, where they can take these tensors."""
    for tensor in tensors:
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu" or not tensor.is_contiguous():
            return None
    return library()


def kernels() -> ctypes.CDLL:
    """The built kernels, where it is known that there are some."""
    built = library()
    assert built is not None
    return built


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    assert tensor is None or tensor.is_contiguous()
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def rows_and_width(x_ND: Tensor) -> tuple[ctypes.c_int64, ctypes.c_int64]:
    width = x_ND.shape[-1]
    return ctypes.c_int64(x_ND.numel() // width), ctypes.c_int64(width)
