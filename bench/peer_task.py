"""A peer's side of a task: what a user's script with Hugging Face's Trainer does, from a file to a saved model.

Runs in the peers' environment and imports nothing of tomoni.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.process import Clock, main


def measure(job: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    torch.set_num_threads(job["threads"])
    folder = Path(job["folder"])
    with tempfile.TemporaryDirectory() as scratch, clock:
        rows = {part: _rows(folder / f"{part}.jsonl") for part in ("train", "test")}
        names = sorted({row["label"] for row in rows["train"]})
        number = {name: index for index, name in enumerate(names)}
        tokenizer = AutoTokenizer.from_pretrained(job["model"])
        set_seed(job["seed"])
        model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=len(names), dtype="float32")
        if "top" in job:
            _freeze(model, job["top"])
        data = {part: _tokens(some, tokenizer, number) for part, some in rows.items()}
        args = TrainingArguments(
            output_dir=scratch, num_train_epochs=job["epochs"], per_device_train_batch_size=job["batch"],
            per_device_eval_batch_size=64, learning_rate=job["rate"], seed=job["seed"], use_cpu=True, bf16=False,
            train_sampling_strategy="group_by_length" if job["grouped"] else "random", save_strategy="no",
            eval_strategy="no", report_to="none", dataloader_pin_memory=False, disable_tqdm=True,
            warmup_steps=0.1 if job["grouped"] else 0, weight_decay=0.01 if job["grouped"] else 0.0,
        )  # fmt: skip
        trainer = Trainer(
            model=model, args=args, train_dataset=data["train"], processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
        )  # fmt: skip
        told = trainer.train()
        found = trainer.predict(data["test"])
        trainer.save_model(f"{scratch}/model")
    accuracy = float((found.predictions.argmax(1) == found.label_ids).mean())
    return {"accuracy": accuracy, "training_seconds": told.metrics["train_runtime"], "steps": told.global_step}


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _tokens(rows: list[dict[str, Any]], tokenizer: Any, number: Mapping[str, int]) -> Any:
    from datasets import Dataset

    told = tokenizer([row["text"] for row in rows], truncation=True, max_length=128)
    lengths = [len(ids) for ids in told["input_ids"]]
    return Dataset.from_dict({**told, "length": lengths, "label": [number[row["label"]] for row in rows]})


def _freeze(model: Any, top: int) -> None:
    """All but the last `top` layers, the pooler and the classifier."""
    body = model.base_model
    for weight in body.parameters():
        weight.requires_grad_(False)
    for part in (*body.encoder.layer[-top:], body.pooler):
        for weight in part.parameters():
            weight.requires_grad_(True)


if __name__ == "__main__":
    main(measure)
