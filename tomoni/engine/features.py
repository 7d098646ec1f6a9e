"""What enters a head on whole rows, where the body below it is not trained: computed once a row, kept on disk.

Rows are computed in portions of a fixed size, each portion whole or not at all, so that a row's bits do not depend on
which of its neighbours was known already: a run that is taken up again has the features that it had.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tomoni.engine.batch import micro_batches
from tomoni.engine.engine import Engine
from tomoni.engine.forward import decoder_layers
from tomoni.engine.frozen import fingerprint
from tomoni.engine.lanes import side_by_side
from tomoni.engine.pooling import pooled
from tomoni.rows import Float32, Item, Row

PORTION = 2048  # items


class Items(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Item: ...


def body_is_frozen(engine: Engine) -> bool:
    return all(name.startswith("score.") for name in engine.trained)


def features(engine: Engine, items: Items, *, say: Callable[[int, int], None] = lambda done, all: None) -> Float32:
    """float32 [N, D]: the pooled states of each item's first row, as `score_spec.pool` says."""
    found = []
    for start in range(0, len(items), PORTION):
        portion = [items[index] for index in range(start, min(start + PORTION, len(items)))]
        found.append(_portion(engine, portion))
        say(start + len(portion), len(items))
    return np.concatenate(found)


def scores(engine: Engine, items: Sequence[Item]) -> list[Float32]:
    """float32 [C] of each item's first row; through the kept features where the body is not trained."""
    if not body_is_frozen(engine):
        return [rows[0] for rows in engine.scores(items)]
    assert engine.score is not None
    with torch.no_grad():
        scores_NC = engine.score(torch.from_numpy(_portion(engine, items)).to(engine.device))
    return list(scores_NC.float().cpu().numpy())


def set_head(engine: Engine, weight_CD: np.ndarray, bias_C: np.ndarray | None) -> None:
    """Replace the head's weights; a bias that the head has no place for must be None."""
    head = engine.score
    assert head is not None and (bias_C is None) == (head.bias is None)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight_CD)).to(head.weight))
        if bias_C is not None:
            head.bias.copy_(torch.from_numpy(np.ascontiguousarray(bias_C)).to(head.weight))


def name_of_store(engine: Engine) -> str:
    """A name over all that decides the features of every row."""
    spec = engine.score_spec
    assert spec is not None
    layers = len(list(decoder_layers(engine.forward.model)))
    whole = fingerprint(engine.forward, layers, autocast=engine.autocast, half=False)
    pool = json.dumps(["rows", spec.pool])
    return hashlib.sha256(f"{whole} {pool}".encode()).hexdigest()[:32]


def _portion(engine: Engine, items: Sequence[Item]) -> Float32:
    rows = [item.rows[0] for item in items]
    kept = engine.kept_rows
    keys = [_key(row) for row in rows]
    if kept is not None:
        known = [kept.get(key) for key in keys]
        if all(one is not None for one in known):
            return np.concatenate([np.asarray(one, dtype=np.float32) for one in known if one is not None])
    computed_ND = _computed(engine, items)
    if kept is not None:
        for key, vector_D in zip(keys, computed_ND, strict=True):
            kept.put(key, vector_D[None])
    return computed_ND


def _computed(engine: Engine, items: Sequence[Item]) -> Float32:
    """Micro-batches side by side, one core each: no number of cores shows in a row's bits."""
    alone = [Item(str(index), (item.rows[0],)) for index, item in enumerate(items)]
    groups = list(micro_batches(alone, engine.looking_budget // 2))
    lanes = max(1, min(torch.get_num_threads(), len(groups))) if engine.device.type == "cpu" else 1
    found: dict[int, Tensor] = {}
    with engine._looking(), engine._frozen_ready(alone):
        work = [partial(_lane, engine, groups[lane::lanes]) for lane in range(lanes)]
        for part in side_by_side(work, cores=1) if engine.device.type == "cpu" else [work[0]()]:
            found |= part
    return torch.stack([found[index] for index in range(len(items))]).cpu().numpy()


def _lane(engine: Engine, groups: Sequence[Sequence[Item]]) -> dict[int, Tensor]:
    spec = engine.score_spec
    assert spec is not None
    found: dict[int, Tensor] = {}
    with torch.no_grad():
        for group in groups:
            batch = engine._collate(group, engine.looking_budget, share=False)
            with torch.autocast(engine.device.type, dtype=torch.bfloat16, enabled=engine.autocast):
                if spec.pool != "mean":
                    vectors_ND = engine.forward.lasts(batch) if spec.pool == "last" else engine.forward.firsts(batch)
                else:
                    _, hidden = engine.forward.before_head(batch.tiles, with_hidden=True)
                    vectors_ND = pooled(list(zip(hidden, batch.tiles, strict=True)), spec.pool)
            for item, vector_D in zip(group, vectors_ND.float(), strict=True):
                found[int(item.id)] = vector_D
    return found


def _key(row: Row) -> bytes:
    made = hashlib.blake2b(digest_size=16)
    made.update(np.asarray(row.tokens, dtype="<i4").tobytes())
    if row.segments is not None:
        made.update(b"segments")
        made.update(np.asarray(row.segments, dtype=np.int8).tobytes())
    return made.digest()
