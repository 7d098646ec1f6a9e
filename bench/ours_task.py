"""Our side of a task: `tomoni classify` from a file of rows to a saved model and its accuracy on the test part."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bench.ahead  # noqa: F401
from bench.process import Clock, main


def measure(job: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    folder = Path(job["folder"])
    if job["train"] == "tfidf":
        return _classical(folder, clock)
    import torch

    from tomoni.cli.looking import looking_settings
    from tomoni.data.read import read
    from tomoni.engine.models import quiet
    from tomoni.evaluate.appraise_task import appraise_task
    from tomoni.evaluate.predict import Predictor
    from tomoni.run import start
    from tomoni.settings.classify import Config

    torch.set_num_threads(job["threads"])
    # what decides about `auto` must not be what is measured: there a tenth of the training part is held out
    apart = {"validation_share": 0.1} if job["train"] == "auto" else {"validation_file": str(folder / "test.jsonl")}
    with tempfile.TemporaryDirectory() as scratch, quiet():
        cfg = Config(
            model_name_or_path=job["model"], train_file=(str(folder / "train.jsonl"),), output_dir=f"{scratch}/run",
            train=job["train"], num_train_epochs=job["epochs"], batch_size=job["batch"], learning_rate=job["rate"],
            seed=job["seed"], threads=job["threads"], max_length=128, on_long_rows="truncate", device="cpu", pool=job.get("pool"),
            head_start=job.get("head_start", "solved"), **apart,
        )  # fmt: skip
        with clock:
            result = start(cfg)
        found: dict[str, Any] = {"training_seconds": result.seconds, "steps": result.step}
        if job["train"] != "auto":
            assert result.after is not None and result.before is not None
            return found | {
                "accuracy": result.after.stats["accuracy"].value, "before": result.before.stats["accuracy"].value
            }  # fmt: skip
        predictor = Predictor.open(f"{scratch}/run", looking_settings("cpu", job["threads"]))
        test = list(read([str(folder / "test.jsonl")], wanted=("labelled",), check=predictor.render.check))
        found["rungs"] = json.loads(Path(scratch, "run", "ladder.json").read_text(encoding="utf-8"))
        return found | {"accuracy": appraise_task(predictor, test).stats["accuracy"].value}


def _classical(folder: Path, clock: Clock) -> dict[str, Any]:
    from tomoni.data.read import read
    from tomoni.evaluate.cases import cases_of
    from tomoni.evaluate.classical import fit

    train, test = (cases_of(read([str(folder / f"{part}.jsonl")])) for part in ("train", "test"))
    with clock:
        answers = fit(train).answer([case.texts for case in test.cases])
    right = sum(answer == case.desired for answer, case in zip(answers, test.cases, strict=True))
    return {"accuracy": right / len(test)}


if __name__ == "__main__":
    main(measure)
