"""A peer's side of the whole command: what a user's script with TRL does, from the same questions to a saved adapter.

Runs in the peers' environment and imports nothing of tomoni.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.process import Clock, main


def measure(job: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    folder = Path(job["folder"])
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as scratch, clock:
        from datasets import load_dataset
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import SFTConfig

        from bench.peer_train import recorded_sft

        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="float32")
        model = PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True)
        shared = dict(job["shared"])
        cfg = SFTConfig(
            output_dir=scratch,
            num_train_epochs=1,
            per_device_train_batch_size=shared.pop("batch_size"),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            train_sampling_strategy="sequential",  # the file is in the order in which ours takes it
            dataloader_pin_memory=False,
            report_to="none",
            eos_token="<|im_end|>",  # noqa: S106  as TRL's documentation says for templates that end a turn with it
            **shared,
        )
        data = load_dataset("json", data_files=str(folder / "theirs.jsonl"), split="train")
        trainer = recorded_sft(losses)(model=model, args=cfg, train_dataset=data, processing_class=tokenizer)
        trainer.train()
        trainer.save_model(scratch)
    return {"losses": losses}


if __name__ == "__main__":
    main(measure)
