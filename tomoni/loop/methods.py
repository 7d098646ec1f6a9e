"""How a round trains: by what was said, and how much of it.

    learn   own answers that please, and corrections: the default, from the first ten judgements on (`learn.practise`)
    kto     where people gave thumbs only
    dpo     besides, where there are many comparisons; the one that the head expects more of goes before people

All of them start from the version that is served, and none moves far: small adapters, one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tomoni.errors import RunError
from tomoni.feedback.snapshot import FOLDER, Snapshot

if TYPE_CHECKING:
    from tomoni.run.events import Event

Method = Literal["auto", "learn", "kto", "dpo"]
METHODS: Final[tuple[Method, ...]] = ("learn", "kto", "dpo")
THUMBS = 20  # that teach by themselves, of both kinds
MANY = 200  # comparisons that dpo wants
STEPS = {"kto": {"learning_rate": 2e-4, "batch_size": 8}, "dpo": {"learning_rate": 1e-4, "batch_size": 8}}


def methods_for(snapshot: Snapshot) -> tuple[Method, ...]:
    decided = len(snapshot.comparisons) - snapshot.ties
    if not decided and not snapshot.corrections:
        kinds = {thumb.good for thumb in snapshot.thumbs}
        return ("kto",) if len(snapshot.thumbs) >= THUMBS and len(kinds) == 2 else ("learn",)
    return ("learn", "dpo") if decided >= MANY else ("learn",)


@dataclass(frozen=True, slots=True)
class Trainer:
    """Of `kto` and `dpo`, on a snapshot's own files."""

    workspace: Path
    base: str
    threads: int | None = None
    seed: int = 0

    def train(self, method: Method, snapshot: Snapshot, folder: Path, on_event: Callable[[Event], None]) -> float:
        """The run is `folder`; its seconds."""
        from tomoni.run import start
        from tomoni.run.methods import config_class

        rows = self.workspace / FOLDER / snapshot.hash / {"kto": "thumbs.jsonl", "dpo": "pairs.jsonl"}[method]
        settings: dict[str, Any] = {
            "model_name_or_path": self.base,
            "train_file": (str(rows),),
            "output_dir": str(folder),
            "train": "lora",
            "lora_r": 8,
            "num_train_epochs": 1,
            "lr_scheduler_type": "linear",
            "warmup_ratio": 0.1,
            "on_long_rows": "truncate",
            "sample_prompts": 0,
            "save_steps": 100_000,
            "seed": self.seed,
            "threads": self.threads,
        }
        cfg = config_class(method)(**settings | STEPS[method])
        result = start(cfg, on_event=on_event)
        if result.status != "finished":
            raise RunError(f"{method} was stopped at step {result.step}", next_step="run the round again: it goes on")
        return float(result.seconds)
