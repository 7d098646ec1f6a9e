"""Our side of the whole command: `tomoni sft` from a file of questions and answers to a saved adapter."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.process import Clock, main


def measure(job: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    folder = Path(job["folder"])
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        with clock:
            from tomoni.cli.app import main as tomoni

            status = tomoni(["sft", str(folder / "config.yaml"), "--output_dir", str(run)])
        if status:
            raise SystemExit(status)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {"losses": [line["loss"] for line in lines if "loss" in line]}


if __name__ == "__main__":
    main(measure)
