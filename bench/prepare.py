"""Makes what both sides begin with: the model's folder, and the untrained adapter that both train on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.ours_train import config
from bench.process import Clock, main
from bench.shapes import Shape, save
from tomoni.engine import models
from tomoni.engine.hub import locate
from tomoni.engine.saving import save_adapter
from tomoni.engine.trained import choose


def measure(job: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    folder = Path(job["model"])
    with clock:
        if not (folder / "config.json").exists():
            save(Shape(**job["shape"]), folder)
        if job.get("adapter"):
            model = models.load(locate(folder))
            trained = choose(model, config(job, 1), seed=0)
            Path(job["adapter"]).mkdir(parents=True, exist_ok=True)
            save_adapter(trained.model, _tokenizer(folder), Path(job["adapter"]))
    return {}


def _tokenizer(folder: Path) -> Any:
    from tomoni.data.tokenize import load_tokenizer

    return load_tokenizer(folder)


if __name__ == "__main__":
    main(measure)
