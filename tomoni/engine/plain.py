"""A model folder opened by transformers alone, as somebody without tomoni opens it: nothing of ours in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tomoni.engine.models import quiet


def open_plain(folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer), float32 and in eval mode. The folder is one that tomoni wrote; no code of it is run."""
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
    return model.eval(), open_plain_tokenizer(folder)


def open_plain_tokenizer(folder: Path) -> Any:
    with quiet():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def generate(model: Any, tokens: list[int], most: int) -> list[int]:
    """Greedily by transformers' own `generate`, stopping where the model's generation config says; at most `most`. A
    penalty in that config is a way of sampling, not of the weights, and is left out as tomoni's sampler leaves it out."""
    asked = torch.tensor([tokens], device=model.device)
    with torch.no_grad(), quiet():
        made = model.generate(
            asked,
            attention_mask=torch.ones_like(asked),
            max_new_tokens=most,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
        )
    return [int(token) for token in made[0, len(tokens) :]]


def logits_after(model: Any, tokens: list[int], made: list[int]) -> Any:
    """float32 [T, V]: what the model expects at each of the places of `made` [T], after `tokens`; one forward pass."""
    row = torch.tensor([[*tokens, *made[:-1]]], device=model.device)
    with torch.no_grad():
        logits = model(input_ids=row, use_cache=False).logits[0, -len(made) :]
    return logits.float().cpu().numpy()
