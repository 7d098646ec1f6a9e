"""Our side of learning from preferences and rewards: the public engine and the method's own steps.

dpo takes pairs of rows; grpo and rloo sample completions of prompts, or are told them (`told`), so that both sides learn
from the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import bench.ahead  # noqa: F401
from bench.process import Clock, main
from bench.work import Prompts, Work, reward_of
from tomoni.data.tokenize import load_tokenizer
from tomoni.engine import models
from tomoni.engine.engine import Engine
from tomoni.engine.sampler import Completion
from tomoni.engine.trained import choose
from tomoni.hub import locate
from tomoni.report import Report, State
from tomoni.rewards.answered import Answered, Scores
from tomoni.rows import Item, Row
from tomoni.run.methods import config_class, method_module


class Given:
    """A stream whose batches are given."""

    def __init__(self, batches: Sequence[list[Item]]) -> None:
        self.batches = batches

    def batch(self, step: int) -> list[Item]:
        return self.batches[step]


class Reward:
    """What a completion's tokens earn, for nothing."""

    def __call__(self, answers: Sequence[Answered], /) -> Scores:
        earned = [[reward_of(answer.row.tokens[answer.row.weights > 0].tolist())] for answer in answers]
        return Scores(("tokens",), np.array(earned), (1.0,))


class Told:
    """Stands in for a sampler: hands out given completions, in order."""

    def __init__(self, completions: Iterator[np.ndarray]) -> None:
        self.completions = completions

    def sample(self, prompts: Sequence[Any], *_: Any, **__: Any) -> list[Completion]:
        nothing = np.zeros(0, dtype=np.float32)
        return [Completion(next(self.completions), "", nothing, "length") for _ in prompts]


def config(job: Mapping[str, Any], steps: int) -> Any:
    fixed = {"train_file": "given", "output_dir": "given", "device": "cpu", "dtype": "float32"}
    if job["method"] != "dpo":
        fixed |= {"reward_funcs": "given"}
    named = job["shared"] | job.get("ours", {})
    return config_class(job["method"])(**fixed, model_name_or_path=job["model"], max_steps=steps, **named)


def measure(job: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    if job["method"] == "dpo":
        work = Work.load(Path(job["work"]))
        batches = [_pairs(work, step) for step in range(work.steps)]
        found = run(job, clock, batches, tokens=work.tokens)
        return found | {"items": len(work.order) // 2, "unit": "pairs", "tokens": work.tokens}
    if job.get("told"):
        work = Work.load(Path(job["work"]))
        starts = list(range(0, len(work.rows), job["shared"]["num_generations"]))
        prompts = [work.rows[start][: work.prompts[start]] for start in starts]
        told = iter([row[size:] for row, size in zip(work.rows, work.prompts, strict=True)])
        return run(job, clock, _asked(prompts, job["shared"]["batch_size"]), told=told)
    prompts = Prompts.load(Path(job["work"])).prompts
    batches = _asked(prompts, job["shared"]["batch_size"])
    found = run(job, clock, batches)
    return found | {"items": len(prompts) * job["shared"]["num_generations"], "unit": "completions"}


def run(
    job: Mapping[str, Any],
    clock: Clock,
    batches: Sequence[list[Item]],
    *,
    told: Iterator[np.ndarray] | None = None,
    tokens: int | None = None,
) -> dict[str, Any]:
    cfg = config(job, len(batches))
    model = models.load(locate(job.get("adapter") or job["model"]))
    tokenizer = load_tokenizer(job["model"])
    trained = choose(model, cfg, seed=cfg.seed)
    reports: list[Report] = []
    with clock:
        engine = Engine(
            trained.model,
            trained=trained.parameters,
            cfg=cfg,
            keep_reference=True,
            tokenizer=tokenizer,
            temperature=1.0,
        )
        if told is not None:
            engine.sampler = lambda **_: Told(told)  # type: ignore[method-assign,assignment]
        rewards = None if job["method"] == "dpo" else Reward()
        for report in method_module(cfg.method).steps(engine, Given(batches), cfg, State(), rewards):
            reports.append(report)
    lengths = [
        report.stats["completions/mean_length"] for report in reports if "completions/mean_length" in report.stats
    ]
    sampled = round(sum(one.sum for one in lengths))
    return {
        "losses": [_minimised(report, cfg) for report in reports],
        "grad_norms": [report.stats["grad_norm"].value for report in reports],
        "tokens": tokens if tokens is not None else sampled,
    }


def _minimised(report: Report, cfg: Any) -> float:
    """The whole loss, as TRL tells it: ours tells the divergence beside it."""
    kl = report.stats["kl"].value * cfg.beta if cfg.method == "grpo" and "kl" in report.stats else 0.0
    return report.stats["loss"].value + kl


def _pairs(work: Work, step: int) -> list[Item]:
    rows = work.step(step)
    return [
        Item(f"{first}", (_row(work, first), _row(work, second)))
        for first, second in zip(rows[::2], rows[1::2], strict=True)
    ]


def _row(work: Work, number: int) -> Row:
    weights = np.zeros(len(work.rows[number]), dtype=np.float32)
    weights[work.prompts[number] :] = 1
    return Row(work.rows[number], weights)


def _asked(prompts: Sequence[np.ndarray], batch_size: int) -> list[list[Item]]:
    items = [
        Item(f"{number}", (Row(tokens, np.zeros(len(tokens), dtype=np.float32)),))
        for number, tokens in enumerate(prompts)
    ]
    return [items[start : start + batch_size] for start in range(0, len(items), batch_size)]


if __name__ == "__main__":
    main(measure)
