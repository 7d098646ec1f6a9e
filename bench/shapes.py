"""The models that are measured: Llama shapes with tied embeddings and random weights drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPECIALS = ("<|im_start|>", "<|im_end|>", "<|pad|>")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Shape:
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int = 1024

    @property
    def kv(self) -> int:
        """Width of the keys, and of the values."""
        return self.hidden // self.heads * self.kv_heads

    @property
    def linear(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of a layer's matrices: q, k, v, o, gate, up, down."""
        d, f = self.hidden, self.intermediate
        return (d, d), (d, self.kv), (d, self.kv), (d, d), (d, f), (d, f), (f, d)


SHAPES = {
    "8M": Shape(256, 704, 8, 4, 2, 8_000),
    "30M": Shape(384, 1024, 12, 6, 2, 16_000),
    "135M": Shape(576, 1536, 30, 9, 3, 49_152),
}


def save(shape: Shape, folder: Path, *, seed: int = 0, lively: bool = False) -> None:
    """A model folder in Hugging Face form, with a tokenizer of the shape's vocabulary.

    Random weights with tied embeddings repeat the last token for ever; `lively` ones have larger layers and do not.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=shape.vocabulary - 2,
        pad_token_id=shape.vocabulary - 1,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).float()
    if lively:
        with torch.no_grad():
            for weight in model.model.layers.parameters():
                weight.mul_(5 if weight.dim() > 1 else 1)
    model.save_pretrained(folder)
    tokenizer(shape.vocabulary).save_pretrained(folder)


def tokenizer(size: int) -> Any:
    """Byte-level BPE whose merges are pairs of bytes, as many as the vocabulary has room for; specials come last."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(one, other) for one in alphabet for other in alphabet][: size - len(alphabet) - len(SPECIALS)]
    vocabulary = [*alphabet, *(one + other for one, other in pairs)]
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(vocabulary)}, merges=pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIALS))
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=SPECIALS[1], pad_token=SPECIALS[2])
    made.chat_template = CHATML
    return made
