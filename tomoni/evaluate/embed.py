"""Texts become vectors: the pooled states of a model as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from tomoni.data.badrows import REASONS, BadRow, BadValue, bad_rows_error
from tomoni.data.files import rows_of
from tomoni.data.made import text_of
from tomoni.data.tasks import TaskRenderer
from tomoni.data.tokenize import load_tokenizer
from tomoni.engine import models, scoring
from tomoni.engine.engine import Engine
from tomoni.engine.features import features
from tomoni.engine.forward import ScoreHead
from tomoni.engine.sampler import longest_row
from tomoni.engine.setup import EngineSettings
from tomoni.engine.taskmodels import is_task, own_pooling, read_task
from tomoni.errors import ConfigError, DataError
from tomoni.hub import locate, result_of
from tomoni.rows import Float32, Item


class Embedder:
    AT_ONCE: ClassVar[int] = 1024

    def __init__(self, engine: Engine, render: TaskRenderer, *, normalize: bool) -> None:
        self.engine, self.render, self.normalize = engine, render, normalize

    @classmethod
    def open(
        cls, name: str | Path, cfg: EngineSettings, *, pool: str = "auto", normalize: bool = True, max_length: int = 512
    ) -> Embedder:
        located = locate(result_of(name))
        encoder = scoring.is_encoder(located)
        if not encoder:
            models.examine(located)
        if (encoder and pool == "last") or (not encoder and pool in ("mean", "first")):
            raise ConfigError(
                f"--pool {pool} does not go with {'an encoder' if encoder else 'a decoder'}",
                choices=("auto", "mean", "first") if encoder else ("auto", "last"),
            )
        own = read_task(located.folder).pool if is_task(located.folder) else own_pooling(located) or "mean"
        chosen = "last" if not encoder else own if pool == "auto" else pool
        body = scoring.load_body(located)
        for weight in body.parameters():
            weight.requires_grad_(False)
        engine = Engine(body, trained={}, cfg=cfg, score_head=ScoreHead(1, "row", chosen))  # type: ignore[arg-type]
        longest = min(size for size in (max_length, longest_row(body)) if size is not None)
        render = TaskRenderer(load_tokenizer(located.tokenizer_folder), max_length=longest, on_long_rows="truncate")
        return cls(engine, render, normalize=normalize)

    def embed(self, texts: Sequence[str]) -> Float32:
        """float32 [N, D]"""
        rows = [self.render.whole(text, None, f"text {number}") for number, text in enumerate(texts)]
        items = [Item(str(number), (row,)) for number, row in enumerate(rows) if row is not None]
        vectors_ND = features(self.engine, items)
        if self.normalize:
            vectors_ND = vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)
        return vectors_ND.astype(np.float32)


def given_texts(texts: Sequence[str]) -> Iterator[str]:
    """As they were typed; DataError names the first that is empty."""
    for number, text in enumerate(texts, start=1):
        try:
            yield text_of(text, "text")
        except BadValue as fault:
            raise DataError(f"text {number} is {text!r}: {REASONS[fault.reason]}", next_step="give it words") from None


def texts_of(paths: Sequence[str], column: str) -> Iterator[str]:
    """The column's texts; DataError names the first row that has none."""
    for path in paths:
        for raw in rows_of(Path(path)):
            try:
                if raw.fault:
                    raise raw.fault
                if column not in raw.values:
                    raise BadValue("missing_column", f"{column}; the row has {', '.join(map(str, raw.values))}")
                yield text_of(raw.values[column], column)
            except BadValue as fault:
                bad = BadRow(raw.file, raw.line, raw.offset, fault.reason, fault.detail, raw.excerpt)
                raise bad_rows_error([bad], good=1) from None
