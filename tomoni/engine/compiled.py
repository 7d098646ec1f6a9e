"""A decoder's layers in one call of C (`decoder.c`), where there is a compiler; `torchlayers` does the same.

What it gives for a token does not depend on the tokens beside it or on the number of threads, to the last bit, so an
answer is the same in whatever batch it is made.

N tokens, P of which logits are wanted, D hidden, H + J heads of queries and keys, d values a head, I inner, V vocabulary.
"""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tomoni.engine.blueprint import Blueprint, Layer, Projection
from tomoni.engine.cores import Cores
from tomoni.engine.kernels import library
from tomoni.engine.matrices import Weights, rounded
from tomoni.engine.slots import Piece, SlotRow, Slots

WHOLE = 128  # what `decoder.c` adds to its rounded inputs
SMALL = 4_000_000  # products of numbers that one thread does before a second one has begun


class _Matrix(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("packed", "packed8", "scale", "offset", "bias")),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs")),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Matrix) for name in ("qkv", "o", "gate_up", "down")),
        ("head_norm", ctypes.c_void_p),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        ("head", _Matrix),
        ("embedding", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("count", "width", "heads", "kv_heads", "head_dim", "inner", "window")),
        *((name, ctypes.c_float) for name in ("epsilon", "scale")),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in ("tokens", "slots", "positions", "at", "cosine", "sine", "memory", "logits")
        ),
        *((name, ctypes.c_int64) for name in ("n", "p", "room", "slot_count", "threads")),
        *((name, ctypes.c_void_p) for name in ("parallel", "number", "team")),
    )


