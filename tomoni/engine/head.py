"""The vocabulary head at trained positions only, in chunks that bound its memory.

The gradient of a target's log-probability with respect to the hidden state is W_target - softmax(W h) W, whatever the
loss is; so where the head is not trained it is computed along with the logits, while these are still in the cache, and
no logits are kept at all. A trained head keeps its probabilities, or computes them again where they would be many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from tomoni.engine.elementwise import target_softmax_

# logits held at once; 2**25 float32 numbers are 128 MiB
CHUNK_LOGITS = 2**25
# of those that are done with before the next ones come, on a CPU: 4 MiB stay in its cache
CACHED_LOGITS = 2**20

Head = Callable[[Tensor], Tensor]  # [Q, D] -> [Q, V]


def target_logprobs(
    head: Head, hidden_PD: Tensor, targets_P: Tensor, *, vocabulary: int, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the targets [P] under softmax(logits / temperature), and 1.0 where the target is the most
    probable token [P].

    Where all logits together exceed `CHUNK_LOGITS`, they are computed chunk by chunk and again in the backward pass,
    so that memory is bounded by a chunk whatever the vocabulary.
    """
    if len(targets_P) == 0:  # rows of which only the score is trained
        return hidden_PD.new_zeros(0), hidden_PD.new_zeros(0)
    if temperature != 1.0 and type(head) is nn.Linear and head.bias is None:
        hidden_PD = hidden_PD / temperature
    elif temperature != 1.0:
        head = _tempered(head, temperature)
    if type(head) is nn.Linear and head.bias is None and _is_full(head.weight, hidden_PD):
        weight_VD = head.weight if torch.is_grad_enabled() else head.weight.detach()
        logprobs_P, correct_P = LinearLogprobs.apply(hidden_PD, weight_VD, targets_P)  # type: ignore[no-untyped-call]
        return logprobs_P, correct_P
    size = max(1, CHUNK_LOGITS // vocabulary)
    if len(targets_P) <= size:
        return _chunk(head, hidden_PD, targets_P)
    logprobs, correct = [], []
    for start in range(0, len(targets_P), size):
        part = hidden_PD[start : start + size], targets_P[start : start + size]
        if torch.is_grad_enabled():
            one, right = checkpoint(_chunk, head, *part, use_reentrant=False, preserve_rng_state=False)
        else:
            one, right = _chunk(head, *part)
        logprobs.append(one)
        correct.append(right)
    return torch.cat(logprobs), torch.cat(correct)


class LinearLogprobs(Function):
    """hidden [P, D], weight [V, D], targets [P] -> log-probabilities of the targets [P], and whether they are likeliest."""

    @staticmethod
    def forward(ctx: Any, hidden_PD: Tensor, weight_VD: Tensor, targets_P: Tensor) -> tuple[Tensor, Tensor]:
        count, vocabulary = len(targets_P), len(weight_VD)
        ctx.keep = ctx.needs_input_grad[1] and count * vocabulary <= CHUNK_LOGITS
        logprobs_P, correct_P = hidden_PD.new_empty(count), hidden_PD.new_empty(count)
        toward_PD = torch.empty_like(hidden_PD) if ctx.needs_input_grad[0] else None
        kept = []
        for part in _parts(count, vocabulary):
            exponentials_QV = hidden_PD[part] @ weight_VD.t()
            logprobs_P[part], correct_P[part], total_Q = target_softmax_(exponentials_QV, targets_P[part])
            if toward_PD is not None:
                # scaled after the product: [Q, D] numbers instead of [Q, V]
                expected_QD = (exponentials_QV @ weight_VD).div_(total_Q[:, None])
                torch.sub(weight_VD[targets_P[part]], expected_QD, out=toward_PD[part])
            if ctx.keep:
                kept.append(exponentials_QV.div_(total_Q[:, None]))
        ctx.mark_non_differentiable(correct_P)
        ctx.save_for_backward(hidden_PD, weight_VD, targets_P, toward_PD, *kept)
        return logprobs_P, correct_P

    @staticmethod
    def backward(ctx: Any, output_P: Tensor, _: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        hidden_PD, weight_VD, targets_P, toward_PD, *kept = ctx.saved_tensors
        dhidden_PD = None if toward_PD is None else toward_PD * output_P[:, None]
        if not ctx.needs_input_grad[1]:
            return dhidden_PD, None, None
        dweight_VD = torch.zeros_like(weight_VD)
        scaled_PD = hidden_PD * output_P[:, None]
        for index, part in enumerate(_parts(len(targets_P), len(weight_VD))):
            p_QV = kept[index] if ctx.keep else torch.softmax(hidden_PD[part] @ weight_VD.t(), -1)
            dweight_VD.addmm_(p_QV.t(), scaled_PD[part], alpha=-1)
        dweight_VD.index_add_(0, targets_P, scaled_PD)
        return dhidden_PD, dweight_VD, None


def _tempered(head: Head, temperature: float) -> Head:
    return lambda hidden_QD: head(hidden_QD) / temperature


def _parts(count: int, vocabulary: int) -> list[slice]:
    size = max(32, CACHED_LOGITS // vocabulary)
    return [slice(start, start + size) for start in range(0, count, size)]


def _is_full(weight: Tensor, hidden: Tensor) -> bool:
    """Float32 throughout, on a CPU: elsewhere PyTorch's own kernels decide the arithmetic."""
    plain = weight.dtype == hidden.dtype == torch.float32 and hidden.device.type == "cpu"
    return plain and not torch.is_autocast_enabled("cpu")


def _chunk(head: Head, hidden_QD: Tensor, targets_Q: Tensor) -> tuple[Tensor, Tensor]:
    logits_QV = head(hidden_QD).float()
    logprobs_Q = -torch.nn.functional.cross_entropy(logits_QV, targets_Q, reduction="none")
    with torch.no_grad():
        target_Q = logits_QV.gather(1, targets_Q[:, None]).squeeze(1)
        correct_Q = (target_Q >= logits_QV.amax(1)).float()
    return logprobs_Q, correct_Q
