"""A small real training for the runner's tests: a two-layer Llama with dropout, items drawn and cut by keyed chance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from tests import tiny
from tomoni.engine.engine import Engine
from tomoni.methods import sft
from tomoni.rows import Item, Row
from tomoni.run.events import Listener
from tomoni.run.folder import RunFolder
from tomoni.run.job import Job
from tomoni.run.outcome import Answer, Result
from tomoni.run.runner import drive
from tomoni.settings.sft import Config

ITEMS = 14


def config(folder: Path, **changes: Any) -> Config:
    """18 steps of 4 items in 3 or more micro-batches each, saved every 4 steps."""
    settings: dict[str, Any] = {
        "model_name_or_path": "tiny", "train_file": "none", "output_dir": str(folder), "max_steps": 18, "batch_size": 4,
        "learning_rate": 1e-2, "save_steps": 4, "device": "cpu", "threads": 1, "tokens_per_microbatch": 24, "seed": 5,
    }  # fmt: skip
    return Config(**settings | changes)


def an_item(number: int) -> Item:
    text = np.frombuffer(f"第{number}問 こたえは{number * 7}です。".encode(), dtype=np.uint8).astype(np.int32)
    weights = np.ones(len(text), dtype=np.float32)
    weights[:4] = 0
    return Item(f"問-{number}", (Row(text, weights),))


class KeyedStream:
    """Pure `batch(step)`: order keyed by (seed, epoch), each item cut at a place keyed by (seed, epoch, id)."""

    def __init__(self, items: Sequence[Item], *, batch_size: int, seed: int) -> None:
        self.items = items
        self.batch_size = batch_size
        self.seed = seed

    def batch(self, step: int) -> list[Item]:
        return [self._at(place) for place in range(step * self.batch_size, (step + 1) * self.batch_size)]

    def epoch(self, step: int) -> float:
        return (step + 1) * self.batch_size / len(self.items)

    def _at(self, place: int) -> Item:
        epoch, index = divmod(place, len(self.items))
        item = self.items[np.random.default_rng([self.seed, epoch]).permutation(len(self.items))[index]]
        key = int.from_bytes(hashlib.sha256(f"{self.seed} {epoch} {item.id}".encode()).digest()[:8], "big")
        length = int(np.random.default_rng(key).integers(8, len(item.rows[0]) + 1))
        row = item.rows[0]
        return item.with_rows([Row(row.tokens[:length], row.weights[:length])])


def job(cfg: Config, *, listen: bool = True, items: Sequence[Item] | None = None) -> Job:
    torch.set_num_threads(1)
    model = tiny.model("llama", attention_dropout=0.3)
    engine = Engine(model, trained=dict(model.named_parameters()), cfg=cfg)
    items = items or [an_item(number) for number in range(ITEMS)]

    def answer() -> list[str]:
        # draws from the global stream on purpose: sampling must not be able to reach the training
        torch.rand(3)
        np.random.rand(3)
        prompt = torch.tensor([[10, 20, 30]])
        with torch.no_grad():
            return [str(model.eval()(input_ids=prompt).logits.argmax(-1).tolist())]

    return Job(
        cfg=cfg,
        method=sft,  # type: ignore[arg-type]
        engine=engine,
        data=KeyedStream(items, batch_size=cfg.batch_size, seed=cfg.seed),  # type: ignore[arg-type]
        items=len(items),
        looked_at=[an_item(number) for number in range(100, 106)],
        looked_at_is="validation",
        inputs={"model": "tiny", "data": len(items)},
        trained_weights=1,
        result_name="model",
        result_bytes=10**6,
        save_model=lambda folder: save_file(parameters(model), folder / "model.safetensors"),
        prompts=(Answer("何問目?", "七"),),
        answer=answer if listen else None,
    )


def parameters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters()}


def train(cfg: Config, *, on_event: Listener | None = None, make: Any = job) -> Result:
    with RunFolder.hold(cfg.output_dir) as folder:
        return drive(folder, cfg, lambda tell: make(cfg), [on_event] if on_event is not None else [])


def digests(folder: Path, *, steps: int = 18) -> dict[str, str]:
    """SHA-256 of all that must not depend on how often a run was interrupted."""
    last = folder / "checkpoints" / f"step-{steps:06d}"
    files = [folder / "model" / "model.safetensors", folder / "ledger.jsonl"]
    files += [last / name for name in ("weights.safetensors", "optimizer.safetensors", "engine.json")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def ledger(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]
