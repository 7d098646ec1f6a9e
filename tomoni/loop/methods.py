"""How a round trains: by what was said, and how much of it.

    learn   own answers that please, and corrections: the default, from the first ten judgements on (`learn.practise`)
    kto     where people gave thumbs only
    dpo     besides, where there are many comparisons; the one that the head expects more of goes before people
    grpo    where it is asked for: raises the head's score, with caution (`taste_reward`); takes minutes, not seconds
    ppo     the same, with a value for every token

All of them start from the version that is served, and none moves far: small adapters, one pass.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tomoni.durable import atomic_write
from tomoni.errors import RunError
from tomoni.feedback.entries import plain_message
from tomoni.feedback.snapshot import FOLDER, Snapshot
from tomoni.loop.replay import OFF, Replayed

if TYPE_CHECKING:
    from tomoni.loop.taste import Prompt
    from tomoni.run.events import Event

Method = Literal["auto", "learn", "kto", "dpo", "grpo", "ppo"]
METHODS: Final[tuple[Method, ...]] = ("learn", "kto", "dpo", "grpo", "ppo")
REWARDED: Final = ("grpo", "ppo")
LONGEST = 64  # tokens of an answer
THUMBS = 20  # that teach by themselves, of both kinds
MANY = 200  # comparisons that dpo wants
ROLLOUT: Final[dict[str, Any]] = {"max_completion_length": LONGEST, "max_length": 512, "learning_rate": 5e-4}
STEPS: Final[Mapping[str, Mapping[str, Any]]] = {
    "kto": {"learning_rate": 2e-4, "batch_size": 8},
    "dpo": {"learning_rate": 1e-4, "batch_size": 8},
    "grpo": {"batch_size": 16, "num_generations": 8, "max_steps": 40, "beta": 0.05, "kl_estimator": "k2"} | ROLLOUT,
    "ppo": {"batch_size": 128, "max_steps": 80, "num_ppo_epochs": 2, "kl_coef": 0.05, "vf_coef": 0.001,
            "value_lr_ratio": 10, "missing_eos_penalty": 0.5} | ROLLOUT,
}  # fmt: skip

# how large a method's gradient is beside that of the replayed rows' mean log-likelihood, measured (LOG.md, "Replay"), so that
# a share of the update is one whatever the method
SCALE: Final[Mapping[str, float]] = {"kto": 2.0, "dpo": 6.0, "grpo": 0.3, "ppo": 1.0}


def methods_for(snapshot: Snapshot) -> tuple[Method, ...]:
    decided = len(snapshot.comparisons) - snapshot.ties
    if not decided and not snapshot.corrections:
        kinds = {thumb.good for thumb in snapshot.thumbs}
        return ("kto",) if len(snapshot.thumbs) >= THUMBS and len(kinds) == 2 else ("learn",)
    return ("learn", "dpo") if decided >= MANY else ("learn",)


@dataclass(frozen=True, slots=True)
class Trainer:
    """Of `kto` and `dpo`, on a snapshot's own files, and of `grpo` and `ppo`, on prompts and a reward."""

    workspace: Path
    base: str
    threads: int | None = None
    seed: int = 0
    replay: Replayed = OFF

    def train(self, method: Method, snapshot: Snapshot, folder: Path, on_event: Callable[[Event], None]) -> float:
        """The run is `folder`; its seconds."""
        rows = self.workspace / FOLDER / snapshot.hash / {"kto": "thumbs.jsonl", "dpo": "pairs.jsonl"}[method]
        return self._start(method, rows, folder, on_event, {"num_train_epochs": 1, "on_long_rows": "truncate"})

    def raise_reward(
        self, method: Method, reward: str, prompts: Sequence[Prompt], folder: Path, on_event: Callable[[Event], None]
    ) -> float:
        """The run is `folder`; its seconds. `reward`: what reward_funcs names."""
        rows = folder.parent / "prompts.jsonl"
        lines = [
            json.dumps({"id": f"p{number}", "prompt": [plain_message(one) for one in prompt]}, ensure_ascii=False)
            + "\n"
            for number, prompt in enumerate(prompts)
        ]
        atomic_write(rows, "".join(lines))
        return self._start(method, rows, folder, on_event, {"reward_funcs": reward})

    def _start(
        self, method: Method, rows: Path, folder: Path, on_event: Callable[[Event], None], more: Mapping[str, Any]
    ) -> float:
        from tomoni.run import start
        from tomoni.run.methods import config_class

        settings: dict[str, Any] = {
            "model_name_or_path": self.base,
            "train_file": (str(rows),),
            "output_dir": str(folder),
            "train": "lora",
            "lora_r": 8,
            "lr_scheduler_type": "linear",
            "warmup_ratio": 0.1,
            "sample_prompts": 0,
            "save_steps": 100_000,
            "seed": self.seed,
            "threads": self.threads,
        }
        again = self.replay.settings(SCALE[method])
        if again and method in REWARDED:
            again["on_long_rows"] = "drop"  # an old row that is too long is no reason to have no round
        cfg = config_class(method)(**{**settings, **STEPS[method], **more, **again})
        result = start(cfg, on_event=on_event)
        if result.status != "finished":
            raise RunError(f"{method} was stopped at step {result.step}", next_step="run the round again: it goes on")
        return float(result.seconds)
