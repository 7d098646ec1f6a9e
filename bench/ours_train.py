"""Our side of training: the public engine and the method's own steps, on items given as token ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import bench.ahead  # noqa: F401
from bench.process import Clock, main
from bench.work import Work
from tomoni.engine import models
from tomoni.engine.engine import Engine
from tomoni.engine.trained import choose
from tomoni.hub import locate
from tomoni.methods import sft
from tomoni.report import State
from tomoni.rows import Item, Row
from tomoni.run import keeping
from tomoni.settings.sft import Config


class Given:
    """A stream whose batches are the work's."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.items = [
            _item(f"{number}", row, prompt)
            for number, (row, prompt) in enumerate(zip(work.rows, work.prompts, strict=True))
        ]

    def batch(self, step: int) -> list[Item]:
        return [self.items[index] for index in self.work.step(step)]


def _item(name: str, tokens: Any, prompt: int) -> Item:
    weights = np.zeros(len(tokens), dtype=np.float32)
    weights[prompt:] = 1
    return Item(name, (Row(tokens, weights),))


def config(job: Mapping[str, Any], steps: int) -> Config:
    fixed = {"train_file": "given", "output_dir": "given", "device": "cpu", "dtype": "float32"}
    return Config(**fixed, model_name_or_path=job["model"], max_steps=steps, **job["shared"], **job.get("ours", {}))


def measure(job: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    work = Work.load(Path(job["work"]))
    data = Given(work)
    cfg = config(job, work.steps)
    model = models.load(locate(job.get("adapter") or job["model"]))
    trained = choose(model, cfg, seed=cfg.seed)
    losses = []
    with clock:
        engine = Engine(trained.model, trained=trained.parameters, cfg=cfg)
        said = keep_frozen(engine, data, cfg)
        for report in sft.steps(engine, data, cfg, State()):  # type: ignore[arg-type]
            losses.append(report.stats["loss"].value)
    return {"losses": losses, "tokens": work.tokens, "said": said}


def keep_frozen(engine: Engine, data: Given, cfg: Config) -> str | None:
    """As a run does it where rows are seen again: outputs of frozen layers are computed once and kept on disk."""
    datasets: Any = SimpleNamespace(train=data.items, looked_at=[], looked_at_is="training")
    said: str | None = keeping.keep_frozen(cfg, engine, datasets, print)
    return said


if __name__ == "__main__":
    main(measure)
