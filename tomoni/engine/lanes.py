"""Parts of a step side by side, one core each.

On a CPU a layer's many small operations waste time when all cores share each of them: every one ends with the cores
waiting for the slowest, and where another process holds a core the others wait for it hundreds of times a step. So the
items of a step are dealt out to as many lanes as there are cores, each lane computes its own with one core, and the
lanes meet once, at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from tomoni.rows import Item

# attention's share of a row's cost grows with its length; at this many tokens it is as large as all the rest
ATTENTION_EVENS = 2048

# a lane with fewer tokens spends its time in Python, which its neighbours need too: all cores share its products then
TOKENS_A_LANE = 300

# each lane holds gradients of its own; all of them together at most so many bytes
GRADIENT_BYTES = 2**31

Result = TypeVar("Result")


def how_many(items: Sequence[Item], threads: int, *, budget: int, bytes_trained: int) -> int:
    """Lanes that pay for these items on so many threads, and that memory is there for: `budget` tokens over all lanes,
    of which the longest item alone may take a lane's share, and twice `bytes_trained` a lane."""
    tokens = sum(item.tokens for item in items)
    longest = max(item.tokens for item in items)
    room = min(budget // max(1, longest), GRADIENT_BYTES // max(1, 2 * bytes_trained))
    return max(1, min(threads, len(items), tokens // TOKENS_A_LANE, room))


def deal(items: Sequence[Item], lanes: int) -> list[list[Item]]:
    """The items in at most `lanes` parts of about equal cost, in the order of the items within each part; the same
    items give the same parts. The costliest item first, each to the part that has least."""
    costs = [_cost(item) for item in items]
    sums = [0.0] * min(lanes, len(items))
    parts: list[list[int]] = [[] for _ in sums]
    for index in sorted(range(len(items)), key=lambda index: (-costs[index], index)):
        least = sums.index(min(sums))
        parts[least].append(index)
        sums[least] += costs[index]
    return [[items[index] for index in sorted(part)] for part in parts]


def _cost(item: Item) -> float:
    return sum(len(row) * (1 + len(row) / ATTENTION_EVENS) for row in item.rows)


def side_by_side(work: Sequence[Callable[[], Result]], *, cores: int | None = None) -> list[Result]:
    """The results of all pieces of work, each done by a thread of its own with its share of PyTorch's threads, or with
    `cores` of them. All are waited for, then the first error in order is raised."""
    threads = torch.get_num_threads()
    share = cores or max(1, threads // max(1, len(work)))
    if len(work) == 1:
        with _threads_a_piece(share, threads):
            return [work[0]()]
    with _threads_a_piece(share, threads), ThreadPoolExecutor(len(work), "lane") as pool:
        futures = [pool.submit(_with_threads, share, piece) for piece in work]
    return [future.result() for future in futures]


def looked(
    items: Sequence[Item],
    threads: int,
    *,
    budget: int,
    ready: Callable[[Sequence[Item]], contextlib.AbstractContextManager[object]],
    of_lane: Callable[[Sequence[Item], int], Result],
) -> list[Result]:
    """What each lane saw of its items, with its share of `budget` and without gradients; one lane where there is little
    to see. The lanes run within `ready`."""
    count = how_many(items, threads, budget=budget, bytes_trained=0) if items and threads > 1 else 1
    if count == 1:
        return [of_lane(items, budget)]

    def apart(lane: Sequence[Item]) -> Result:
        with torch.no_grad():  # a thread has its own
            return of_lane(lane, max(1, budget // count))

    with ready(items):
        return side_by_side([partial(apart, lane) for lane in deal(items, count)])


def added(totals: list[Tensor | None], more: Sequence[Tensor | None]) -> None:
    """Add gradients to `totals`, in place; None stands for none.

    They are laid out row by row, as the weights are: the fused optimizer reads both by their place in memory.
    """
    for index, gradient in enumerate(more):
        total = totals[index]
        if total is None:
            totals[index] = None if gradient is None else gradient.contiguous()
        elif gradient is not None:
            total.add_(gradient)


def set_gradients(weights: Sequence[Tensor], parts: Sequence[Sequence[Tensor | None]]) -> None:
    """Those of all lanes, added in the order of the lanes."""
    totals: list[Tensor | None] = [None] * len(weights)
    for gradients in parts:
        added(totals, gradients)
    for weight, total in zip(weights, totals, strict=True):
        weight.grad = total


def _with_threads(share: int, piece: Callable[[], Result]) -> Result:
    torch.set_num_threads(share)  # OpenMP keeps the number for each thread by itself
    torch.get_num_threads()  # and the first to ask later might be told what another thread has set since
    return piece()


@contextlib.contextmanager
def _threads_a_piece(share: int, before: int) -> Iterator[None]:
    torch.set_num_threads(share)  # MKL keeps one number for all
    try:
        yield
    finally:
        torch.set_num_threads(before)
