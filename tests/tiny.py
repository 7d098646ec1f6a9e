"""Two-layer models of the common shapes with a byte tokenizer, built in process from a seed: no download, no fixture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
VOCABULARY = 256 + len(SPECIALS)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "eos_token_id": 258,
    "pad_token_id": 259,
    "bos_token_id": None,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt_neox": {"rotary_pct": 0.25},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 16, "tie_word_embeddings": False},
}  # fmt: skip
ARCHITECTURES = tuple(SHAPES)


def model(architecture: str = "llama", *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A randomly initialised causal model in float32, in eval mode."""
    config = AutoConfig.for_model(architecture, **{**SHARED, **SHAPES[architecture], **changes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        # transformers starts weights at a deviation of .02, which leaves every prediction nearly uniform; larger ones
        # let a test see a difference
        for parameter in built.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    return built.eval()


def tokenizer(*, template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Bytes 0-255 (GPT-2's letters for them), then the special tokens 256-259."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIALS))
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|pad|>")
    made.chat_template = template
    return made


def folder(
    path: Path, architecture: str = "llama", *, seed: int = 0, template: str | None = CHATML, **changes: Any
) -> Path:
    """A model folder in Hugging Face form."""
    model(architecture, seed=seed, **changes).save_pretrained(path)
    tokenizer(template=template).save_pretrained(path)
    return path


# -- encoders ----------------------------------------------------------------------------------------------------------

ENCODER_SHAPES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"type_vocab_size": 1},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0},
    "modernbert": {"local_attention": 16, "global_attn_every_n_layers": 2, "reference_compile": False},
    "electra": {"embedding_size": 32},
}  # fmt: skip
ENCODERS = tuple(ENCODER_SHAPES)
MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "mlp_dropout", "embedding_dropout")  # fmt: skip


def encoder(
    architecture: str = "bert", *, seed: int = 0, masked: bool = True, dropout: float = 0.0, **changes: Any
) -> PreTrainedModel:
    """A randomly initialised masked language model (or its body alone) in float32, in eval mode, without dropout."""
    shared = {key: value for key, value in SHARED.items() if key not in ("eos_token_id", "bos_token_id")}
    shared |= {"vocab_size": 256 + len(MARKS), "pad_token_id": 256}
    config = AutoConfig.for_model(architecture, **{**shared, **ENCODER_SHAPES[architecture], **changes})
    for name in DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, dropout)
    if architecture == "modernbert":
        config.cls_token_id, config.sep_token_id, config.bos_token_id, config.eos_token_id = 258, 259, 258, 259
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind = AutoModelForMaskedLM if masked else AutoModel
        built = kind.from_config(config, dtype=torch.float32)
        for parameter in built.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    return built.eval()


def encoder_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes 0-255, then BERT's marks 256-260, one text as [CLS] text [SEP]."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(MARKS))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 258), ("[SEP]", 259)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def encoder_folder(
    path: Path, architecture: str = "bert", *, seed: int = 0, dropout: float = 0.0, **changes: Any
) -> Path:
    """A masked language model's folder in Hugging Face form."""
    encoder(architecture, seed=seed, dropout=dropout, **changes).save_pretrained(path)
    encoder_tokenizer().save_pretrained(path)
    return path
