"""From items to tensors: how a step is cut into micro-batches, and a micro-batch into rectangles of tokens.

Nothing here changes a result: rows are cut and padded for memory and speed only. Right padding under a causal mask
needs no mask at all, since no real position can see a later one; an encoder gets one.

The legend of shapes stands in `tomoni.losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tomoni.losses import Rows, Unit
from tomoni.rows import Item, Row

# a rectangle costs about as much as this many more tokens: the fixed price of running the layers once more
RECTANGLE_COST = 64
LAUNCHING_COST = 2048  # on a GPU, where the kernels of a small rectangle run for less time than it takes to launch them


@dataclass(frozen=True, slots=True)
class Entering:
    """A rectangle's states as they enter the layer number `layer`: the ones below need not run. `parts` is 0 where the
    model's layers give a tensor, else how many parts their tuple has."""

    layer: int
    states_NTD: Tensor
    parts: int = 0


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows of similar length, padded on the right to a rectangle.

    `source_Q` are the flat positions in the rectangle from which the tile's trained positions are predicted, and
    `place_Q` is where each of them stands in the micro-batch's flat order P. A prompt that rows share is a tile of one
    line without rows; theirs stand `behind` that tile, number `behind` of the micro-batch, which has `before` tokens.
    """

    rows: tuple[int, ...]
    tokens_NT: Tensor
    lengths_N: Tensor
    segments_NT: Tensor | None
    source_Q: Tensor
    place_Q: Tensor
    behind: int | None = None
    before: int = 0
    entering: Entering | None = None  # from frozen layers whose outputs are kept; see `frozen`

    @property
    def padded(self) -> bool:
        return bool((self.lengths_N != self.tokens_NT.shape[1]).any())


@dataclass(frozen=True, slots=True)
class MicroBatch:
    items: tuple[Item, ...]
    tiles: tuple[Tile, ...]
    targets_P: Tensor
    rows: Rows


def counts(items: Sequence[Item]) -> dict[Unit, float]:
    """What a step's sums are divided by; in float64, so that the order of items does not show."""
    tokens = sum(item.weight * float(np.sum(row.weights, dtype=np.float64)) for item in items for row in item.rows)
    return {"token": tokens, "item": float(sum(item.weight for item in items))}


def micro_batches(items: Sequence[Item], budget: int) -> Iterator[tuple[Item, ...]]:
    """Items by length, longest first, in groups whose rows hold at most `budget` tokens (an item alone may exceed it).

    Longest first, so that memory that does not suffice is found at the first micro-batch of a step.
    """
    order = sorted(range(len(items)), key=lambda index: (-items[index].tokens, index))
    group: list[Item] = []
    size = 0
    for index in order:
        item = items[index]
        if group and size + item.tokens > budget:
            yield tuple(group)
            group, size = [], 0
        group.append(item)
        size += item.tokens
    if group:
        yield tuple(group)


