"""A peer's side of learning from preferences and rewards: TRL's DPOTrainer, GRPOTrainer and RLOOTrainer on the same
token ids in the same order, or told the same completions.

Runs in the peers' environment and imports nothing of tomoni.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from bench.process import Clock, main
from bench.work import Prompts, Work, reward_of

# our config's names that theirs have under another name
NOT_THEIRS = ("train", "lora_r", "lora_alpha", "batch_size")
TRAINERS = {"dpo": (DPOTrainer, DPOConfig), "grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}


def measure(job: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    transformers.logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype="float32", attn_implementation="sdpa")
    if job.get("adapter"):
        model = PeftModel.from_pretrained(model, job["adapter"], is_trainable=True)
    given = {"model": model, "processing_class": AutoTokenizer.from_pretrained(job["model"])}
    with tempfile.TemporaryDirectory() as folder:
        return (_dpo if job["method"] == "dpo" else _sampled)(job, clock, folder, given)


def _dpo(job: Mapping[str, Any], clock: Clock, folder: str, given: dict[str, Any]) -> dict[str, Any]:
    work = Work.load(Path(job["work"]))
    kind, losses, _ = noting(DPOTrainer)
    args = DPOConfig(**arguments(job, folder, work.steps, per_step=job["shared"]["batch_size"]))

    class AlreadyTokens(kind):  # type: ignore[misc,valid-type]
        def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
            return dataset

    if args.precompute_ref_log_probs:  # done as the trainer is made
        with clock:
            trainer = AlreadyTokens(args=args, train_dataset=pairs(work), **given)
    else:
        trainer = AlreadyTokens(args=args, train_dataset=pairs(work), **given)
    with clock:
        trainer.train()
    return {"losses": losses, "tokens": work.tokens, "items": len(work.order) // 2, "unit": "pairs"}


def _sampled(job: Mapping[str, Any], clock: Clock, folder: str, given: dict[str, Any]) -> dict[str, Any]:
    told: Iterator[list[int]] | None = None
    generations, batch_size = job["shared"]["num_generations"], job["shared"]["batch_size"]
    if job.get("told"):
        work = Work.load(Path(job["work"]))
        prompts = [work.rows[start][: work.prompts[start]].tolist() for start in range(0, len(work.rows), generations)]
        told = iter([row[size:].tolist() for row, size in zip(work.rows, work.prompts, strict=True)])
    else:
        prompts = [prompt.tolist() for prompt in Prompts.load(Path(job["work"])).prompts]
    trainer_kind, config_kind = TRAINERS[job["method"]]
    kind, losses, grad_norms = noting(trainer_kind)
    lengths: list[int] = []

    class FromTokens(kind):  # type: ignore[misc,valid-type]
        def _tokenize_prompts(self, texts: Sequence[str]) -> Any:
            return [prompts[int(text)] for text in texts], None, {}

        def _generate_single_turn(self, prompt_ids: Sequence[Any], *rest: Any, **more: Any) -> Any:
            if told is None:
                return super()._generate_single_turn(prompt_ids, *rest, **more)
            handed = [next(told) for _ in prompt_ids]
            return (handed, None) if job["method"] == "grpo" else handed  # GRPO's has log-probabilities beside them

    def earned(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return [reward_of(completion) for completion in completion_ids]

    steps = len(prompts) // batch_size
    named = arguments(job, folder, steps, per_step=batch_size * generations)
    order = Dataset.from_dict({"prompt": [str(number) for number in range(len(prompts))]})
    trainer = FromTokens(
        args=config_kind(shuffle_dataset=False, **named), train_dataset=order, reward_funcs=earned, **given
    )
    with clock:
        trainer.train()
    counts = {"items": len(lengths), "unit": "completions", "tokens": sum(lengths)}
    return {"losses": losses, "grad_norms": grad_norms, **counts}


def arguments(job: Mapping[str, Any], folder: str, steps: int, *, per_step: int) -> dict[str, Any]:
    shared = {name: value for name, value in job["shared"].items() if name not in NOT_THEIRS}
    return {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": per_step,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **({"train_sampling_strategy": "sequential"} if job["method"] == "dpo" else {}),
        **({"logging_steps": 1} if job.get("told") else {}),
        **shared,
        **job.get("theirs", {}),
    }


def pairs(work: Work) -> Dataset:
    """Pairs in the order in which they are taken."""
    taken = list(zip(work.order[::2], work.order[1::2], strict=True))
    return Dataset.from_dict(
        {
            "prompt_ids": [work.rows[first][: work.prompts[first]].tolist() for first, _ in taken],
            "chosen_ids": [work.rows[first][work.prompts[first] :].tolist() for first, _ in taken],
            "rejected_ids": [work.rows[second][work.prompts[second] :].tolist() for _, second in taken],
        }
    )


def noting(trainer: Any) -> tuple[Any, list[float], list[float]]:
    """The trainer's class, noting the loss of every step, and the length of the gradient where it logs one."""
    losses: list[float] = []
    grad_norms: list[float] = []

    class Noting(trainer):  # type: ignore[misc]
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            losses.append(float(loss))
            return loss

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            if "grad_norm" in logs:
                grad_norms.append(float(logs["grad_norm"]))
            super().log(logs, *args, **kwargs)

    return Noting, losses, grad_norms


if __name__ == "__main__":
    main(measure)
