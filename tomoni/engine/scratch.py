"""A new Llama-shaped model with random weights, for pretraining from scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from tomoni.settings.pretrain import Shape

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def new_model(
    shape: Shape, tokenizer: PreTrainedTokenizerBase, *, seed: int, attn_implementation: str = "sdpa"
) -> PreTrainedModel:
    """In float32 and eval mode; the weights depend on `seed` alone, as transformers initialises them (a deviation of
    0.02, zero biases, norms at one)."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape.model_dump(),
    )
    config._attn_implementation = attn_implementation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).float().eval()
