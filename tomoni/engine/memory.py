"""Out of memory: the same work again in smaller micro-batches."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from tomoni.errors import RunError
from tomoni.rows import Item

# what the allocators of CPU, CUDA, cuBLAS and MPS say
SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "alloc_failed")

Result = TypeVar("Result")


def fitting(
    work: Callable[[int], Result], items: Sequence[Item], *, budget: int, device: torch.device
) -> tuple[Result, int]:
    """`work(budget)`, begun again with half the budget (tokens of a micro-batch) as often as memory runs out; and the
    budget that sufficed. RunError where a single item does not fit."""
    while True:
        try:
            return work(budget), budget
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            budget = _halved(items, budget, error)
        # out of the handler the error is gone, and with its traceback the tensors of the failed attempt
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return any(sign in text for sign in SIGNS)


def _halved(items: Sequence[Item], budget: int, error: BaseException) -> int:
    largest = max(items, key=lambda item: item.tokens)
    if budget <= largest.tokens or len(items) == 1:
        raise RunError(
            f"out of memory with a single item in the micro-batch ({largest.id}, {largest.tokens} tokens): {error}",
            next_step="shorten max_length, set gradient_checkpointing: true, or train: lora",
        ) from error
    return max(largest.tokens, min(budget, sum(item.tokens for item in items)) // 2)
