"""A peer's side of training: TRL's SFTTrainer (or transformers' Trainer) on the same rows in the same order.

Runs in the peers' environment and imports nothing of tomoni.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from bench.process import Clock, main
from bench.work import Work

# our config's names that their arguments have under another name; the others are the same on both sides
NOT_THEIRS = ("train", "lora_r", "lora_alpha")
IGNORED = -100


def measure(job: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    transformers.logging.set_verbosity_error()
    work = Work.load(Path(job["work"]))
    model = AutoModelForCausalLM.from_pretrained(
        job["model"], dtype="float32", attn_implementation=job.get("attention", "sdpa")
    )
    if job.get("adapter"):
        model = PeftModel.from_pretrained(model, job["adapter"], is_trainable=True)
    else:
        freeze(model, job["shared"]["train"])
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = made(model, folder, work, job, losses)
        with clock:
            trainer.train()
    return {"losses": losses, "tokens": work.tokens}


def freeze(model: Any, train: str) -> None:
    """Leave what is trained: all, or the top K layers and the norm after them."""
    if train == "all":
        return
    count = int(train.removeprefix("top:"))
    model.requires_grad_(False)
    for module in (*model.model.layers[-count:], model.model.norm):
        module.requires_grad_(True)


def arguments(work: Work, job: Mapping[str, Any], folder: str) -> dict[str, Any]:
    shared = {name: value for name, value in job["shared"].items() if name not in NOT_THEIRS}
    shared["per_device_train_batch_size"] = shared.pop("batch_size")
    return {
        "output_dir": folder,
        "max_steps": work.steps,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **shared,
        **job.get("theirs", {}),
    }


def dataset(work: Work) -> Dataset:
    """Rows in the order in which they are taken."""
    rows = [work.rows[index].tolist() for index in work.order]
    prompts = [work.prompts[index] for index in work.order]
    labels = [[IGNORED] * prompt + row[prompt:] for row, prompt in zip(rows, prompts, strict=True)]
    return Dataset.from_dict({"input_ids": rows, "labels": labels})


def noting(trainer: Any, losses: list[float]) -> Any:
    """The trainer's class, noting the loss of every step."""

    class Noting(trainer):  # type: ignore[misc]
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            losses.append(float(loss))
            return loss

    return Noting


def recorded_sft(losses: list[float]) -> Any:
    return noting(SFTTrainer, losses)


def made(model: Any, folder: str, work: Work, job: Mapping[str, Any], losses: list[float]) -> Any:
    """The trainer that the job names."""
    given: dict[str, Any] = {"model": model, "train_dataset": dataset(work)}
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    named = arguments(work, job, folder)
    if job["trainer"] == "trl":
        cfg = SFTConfig(**{"max_length": 1024, **named})
        return noting(SFTTrainer, losses)(args=cfg, processing_class=tokenizer, **given)
    cfg = TrainingArguments(**named)
    return noting(Trainer, losses)(args=cfg, data_collator=DataCollatorForSeq2Seq(tokenizer), **given)


if __name__ == "__main__":
    main(measure)
