"""Every method that learns from preferences or rewards, on a tiny model in process: its data, its engine, its steps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests import tiny
from tests.methods import rollouts
from tomoni.data.render import Renderer
from tomoni.data.stream import Stream
from tomoni.engine.engine import Engine
from tomoni.records import Comparison, Message, Prompt, Rated, Record, Source, Verdict
from tomoni.report import Report, State
from tomoni.rewards.answered import Answered
from tomoni.rows import Item
from tomoni.run.holding import models_held, score_head
from tomoni.run.methods import config_class, method_module

PAIRED = ("reward", "dpo", "orpo", "simpo")
SAMPLED = ("bestofn", "grpo", "rloo", "ppo")
METHODS = (*PAIRED, "kto", *SAMPLED)
# what a method does beside its simplest form: several updates on a rollout, terms beside the first, an anchor that moves
FULL: dict[str, dict[str, Any]] = {
    "reward": {"center_rewards_coefficient": 0.05, "label_smoothing": 0.1},
    "dpo": {"label_smoothing": 0.05, "reference": "ema"},
    "orpo": {},
    "simpo": {"label_smoothing": 0.05},
    "kto": {"undesirable_weight": 1.5},
    "bestofn": {},
    "grpo": {"beta": 0.1, "num_iterations": 3, "scale_rewards": "group", "loss_type": "grpo", "mask_truncated_completions": True},
    "rloo": {"num_iterations": 2, "normalize_advantages": True},
    "ppo": {"num_ppo_epochs": 2, "num_mini_batches": 2, "target_kl": 0.5, "kl_horizon": 40.0, "whiten_rewards": True, "missing_eos_penalty": 0.3},
}  # fmt: skip
END = 258  # <|im_end|>
ASKED = (
    "春の次の季節は何ですか。くわしく教えてください。",
    "Which season comes after spring, and why? Please tell me.",
)


def message(role: Any, content: str) -> tuple[Message, ...]:
    return (Message(role, content),)


def records(method: str, *, count: int = 8) -> list[Record]:
    """Prompts long enough to be computed once for the rows that share them; answers of many lengths."""

    def record(number: int) -> Record:
        source = Source("rows.jsonl", number + 1)
        prompt = message("user", f"{ASKED[number % 2]} ({number})")
        if method in SAMPLED:
            return Prompt(f"p{number}", source, prompt)
        good = message("assistant", f"夏です。{'とても暑い。' * (number % 3)}")
        bad = message("assistant", "no" * (1 + number % 4))
        if method == "kto":
            return Rated(f"k{number}", source, prompt, good if number % 3 else bad, bool(number % 3))
        verdict = Verdict.FIRST if number % 2 else Verdict.SECOND
        first, second = (good, bad) if verdict is Verdict.FIRST else (bad, good)
        return Comparison(
            f"c{number}", source, prompt, first, second, verdict, 1 + number % 2, 0.1 * (number % 3), 0.1 * (number % 2)
        )

    return [record(number) for number in range(count)]


def items(method: str, *, count: int = 8) -> list[Item]:
    render = Renderer(tiny.tokenizer(), max_length=512)
    made = method_module(method).items
    return [item for record in records(method, count=count) for item in made(record, render)]


def config(method: str, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "model_name_or_path": "tiny", "train_file": "none", "output_dir": "none", "max_steps": 4 if method in ("grpo", "rloo", "ppo") else 2, "batch_size": 4,
        "learning_rate": 2e-3, "lr_scheduler_type": "linear", "warmup_ratio": 0, "device": "cpu", "threads": 1, "seed": 3,
        # an update divides by the root of the mean square: without this a gradient of rounding errors alone would move a
        # weight by a whole learning rate
        "adam_epsilon": 1e-4,
    }  # fmt: skip
    if method in SAMPLED:
        settings |= {"reward_funcs": "given", "num_generations": 4, "max_completion_length": 10}
    if method == "ppo":
        settings["num_generations"] = 2
    return config_class(method)(**settings | FULL[method] | changes)


def vowels(answer: Answered) -> float:
    """And a part by the completion's name, so that no two of a group are worth the same: where they are, advantages are
    rounding errors, and whether a ratio of theirs is clipped is chance."""
    sampled = answer.row.tokens[answer.row.weights > 0]
    digest = hashlib.sha256(answer.id.encode()).digest()
    return float(np.isin(sampled, np.frombuffer(b"aeiou", dtype=np.uint8)).sum()) + digest[0] / 255


def policy() -> Any:
    """A model that ends about half of its answers within ten tokens: the end is where its states point to. Without dropout."""
    model: Any = tiny.model()
    with torch.no_grad():
        states_TD = model.model(torch.arange(200)[None]).last_hidden_state[0]
        model.get_input_embeddings().weight[END] = 4 * states_TD.mean(0) / states_TD.mean(0).norm()
    return model


def engine(cfg: Any) -> Engine:
    model = policy()
    held = models_held(cfg)
    return Engine(
        model,
        trained=dict(model.named_parameters()),
        cfg=cfg,
        score_head=score_head(cfg, held),
        keep_reference="reference" in held,
        tokenizer=tiny.tokenizer(),
        temperature=getattr(cfg, "temperature", 1.0),
    )


@dataclass
class Learnt:
    reports: list[Report]
    weights: dict[str, NDArray[np.float32]]

    def curve(self, name: str) -> list[float]:
        return [report.stats[name].value for report in self.reports if name in report.stats]

    @property
    def completions(self) -> list[str]:
        return [one["completion"] for report in self.reports for one in report.completions]


def learn(method: str, *, prepare: Callable[[Engine], None] = lambda engine: None, **changes: Any) -> Learnt:
    """All steps of a run, and the weights that it ends with."""
    cfg = config(method, **changes)
    built = engine(cfg)
    prepare(built)
    reports = list(steps(cfg, built, items(method)))
    return Learnt(reports, {name: weight.detach().numpy().copy() for name, weight in built.trained.items()})


def steps(cfg: Any, built: Engine, given: Sequence[Item], state: State | None = None) -> Any:
    data = Stream(list(given), batch_size=cfg.batch_size, seed=cfg.seed, steps=cfg.steps)
    rewards = rollouts.Scored(vowels) if cfg.method in SAMPLED else None
    torch.set_num_threads(1)
    return method_module(cfg.method).steps(built, data, cfg, state or State(), rewards)
