"""The workloads of learning from preferences and rewards, beside TRL's trainers for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import work
from bench.shapes import SHAPES
from bench.turns import Pair, Side
from bench.workloads import ADAMW, KEEPING_MEMORY, Size, Workload

LORA = {"train": "lora", "lora_r": 16, "lora_alpha": 32}
PAIRS = 4  # a step
PROMPTS, GENERATIONS, LONGEST = 2, 8, 128
TUNED = "tuned"  # the bundled model after the demo's tuning: its answers end after a few or many tokens
# of the completions that both sides are told: everything that a method may put into its loss
TOLD: Mapping[str, Mapping[str, Any]] = {
    "grpo": {"ours": {"scale_rewards": "group"}, "theirs": {"scale_rewards": "group"}},
    "rloo": {},
}
# at the timed work both sides leave the divergence out of the loss, as TRL's GRPO does unless told otherwise
TIMED: Mapping[str, Mapping[str, Any]] = {"grpo": {"beta": 0.0}, "rloo": {"beta": 0.05}}


def preferences(folder: Path, size: Size) -> dict[str, Workload]:
    made = [dpo(folder, size), sampled(folder, size, "grpo"), sampled(folder, size, "rloo"), bundled(folder, size)]
    return {workload.name: workload for workload in made}


def _model(folder: Path, shape: str) -> dict[str, Any]:
    return {
        "model": str(folder / shape),
        "shape": dataclasses.asdict(SHAPES[shape]),
        "adapter": str(folder / f"{shape}-lora"),
    }


def dpo(folder: Path, size: Size, *, shape: str = "8M") -> Workload:
    name = f"dpo-lora-{shape.lower()}"
    files = {order: f"{name}-{order}.npz" for order in ("shuffled", "grouped", "equal")}

    def write(place: Path) -> None:
        for order, steps in (("shuffled", size.steps), ("grouped", size.steps), ("equal", size.equal_steps)):
            drawn = work.preferences(
                pairs=steps * PAIRS, vocabulary=SHAPES[shape].vocabulary, batch_size=PAIRS, grouped=order != "shuffled"
            )
            drawn.save(place / files[order])

    def side(label: str, order: str, **theirs: Any) -> Side:
        shared = {"batch_size": PAIRS, "beta": 0.1, **LORA, **ADAMW}
        job = {"method": "dpo", "work": str(folder / files[order]), "shared": shared, **_model(folder, shape)}
        ours = label.startswith("tomoni")
        job |= {} if ours else {"theirs": {"max_length": 1024, **theirs}}
        return Side(label, ours, "ours_prefer" if ours else "peer_prefer", job)

    best = dataclasses.replace(
        side("TRL, grouped, reference first", "grouped", precompute_ref_log_probs=True), environment=KEEPING_MEMORY
    )
    return Workload(
        name=name,
        title=f"DPO, LoRA (rank 16, all linear layers), {shape}",
        about=(
            f"{size.steps} steps of {PAIRS} pairs that share a prompt, lengths of real instruction data (up to 1,024 "
            "tokens a row), float32, fused AdamW, dropout 0. Grouped: ordered by length, both sides alike. TRL's best: "
            "reference log-probabilities computed once before the training (`precompute_ref_log_probs`), an allocator "
            "that gives no memory back; its `padding_free` is switched off in this version. Computing the reference is in "
            "the time of every side."
        ),
        sides=(
            side("tomoni, shuffled", "shuffled"),
            side("TRL, shuffled", "shuffled"),
            side("tomoni, grouped", "grouped"),
            side("TRL, grouped", "grouped"),
            best,
        ),
        pairs=(
            Pair("tomoni, shuffled", "TRL, shuffled", 4.0, 0.5, "losses"),
            Pair("tomoni, grouped", "TRL, grouped", 4.0, 0.5, "losses"),
            Pair("tomoni, grouped", best.name, 4.0, None, "losses"),
        ),
        shape=shape,
        train="lora",
        write=write,
        prepare=({**_model(folder, shape), "shared": {**LORA, **ADAMW, "batch_size": PAIRS}},),
        longer=(side("tomoni, equal", "equal"), side("TRL, equal", "equal")) if size.equal_steps > size.steps else (),
    )


def sampled(folder: Path, size: Size, method: str, *, shape: str = "8M") -> Workload:
    name = f"{method}-lora-{shape.lower()}"
    prompts, told = f"{name}.npz", f"{name}-told.npz"
    steps = max(2, size.steps // 5)

    def write(place: Path) -> None:
        vocabulary = SHAPES[shape].vocabulary
        work.prompts(count=steps * PROMPTS, vocabulary=vocabulary, prompt=(16, 64), answer=(1, 1)).save(place / prompts)
        drawn = work.told(
            prompts=min(size.equal_steps, 20) * PROMPTS, generations=GENERATIONS, vocabulary=vocabulary,
            batch_size=PROMPTS, longest=LONGEST,
        )  # fmt: skip
        drawn.save(place / told)

    def side(label: str, file: str, **more: Any) -> Side:
        ours = label.startswith("tomoni")
        job = _job(method, folder / file, more) | _model(folder, shape)
        return Side(label, ours, "ours_prefer" if ours else "peer_prefer", job)

    timed = TIMED[method]
    kept = dataclasses.replace(side("TRL, glibc keeps memory", prompts, both=timed), environment=KEEPING_MEMORY)
    compared = {"both": {"beta": 0.05}, "told": True, **TOLD[method]}
    return Workload(
        name=name,
        title=f"{method.upper()}, LoRA (rank 16, all linear layers), {shape}",
        about=(
            f"{steps} steps of {PROMPTS} prompts (16 to 64 tokens) with {GENERATIONS} completions of {LONGEST} tokens "
            "(random weights: none ends early), temperature 1, a reward that costs nothing, one update a step, float32, "
            "fused AdamW. Sampling, the reference and the update are in the time. TRL samples by `generate`, as its "
            "documentation advises where there is no vLLM."
        ),
        sides=(side("tomoni", prompts, both=timed), side("TRL", prompts, both=timed), kept),
        pairs=(Pair("tomoni", "TRL", 3.0, 0.5, "updates"), Pair("tomoni", kept.name, 3.0, None, "updates")),
        shape=shape,
        train="lora",
        write=write,
        prepare=({**_model(folder, shape), "shared": {**LORA, **ADAMW, "batch_size": PROMPTS}},),
        longer=(side("tomoni, told", told, **compared), side("TRL, told", told, **compared)),
    )


def bundled(folder: Path, size: Size) -> Workload:
    """A model that has learnt to answer: completions end after 5 to 40 tokens."""
    steps, prompts, longest = max(2, size.steps // 4), 8, 48
    model = {"model": str(folder / TUNED), "prompts": str(folder / "bundled-prompts.npz"), "count": steps * prompts}

    def side(label: str) -> Side:
        ours = label.startswith("tomoni")
        both = {
            "batch_size": prompts, "num_generations": GENERATIONS, "max_completion_length": longest, "beta": 0.0,
            **ADAMW, "learning_rate": 1e-5, **({"train": "all"} if ours else {}),
        }  # fmt: skip
        job = {"method": "grpo", "work": model["prompts"], "shared": both, "model": model["model"]}
        return Side(label, ours, "ours_prefer" if ours else "peer_prefer", job)

    kept = dataclasses.replace(side("TRL, glibc keeps memory"), environment=KEEPING_MEMORY)
    return Workload(
        name="grpo-bundled",
        title="GRPO, all weights, the bundled small model, answers of mixed lengths",
        about=(
            f"{steps} steps of {prompts} questions with {GENERATIONS} completions each, at most {longest} tokens; the model is "
            "`bundled:small` after the demo's tuning, so that answers end by themselves. A rate of 1e-5 leaves their lengths "
            "as they are; each side samples its own, so tokens differ a little and completions a second are compared. "
            "The updates of both sides are compared in the workload above."
        ),
        sides=(side("tomoni"), side("TRL"), kept),
        pairs=(Pair("tomoni", "TRL", 5.0, 0.5, ""), Pair("tomoni", kept.name, 5.0, None, "")),
        prepare=(model,),
    )


def _job(method: str, file: Path, more: Mapping[str, Any]) -> dict[str, Any]:
    shared = {
        "batch_size": PROMPTS, "num_generations": GENERATIONS, "max_completion_length": LONGEST,
        **LORA, **ADAMW, **more.get("both", {}),
    }  # fmt: skip
    return {
        "method": method, "work": str(file), "shared": shared, "told": more.get("told", False),
        "ours": more.get("ours", {}), "theirs": more.get("theirs", {}),
    }  # fmt: skip
