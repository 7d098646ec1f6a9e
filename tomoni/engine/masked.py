"""Masked language models: loaded, begun anew, saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import MODEL_FOR_MASKED_LM_MAPPING, BertConfig, BertForMaskedLM, PreTrainedTokenizerBase

from tomoni.engine import models, scoring
from tomoni.engine.saving import Dtype, merge, rounded, say_dtype
from tomoni.errors import ModelError
from tomoni.hub import Located, read_json
from tomoni.settings.pretrain import Shape

SPREAD = 100.0  # the longest wave of a new model's positions over the shortest


def load(located: Located, *, attn_implementation: models.Attention = "sdpa") -> Any:
    """The masked language model in `located`, float32, in eval mode. Raises ModelError; a body without the head that
    guesses (a sentence encoder) has nothing to go on with."""
    folder = located.folder
    settings = read_json(folder / "config.json")
    models.refuse(settings, folder)
    if not scoring.is_encoder(located) or located.base is not None:
        raise ModelError(
            f"{located.name} is no masked language model",
            next_step="objective: mlm needs BERT or one of its relatives; for a decoder objective: causal",
        )
    config = models.encoder_config(settings, folder)
    kind: Any = MODEL_FOR_MASKED_LM_MAPPING[type(config)]
    config._attn_implementation = attn_implementation if kind._supports_sdpa else "eager"
    model, info = scoring.filled(kind, config, folder)
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{folder} lacks {len(missing)} weights of {kind.__name__}: {', '.join(missing[:4])}",
            next_step="take the model as it was pretrained, with the head that guesses hidden words",
        )
    return model.eval()


def new_model(shape: Shape, tokenizer: PreTrainedTokenizerBase, *, seed: int, attn_implementation: str = "sdpa") -> Any:
    """A BERT of this shape with weights that depend on `seed` alone, and without dropout: text that is read once or a
    few times is not learnt by heart.

    Two things let a small one begin to attend in hundreds of steps instead of thousands (LOG.md): weights drawn with
    deviation sqrt(2 / (5 D)) (Nguyen and Salazar 2019; BERT's .02 is that of a width of 1,000), and positions that begin
    as waves (Vaswani et al. 2017), so that "the next word" is the same turn everywhere.
    """
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        max_position_embeddings=shape.max_position_embeddings,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=shape.tie_word_embeddings,
        initializer_range=(2 / (5 * shape.hidden_size)) ** 0.5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config._attn_implementation = attn_implementation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: Any = BertForMaskedLM(config).float().eval()
        _waves(made.bert.embeddings.position_embeddings.weight, config.initializer_range)
        return made


def _waves(positions_TD: Tensor, deviation: float) -> None:
    """As large as drawn ones; wave lengths from 2 pi to 100 times that."""
    length, width = positions_TD.shape
    angles = torch.arange(length)[:, None] * SPREAD ** (-torch.arange(width // 2) / (width // 2))
    with torch.no_grad():
        positions_TD[:, : 2 * (width // 2)] = torch.cat([angles.sin(), angles.cos()], 1) * deviation * 2**0.5


def write_random(source: Path, folder: Path, seed: int) -> None:
    """Write a model of the shape of the one in `source`, with weights drawn anew: the honest zero of what pretraining brought."""
    config = models.encoder_config(read_json(source / "config.json"), source)
    kind: Any = MODEL_FOR_MASKED_LM_MAPPING[type(config)]
    with torch.random.fork_rng(devices=[]), models.quiet():
        torch.manual_seed(seed)
        kind(config).float().save_pretrained(folder)


def save(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, *, dtype: Dtype = "float32") -> None:
    """Adapters are merged into what is written; `dtype` rounds the written weights only."""
    plain: Any = merge(model) if isinstance(model, PeftModel) else model
    models.check_tokenizer(plain, tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    with models.quiet():
        plain.save_pretrained(folder, state_dict=rounded(plain, getattr(torch, dtype)))
    say_dtype(folder / "config.json", dtype)
    tokenizer.save_pretrained(folder)
