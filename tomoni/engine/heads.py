"""The head that begins where it is best: solved for on the features of the body as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np

from tomoni.engine.engine import Engine
from tomoni.engine.features import Items, features, set_head
from tomoni.engine.linear import Kind, Solution, solve
from tomoni.report import Mean, Stats, Told, untold
from tomoni.rows import Item

# rows from which a head that is trained further begins: more of them cost a pass over the body, and what the training ends
# with is as good within the noise (LOG.md)
ENOUGH, ENOUGH_A_CLASS = 2_000, 20


def begin_head(engine: Engine, items: Items, *, seed: int, told: Told = untold) -> None:
    """Set the engine's head to the best one for some of these items, every class among them: where training begins."""
    few = beginning([items[index].rows[0].label for index in range(len(items))], seed=seed)
    solve_head(engine, [items[index] for index in few], seed=seed, told=told)


def beginning(labels: Sequence[object], *, seed: int) -> list[int]:
    """Which of the rows a head begins from, ascending: up to `ENOUGH_A_CLASS` of each class, then others up to `ENOUGH`,
    drawn by the seed; all where there are no more."""
    order = np.random.default_rng(seed).permutation(len(labels)).tolist()
    chosen, others = [], []
    seen: Counter[object] = Counter()
    for index in order:
        label = labels[index]
        if isinstance(label, int) and seen[label] < ENOUGH_A_CLASS:
            seen[label] += 1
            chosen.append(index)
        else:
            others.append(index)
    return sorted([*chosen, *others[: max(0, ENOUGH - len(chosen))]])


def solve_head(engine: Engine, items: Items, *, seed: int, told: Told = untold) -> tuple[list[Item], Stats]:
    """Set the engine's head to the best one for these items' labels, the body untouched. The items, and what the
    solution is: its loss on them and the largest entry of the gradient that is left."""
    every = [items[index] for index in range(len(items))]
    found = solution(engine, every, seed=seed, told=told)
    head = engine.score
    assert head is not None
    set_head(engine, found.weight_CD, found.bias_C if head.bias is not None else None)
    weight = sum(item.weight for item in every)
    stats = Stats(loss=Mean(found.loss * weight, weight), grad_norm=Mean(found.gradient), penalty=Mean(found.strength))
    return every, stats


def solution(engine: Engine, items: list[Item], *, seed: int, told: Told = untold) -> Solution:
    spec, head = engine.score_spec, engine.score
    assert spec is not None and head is not None
    labels = [item.rows[0].label for item in items]
    kind: Kind = (
        "classes" if isinstance(labels[0], np.ndarray) else "number" if isinstance(labels[0], float) else "class"
    )
    return solve(
        features(engine, items, say=partial(told, "read")),
        np.stack([np.asarray(label) for label in labels]),
        kind=kind,
        size=spec.size,
        weights_N=np.asarray([item.weight for item in items], dtype=np.float64),
        bias=head.bias is not None,
        seed=seed,
        told=lambda rounds: told("solve", rounds, 0),
    )
