"""Random items and settings for engine tests."""

from __future__ import annotations

import numpy as np
from torch import nn

from tomoni.engine.engine import Engine
from tomoni.rows import Item, Row
from tomoni.settings.sft import Config


def settings(**changes: object) -> Config:
    return Config(model_name_or_path="m", train_file="t", output_dir="o", threads=1, **changes)  # type: ignore[arg-type]


def random_items(count: int, *, seed: int = 0, shortest: int = 3, longest: int = 40, rows: int = 1) -> list[Item]:
    """Items with about half of their tokens trained; the last token always is."""
    rng = np.random.default_rng(seed)

    def row() -> Row:
        length = int(rng.integers(shortest, longest + 1))
        weights = (rng.random(length) < 0.5).astype(np.float32)
        weights[0], weights[-1] = 0, 1
        return Row(rng.integers(0, 256, length).astype(np.int32), weights)

    return [Item(f"item-{index}", tuple(row() for _ in range(rows))) for index in range(count)]


def engine(model: nn.Module, **changes: object) -> Engine:
    """All weights trained."""
    options = {
        key: changes.pop(key)
        for key in ("score_head", "keep_reference", "reference_engine", "temperature", "tokenizer")
        if key in changes
    }
    return Engine(model, trained=dict(model.named_parameters()), cfg=settings(**changes), **options)  # type: ignore[arg-type]
