"""A small policy, prompts and rewards in process, for tests of methods that sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests import tiny
from tomoni.data.stream import Stream
from tomoni.engine.engine import Engine
from tomoni.report import Report, State
from tomoni.rewards.answered import Answered, Scores
from tomoni.rows import Item, Row
from tomoni.run.holding import models_held, score_head
from tomoni.run.methods import config_class, method_module


@dataclass(frozen=True)
class Scored:
    """Rewards by a function of a completion."""

    score: Callable[[Answered], float]
    name: str = "score"

    def __call__(self, answers: Sequence[Answered], /) -> Scores:
        values = np.array([[self.score(answer)] for answer in answers], dtype=np.float64)
        return Scores((self.name,), values, (1.0,))


def prompts(*texts: str) -> list[Item]:
    def item(text: str) -> Item:
        tokens = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)
        row = Row(tokens, np.zeros(len(tokens), dtype=np.float32))
        return Item(f"prompt {text}", (row,), about={"prompt": [{"role": "user", "content": text}], "columns": {}})

    return [item(text) for text in texts]


def config(method: str, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "model_name_or_path": "tiny", "train_file": "none", "output_dir": "none", "max_steps": 4, "batch_size": 2,
        "learning_rate": 1e-2, "lr_scheduler_type": "constant", "warmup_ratio": 0, "device": "cpu", "threads": 1,
        "reward_funcs": "given", "num_generations": 4, "max_completion_length": 12,
    }  # fmt: skip
    return config_class(method)(**settings | changes)


def engine(cfg: Any, model: Any = None) -> Engine:
    model = model if model is not None else tiny.model()
    held = models_held(cfg)
    return Engine(
        model,
        trained=dict(model.named_parameters()),
        cfg=cfg,
        score_head=score_head(cfg, held),
        keep_reference="reference" in held,
        tokenizer=tiny.tokenizer(),
        temperature=cfg.temperature,
    )


def train(
    cfg: Any, items: Sequence[Item], rewards: Any, *, built: Engine | None = None, state: State | None = None
) -> Iterator[Report]:
    """The method's reports, one after each update."""
    data = Stream(list(items), batch_size=cfg.batch_size, seed=cfg.seed, steps=cfg.steps)
    built = built or engine(cfg)
    yield from method_module(cfg.method).steps(built, data, cfg, state or State(), rewards)
