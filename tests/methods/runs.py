"""Whole runs of every method: files, a config, and what must not depend on how often a run was interrupted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import tiny
from tests.methods import every
from tomoni.records import Comparison, Prompt, Rated, Verdict, as_dicts
from tomoni.settings.common import TrainingSettings

STEPS = 8
REWARD = """
import hashlib


def score(completions, prompts):
    told = [prompt[-1]["content"] + text for prompt, text in zip(prompts, completions, strict=True)]
    return [hashlib.sha256(text.encode("utf-8", "replace")).digest()[0] / 255 for text in told]
"""
TIMED = ("seconds", "tokens_per_second", "memory")
UPDATES = {"grpo": 3, "rloo": 2, "ppo": 4}  # on the completions of one rollout, as `every.FULL` has it


def write(place: Path) -> None:
    """A model, data for every method and a reward; the same bytes each time."""
    every.policy().save_pretrained(place / "model")
    tiny.tokenizer().save_pretrained(place / "model")
    (place / "rewards.py").write_text(REWARD, encoding="utf-8")
    for method in every.METHODS:
        lines = [json.dumps(_line(record), ensure_ascii=False) + "\n" for record in every.records(method)]
        (place / f"{method}.jsonl").write_text("".join(lines), encoding="utf-8")


def _line(record: Any) -> dict[str, Any]:
    match record:
        case Prompt():
            return {"id": record.id, "prompt": as_dicts(record.messages)}
        case Rated():
            told = {"prompt": as_dicts(record.prompt), "completion": as_dicts(record.completion)}
            return {"id": record.id, **told, "label": record.good}
        case Comparison():
            answers = [as_dicts(record.first), as_dicts(record.second)]
            chosen, rejected = answers if record.verdict is Verdict.FIRST else answers[::-1]
            return {"id": record.id, "prompt": as_dicts(record.prompt), "chosen": chosen, "rejected": rejected}
    raise TypeError(record)


def config(method: str, place: Path, output: Path, **changes: Any) -> TrainingSettings:
    settings = {
        "model_name_or_path": str(place / "model"), "train_file": str(place / f"{method}.jsonl"),
        "output_dir": str(output), "max_steps": STEPS, "save_steps": 1, "sample_prompts": 0, "tokens_per_microbatch": 300,
    }  # fmt: skip
    if method in every.SAMPLED:
        settings |= {"form": "prompt", "reward_funcs": f"{place / 'rewards.py'}:score"}
    found: TrainingSettings = every.config(method, **settings | changes)
    return found


def traces(folder: Path) -> Mapping[str, str]:
    """SHA-256 of the result, of the last checkpoint, and of all that was told on the way but for times."""
    last = folder / "checkpoints" / f"step-{STEPS:06d}"
    files = [folder / "ledger.jsonl", *sorted((folder / "model").glob("*.safetensors"))]
    files += [last / name for name in ("weights.safetensors", "optimizer.safetensors", "engine.json")]
    files += [path for path in (folder / "completions.jsonl",) if path.exists()]
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert any(name.startswith("model") for name in found)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    told = [{name: value for name, value in line.items() if name not in TIMED} for line in lines]
    return found | {"metrics": json.dumps(told)}