def rectangles(lengths: Sequence[int], limit: int, cost: int = RECTANGLE_COST) -> list[list[int]]:
    """Row indices grouped so that padding plus `cost` a group is least; each at most `limit` tokens.

    Rows in order of length; the best cut of the first j distinct lengths extends the best cut of the first i < j.
    """
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    values, starts = np.unique([lengths[index] for index in order], return_index=True)
    ends = [*starts[1:].tolist(), len(order)]
    best = [0.0] + [float("inf")] * len(values)
    cut = [0] * (len(values) + 1)
    for j in range(1, len(values) + 1):
        for i in range(j - 1, -1, -1):
            padded = int(values[j - 1]) * (ends[j - 1] - int(starts[i]))
            if best[i] + padded + cost < best[j]:
                best[j], cut[j] = best[i] + padded + cost, i
    groups: list[list[int]] = []
    j = len(values)
    while j > 0:
        rows = order[int(starts[cut[j]]) : ends[j - 1]]
        most = max(1, limit // int(values[j - 1]))
        groups += [rows[start : start + most] for start in range(0, len(rows), most)]
        j = cut[j]
    return groups


def collate(
    items: Sequence[Item],
    *,
    causal: bool,
    limit: int,
    device: torch.device,
    cost: int = RECTANGLE_COST,
    share: bool = False,
) -> MicroBatch:
    """A micro-batch on the device. Causal rows predict position i from i - 1, others from i itself. `cost` is that of
    one more rectangle, in tokens. `share`: a prompt that an item's rows have in common is laid out once."""
    rows = [row for item in items for row in item.rows]
    trained = [np.flatnonzero(row.weights) for row in rows]
    starts = np.concatenate([[0], np.cumsum([len(places) for places in trained])])
    tiles: list[Tile] = []
    alone = list(range(len(rows)))
    if share:
        for first, last, common in _sharing(items, trained, cost):
            alone = [index for index in alone if not first <= index < last]
            behind = len(tiles)
            tiles.append(_prompt_tile(range(first, last), common, rows, trained, starts, device=device))
            for group in rectangles([len(row) - common for row in rows[first:last]], limit, cost):
                lines = [first + index for index in group]
                tile = _tile(lines, rows, trained, starts, causal=causal, device=device, skip=common)
                tiles.append(replace(tile, behind=behind, before=common))
    for group in rectangles([len(rows[index]) for index in alone], limit, cost) if alone else ():
        tiles.append(_tile([alone[index] for index in group], rows, trained, starts, causal=causal, device=device))
    targets = [
        (row.tokens if row.targets is None else row.targets)[places] for row, places in zip(rows, trained, strict=True)
    ]
    targets_P = _tensor(np.concatenate(targets).astype(np.int64), device)
    return MicroBatch(
        items=tuple(items),
        tiles=tuple(tiles),
        targets_P=targets_P,
        rows=_columns(items, rows, trained, targets_P, device),
    )


def _sharing(items: Sequence[Item], trained: Sequence[NDArray[np.intp]], cost: int) -> list[tuple[int, int, int]]:
    """(first row, end of rows, tokens they have in common) of items for which laying that out once pays."""
    found, first = [], 0
    for item in items:
        last = first + len(item.rows)
        if len(item.rows) > 1 and all(row.segments is None for row in item.rows):
            common = _in_common(item.rows, trained[first:last])
            if (len(item.rows) - 1) * common > 2 * cost:
                found.append((first, last, common))
        first = last
    return found


def _in_common(rows: Sequence[Row], trained: Sequence[NDArray[np.intp]]) -> int:
    """Tokens with which all rows begin, before anything is trained, so that each keeps at least one of its own."""
    most = min(len(row) - 1 for row in rows)
    most = min([most, *(int(places[0]) for places in trained if len(places))])
    for row in rows[1:]:
        differs = np.flatnonzero(row.tokens[:most] != rows[0].tokens[:most])
        most = int(differs[0]) if len(differs) else most
    return most


def _prompt_tile(
    group: Sequence[int],
    common: int,
    rows: Sequence[Row],
    trained: Sequence[NDArray[np.intp]],
    starts: NDArray[np.intp],
    *,
    device: torch.device,
) -> Tile:
    """The prompt's tokens in one line; its last one predicts the first token of each row that is trained there."""
    place = [starts[index] for index in group if len(trained[index]) and trained[index][0] == common]
    return Tile(
        rows=(),
        tokens_NT=_tensor(rows[group[0]].tokens[None, :common].astype(np.int64), device),
        lengths_N=torch.tensor([common]),
        segments_NT=None,
        source_Q=_tensor(np.full(len(place), common - 1, dtype=np.int64), device),
        place_Q=_tensor(np.asarray(place, dtype=np.int64), device),
    )


def _tile(
    group: Sequence[int],
    rows: Sequence[Row],
    trained: Sequence[NDArray[np.intp]],
    starts: NDArray[np.intp],
    *,
    causal: bool,
    device: torch.device,
    skip: int = 0,
) -> Tile:
    """Rows `group` as a rectangle, without their first `skip` tokens."""
    width = max(len(rows[index]) for index in group) - skip
    tokens = np.zeros((len(group), width), dtype=np.int64)
    segments = np.zeros_like(tokens) if any(rows[index].segments is not None for index in group) else None
    source, place = [], []
    for line, index in enumerate(group):
        row = rows[index]
        tokens[line, : len(row) - skip] = row.tokens[skip:]
        if segments is not None and row.segments is not None:
            segments[line, : len(row)] = row.segments
        here = trained[index] >= skip + bool(skip)  # the first one behind a shared prompt is predicted there
        source.append(trained[index][here] - skip + line * width - (1 if causal else 0))
        place.append(np.arange(starts[index], starts[index + 1])[here])
    return Tile(
        rows=tuple(group),
        tokens_NT=_tensor(tokens, device),
        lengths_N=torch.tensor([len(rows[index]) - skip for index in group]),
        segments_NT=None if segments is None else _tensor(segments, device),
        source_Q=_tensor(np.concatenate(source).astype(np.int64), device),
        place_Q=_tensor(np.concatenate(place).astype(np.int64), device),
    )


def _columns(
    items: Sequence[Item],
    rows: Sequence[Row],
    trained: Sequence[NDArray[np.intp]],
    targets_P: Tensor,
    device: torch.device,
) -> Rows:
    item_of = np.repeat(np.arange(len(items)), [len(item.rows) for item in items])
    scale = [item.weight for item in items for _ in item.rows]

    def flat(read: Callable[[Row], NDArray[np.float32] | None]) -> Tensor | None:
        columns = [read(row) for row in rows]
        if any(column is None for column in columns):
            return None
        kept = [column[places] for column, places in zip(columns, trained, strict=True) if column is not None]
        return _tensor(np.concatenate(kept).astype(np.float32), device)

    weights = [
        row.weights[places] * np.float32(factor) for row, places, factor in zip(rows, trained, scale, strict=True)
    ]
    return Rows(
        row_P=_tensor(np.repeat(np.arange(len(rows)), [len(places) for places in trained]), device),
        item_N=_tensor(item_of, device),
        weights_P=_tensor(np.concatenate(weights).astype(np.float32), device),
        weight_B=torch.tensor([item.weight for item in items], device=device),
        margin_B=torch.tensor([item.margin for item in items], device=device),
        noise_B=torch.tensor([item.noise for item in items], device=device),
        behaviour_P=flat(lambda row: row.behaviour),
        reference_P=flat(lambda row: row.reference),
        advantages_P=flat(lambda row: row.advantages),
        returns_P=flat(lambda row: row.returns),
        values_P=flat(lambda row: row.values),
        label_N=_labels(rows, device),
        targets_P=targets_P,
        place_P=_tensor(np.concatenate(trained).astype(np.int64), device),
    )


def _labels(rows: Sequence[Row], device: torch.device) -> Tensor | None:
    """One label a row as a tensor: classes and spans as int64, numbers and several classes as float32."""
    labels = [row.label for row in rows]
    if any(label is None for label in labels) or any(
        isinstance(label, np.ndarray) and label.dtype == np.int64 for label in labels
    ):
        return None  # labels per token are read from the rows by the method that has them
    stacked = np.asarray(labels)
    return _tensor(stacked.astype(np.int64 if stacked.dtype.kind in "iub" else np.float32), device)


def _tensor(array: NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
