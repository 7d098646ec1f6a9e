"""The vocabulary head at trained positions only, in chunks that bound its memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# logits held at once while training; 2**25 float32 numbers are 128 MiB
CHUNK_LOGITS = 2**25

Head = Callable[[Tensor], Tensor]  # [Q, D] -> [Q, V]


def target_logprobs(head: Head, hidden_PD: Tensor, targets_P: Tensor, *, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the targets [P], and 1.0 where the target is the most probable token [P].

    Where all logits together exceed `CHUNK_LOGITS`, they are computed chunk by chunk and again in the backward pass,
    so that memory is bounded by a chunk whatever the vocabulary.
    """
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


def _chunk(head: Head, hidden_QD: Tensor, targets_Q: Tensor) -> tuple[Tensor, Tensor]:
    logits_QV = head(hidden_QD).float()
    logprobs_Q = -torch.nn.functional.cross_entropy(logits_QV, targets_Q, reduction="none")
    with torch.no_grad():
        target_Q = logits_QV.gather(1, targets_Q[:, None]).squeeze(1)
        correct_Q = (target_Q >= logits_QV.amax(1)).float()
    return logprobs_Q, correct_Q