class CompiledLayers:
    """The layers and the head; weights as of the last `refresh`, but for the embedding, which is the model's own."""

    def __init__(self, inner: Any, plan: Blueprint, weights: Weights, slots: Slots, built: ctypes.CDLL) -> None:
        self._inner, self._plan, self._weights, self._slots, self._built = inner, plan, weights, slots, built
        self._lanes: int = built.decoder_lanes()
        self._cosine_Td = self._sine_Td = torch.empty(0)
        self._kept: list[Tensor] = []  # what the structures point at
        self._model = _Model()
        self._products = 0
        self._cores = Cores()

    def refresh(self) -> None:
        plan, model = self._plan, self._model
        self._kept, self._products = [], 0
        self._layers = (_Layer * len(plan.layers))(*(self._layer(layer) for layer in plan.layers))
        head = self._inner.get_output_embeddings()
        model.layers = self._layers
        model.head = self._matrix(head.weight * plan.norm, head.bias)
        model.embedding = self._at(plan.embedding.weight.detach())
        model.count, model.width = len(plan.layers), plan.embedding.weight.shape[1]
        model.heads, model.kv_heads, model.head_dim = plan.heads, plan.kv_heads, plan.head_dim
        model.inner = plan.layers[0].down.parts[0].weight.shape[1]
        model.window = plan.window or 0
        model.epsilon, model.scale = plan.epsilon, plan.scale
        self._vocabulary = len(head.weight)

    def extend(self, pieces: Sequence[Piece], at_P: Sequence[int] | None) -> Tensor:
        """The logits [P, V] behind the tokens at these places of all the pieces', in ascending order, or behind each."""
        tokens = [token for piece in pieces for token in piece.tokens]
        rows = [piece.row.slot for piece in pieces for _ in piece.tokens]
        positions = [position for piece in pieces for position in piece.positions]
        return self._run(tokens, rows, positions, range(len(tokens)) if at_P is None else at_P)

    def decode(self, rows: Sequence[SlotRow], tokens: Sequence[int]) -> Tensor:
        """The logits [N, V] behind each row's next token."""
        return self._run(tokens, [row.slot for row in rows], [row.length for row in rows], range(len(tokens)))

    def _run(self, tokens: Sequence[int], rows: Sequence[int], positions: Sequence[int], at_P: Sequence[int]) -> Tensor:
        """`rows` are the tokens' slots, which have room for them."""
        longest = max(positions) + 1
        if len(self._cosine_Td) < longest:
            self._cosine_Td, self._sine_Td = self._plan.rotations(max(longest, 2 * len(self._cosine_Td)))
        most = max(1, min(torch.get_num_threads(), len(tokens) * self._products // SMALL))
        cores = self._cores.choose(most, len(tokens))
        told = [np.array(numbers, dtype=np.int64) for numbers in (tokens, rows, positions, at_P)]
        logits_PV = torch.empty(len(at_P), self._vocabulary)
        memory_LSYCd = self._slots.memory_LSYCd
        step = _Step(
            *(numbers.ctypes.data for numbers in told),
            self._cosine_Td.data_ptr(),
            self._sine_Td.data_ptr(),
            memory_LSYCd.data_ptr(),
            logits_PV.data_ptr(),
            len(tokens),
            len(at_P),
            memory_LSYCd.shape[3],
            memory_LSYCd.shape[1],
            cores,
            *openmp(),
        )
        began = time.perf_counter()
        if self._built.decoder_pass(ctypes.byref(self._model), ctypes.byref(step)):
            raise MemoryError("no memory for a pass of the decoder")
        self._cores.told(most, len(tokens), cores, (time.perf_counter() - began) / len(tokens))
        return logits_PV

    # -- packing -----------------------------------------------------------------------------------------------------

    def _layer(self, layer: Layer) -> _Layer:
        for projections in layer.projections():
            projections.refresh()
        (o,), (down,) = layer.o.parts, layer.down.parts
        found = _Layer()
        found.qkv = self._matrix(*_stacked(layer.qkv.parts, layer.attention_norm))
        found.o = self._matrix(o.weight, o.bias)
        gate, up = layer.gate_up.parts
        found.gate_up = self._matrix(*self._interleaved(gate, up, layer.mlp_norm))
        found.gate_up.outputs = 2 * len(gate.weight)  # those that only fill a panel are not written
        found.down = self._matrix(down.weight, down.bias)
        if layer.q_norm is not None and layer.k_norm is not None:
            plan = self._plan
            norms_Hd = [layer.q_norm.expand(plan.heads, -1), layer.k_norm.expand(plan.kv_heads, -1)]
            found.head_norm = self._at(torch.cat(norms_Hd))
        return found

    def _interleaved(self, gate: Projection, up: Projection, norm_D: Tensor) -> tuple[Tensor, Tensor | None]:
        """Some outputs of the gate, as many of `up`, and so on: they meet in one panel."""
        weight, bias = _stacked((gate, up), norm_D)
        return self._mixed(weight), None if bias is None else self._mixed(bias[:, None]).squeeze(1)

    def _mixed(self, weight_OD: Tensor) -> Tensor:
        halves_2ID = _padded(weight_OD.view(2, -1, weight_OD.shape[1]), self._lanes, dim=1)
        return halves_2ID.unflatten(1, (-1, self._lanes)).transpose(0, 1).flatten(0, 2)

    def _matrix(self, weight_OI: Tensor, bias_O: Tensor | None) -> _Matrix:
        panel = 2 * self._lanes
        self._products += weight_OI.numel()
        found = _Matrix(inputs=weight_OI.shape[1], outputs=len(weight_OI))
        if bias_O is not None:
            found.bias = self._at(_padded(bias_O, panel, dim=0).clone())
        if self._weights == "float32":
            weight_PIO = _padded(weight_OI, panel, dim=0).unflatten(0, (-1, panel)).transpose(1, 2)
            found.packed = self._at(weight_PIO)
            return found
        whole_OI, scale_O = rounded(weight_OI)
        whole_OI = _padded(_padded(whole_OI, panel, dim=0), 4, dim=1)
        found.inputs = whole_OI.shape[1]
        found.packed8 = self._at(whole_OI.unflatten(0, (-1, panel)).unflatten(2, (-1, 4)).transpose(1, 2))
        found.scale = self._at(_padded(scale_O, panel, dim=0))
        found.offset = self._at(whole_OI.sum(1, dtype=torch.int32) * WHOLE)
        return found

    def _at(self, tensor: Tensor) -> int:
        tensor = tensor.detach().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


def compiled_layers(inner: Any, plan: Blueprint, weights: Weights, slots: Slots) -> CompiledLayers | None:
    """None where no compiler built them, or where a layer has a shape of its own."""
    built = library()
    if built is None or plan.embedding.weight.dtype != torch.float32 or not _is_uniform(plan):
        return None
    return CompiledLayers(inner, plan, weights, slots, built)


def _is_uniform(plan: Blueprint) -> bool:
    """Whether every layer has the shapes that the first one and the heads say."""
    width, d = plan.embedding.weight.shape[1], plan.head_dim
    inner = len(plan.layers[0].gate_up.parts[0].weight)
    q, kv = (plan.heads * d, width), (plan.kv_heads * d, width)
    expected = [q, kv, kv, (width, plan.heads * d), (inner, width), (inner, width), (width, inner)]
    return all(
        [tuple(part.weight.shape) for projections in layer.projections() for part in projections.parts] == expected
        for layer in plan.layers
    )


@functools.cache
def openmp() -> tuple[int | None, int | None, int | None]:
    """Where the functions of the OpenMP that PyTorch has loaded stand, else None.

    Its threads wait for more work without sleeping for some milliseconds, so that others beside them would find the cores
    taken: what a pass is dealt out to has to be they themselves.
    """
    names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
    try:
        loaded = ctypes.CDLL(None)
        parallel, number, team = (ctypes.cast(getattr(loaded, name), ctypes.c_void_p).value for name in names)
    except (AttributeError, OSError, TypeError):  # another OpenMP, or a system that does not tell
        return None, None, None
    return parallel, number, team


def _stacked(parts: Sequence[Projection], norm_D: Tensor) -> tuple[Tensor, Tensor | None]:
    """One matrix of several, with the norm's weight before it multiplied in."""
    weight_OD = torch.cat([part.weight for part in parts]) * norm_D
    if all(part.bias is None for part in parts):
        return weight_OD, None
    biases = [weight_OD.new_zeros(len(part.weight)) if part.bias is None else part.bias for part in parts]
    return weight_OD, torch.cat(biases)


def _padded(tensor: Tensor, to: int, *, dim: int) -> Tensor:
    """With zeros at its end, to a multiple of `to`."""
    missing = -tensor.shape[dim] % to
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor, tensor.new_zeros(shape)], dim)
