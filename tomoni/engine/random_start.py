"""A model of another's size and vocabulary with random weights: the honest zero of what pretraining brought."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tomoni.engine.models import quiet
from tomoni.hub import locate


def write_random_start(name: str, folder: Path, seed: int) -> Path:
    """Write a model folder with `name`'s config and tokenizer, and weights drawn anew as transformers initialises them."""
    source = locate(name).folder
    config = AutoConfig.from_pretrained(source, local_files_only=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with quiet():
        model.save_pretrained(folder)
    for path in source.iterdir():
        if path.is_file() and not path.name.endswith(".safetensors") and path.name != "config.json":
            shutil.copy(path, folder / path.name)
    return folder
