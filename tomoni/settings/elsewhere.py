"""Keys as other tools call them (transformers and TRL, LLaMA-Factory, Axolotl, plain short names), and which key to look at
here. Hints for an error message only: values may mean something else, so nothing is translated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_OURS: Final[Mapping[str, tuple[str, ...]]] = {
    "model_name_or_path": ("model", "base_model", "model_name", "model_id", "model_path"),
    "train_file": ("data", "dataset", "datasets", "dataset_name", "dataset_path", "data_path", "train_data",
                   "train_dataset", "training_file"),
    "validation_file": ("eval_file", "eval_data", "eval_dataset", "valid_file", "validation", "val_file", "test_file"),
    "validation_share": ("val_size", "val_set_size", "validation_split", "test_size"),
    "output_dir": ("output", "out", "out_dir", "output_path", "save_dir"),
    "max_length": ("cutoff_len", "max_seq_length", "max_seq_len", "sequence_len", "model_max_length", "block_size"),
    "batch_size": ("per_device_train_batch_size", "train_batch_size", "bs"),
    "tokens_per_microbatch": ("gradient_accumulation_steps", "micro_batch_size"),
    "learning_rate": ("lr",),
    "num_train_epochs": ("epochs", "num_epochs", "n_epochs", "epoch"),
    "max_steps": ("steps", "num_steps", "iters"),
    "lr_scheduler_type": ("lr_scheduler", "scheduler"),
    "lora_r": ("r", "rank", "lora_rank"),
    "lora_alpha": ("alpha",),
    "lora_target_modules": ("lora_target", "target_modules"),
    "train": ("finetuning_type", "adapter", "tuner_type", "peft", "use_peft", "freeze", "lora"),
    "dtype": ("bf16", "fp16", "torch_dtype", "precision"),
    "threads": ("num_threads", "n_threads"),
    "load_best_model_at_end": ("load_best", "early_stopping"),
    "chat_template": ("template",),
    "beta": ("pref_beta", "dpo_beta"),
    "loss_type": ("pref_loss", "loss"),
    "num_generations": ("group_size", "n_generations"),
}  # fmt: skip

CALLED_ELSEWHERE: Final[Mapping[str, str]] = {name: ours for ours, names in _OURS.items() for name in names}
