"""How fast an encoder is tuned beside Hugging Face's Trainer: the same rows, epochs, batch and frozen layers; CPU seconds.

    python -m bench.task_speed DATA [--peers PYTHON] [--threads 1] [--turns 2]

Sides take turns; each is a process of its own, from the file of rows to the saved model. Both begin with a new head, so
that the same is trained. Every turn stands in bench/results/task_speed/banking77.json as it ends, and is not measured again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.tasks import banking77, minilm, read, write
from bench.turns import Pythons, Side, once

RESULTS = Path(__file__).with_name("results") / "task_speed" / "banking77.json"
DEEP = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 12}


@dataclass(frozen=True)
class Shape:
    """What is tuned, on how many rows of how many classes, for how long, and by which sides (name, ours, what differs in
    the job)."""

    title: str
    rows: int
    classes: int
    epochs: int
    sides: tuple[tuple[str, bool, dict[str, Any]], ...]


SHAPES = {
    "minilm": Shape(
        "MiniLM, 6 layers, all weights",
        3_200,
        77,
        2,
        (
            ("HF Trainer, grouped", False, {"grouped": True}),
            ("tomoni, head on the first token", True, {"train": "all", "pool": "first"}),
            ("tomoni, head on the mean", True, {"train": "all", "pool": "mean"}),
            ("HF Trainer, its defaults", False, {"grouped": False, "batch": 8}),
        ),
    ),
    "deep": Shape(
        "12 layers of MiniLM's width (random weights), 4 epochs",
        1_300,
        20,  # each with rows enough to be learnt
        4,
        (
            ("HF Trainer, top 2, grouped", False, {"grouped": True, "top": 2}),
            ("tomoni, top 2", True, {"train": "top:2", "pool": "first"}),
            ("HF Trainer, all, grouped", False, {"grouped": True}),
        ),
    ),
}


def main() -> int:
    options = _parse()
    peers = Pythons(sys.executable, options.peers)
    with tempfile.TemporaryDirectory() as scratch:
        for name, turn in itertools.product(SHAPES, range(options.turns)):
            shape, folder = SHAPES[name], Path(scratch) / name
            if not folder.is_dir():
                folder.mkdir()
                write(folder, iter(_rows(Path(options.data), shape)))
            model = minilm() if name == "minilm" else _deep(Path(scratch) / "model")
            for side, ours, changes in shape.sides:
                if not _done(name, side, turn):
                    job = _job(shape, model, folder, options.threads) | changes
                    script = "ours_task" if ours else "peer_task"
                    found = once(Side(side, ours, script, job), peers, folder, threads=options.threads)
                    print(f"{name}, {side}, turn {turn + 1}: {found['cpu_seconds']:.1f} CPU s", flush=True)
                    _keep({"shape": name, "side": side, "turn": turn, **found}, peers, options.threads)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.task_speed", description=__doc__)
    parser.add_argument("data", help="folder of the data sets")
    parser.add_argument("--peers", default=".venv-bench/bin/python", help="the peers' interpreter")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--turns", type=int, default=2)
    return parser.parse_args()


def _rows(data: Path, shape: Shape) -> list[dict[str, Any]]:
    """Every so-manieth row of the first classes."""
    rows = list(banking77(data))
    kept = set(sorted({row["label"] for row in rows})[: shape.classes])
    some = [row for row in rows if row["label"] in kept]
    return some[:: max(1, len(some) // shape.rows)]


def _job(shape: Shape, model: str, folder: Path, threads: int) -> dict[str, Any]:
    return {
        "model": model, "folder": str(folder), "seed": 0, "threads": threads, "epochs": shape.epochs, "batch": 32,
        "rate": 1e-4, "head_start": "new",
    }  # fmt: skip


def _deep(folder: Path) -> str:
    """Twelve layers as they are drawn, with MiniLM's tokenizer: what is measured is time."""
    if not folder.is_dir():
        import shutil

        import torch
        from transformers import AutoConfig, AutoModel

        torch.manual_seed(0)
        config = AutoConfig.from_pretrained(minilm())
        config.update(DEEP)
        made: Any = AutoModel.from_config(config)
        made.save_pretrained(folder)
        for path in Path(minilm()).iterdir():
            if path.name.startswith(("tokenizer", "vocab", "special")):
                shutil.copy(path, folder / path.name)
    return str(folder)


def _done(shape: str, side: str, turn: int) -> bool:
    runs = (read(RESULTS) or {"runs": []})["runs"]
    return any((run["shape"], run["side"], run["turn"]) == (shape, side, turn) for run in runs)


def _keep(found: dict[str, Any], peers: Pythons, threads: int) -> None:
    result = read(RESULTS) or {"runs": []}
    result["machine"] = machine.about(peers) | {"threads": threads}
    result["runs"].append(found)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
