"""Which architectures a GGUF file can hold, and how their weights and numbers are laid out in it.

What llama.cpp computes is looked at in each case: where a config asks for something else (another activation, a scaled
rotary embedding of a kind that llama.cpp has not), that is a refusal, never a near miss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tomoni.errors import ModelError

ROPE_TYPES = {"default", "linear", "llama3", "yarn"}
YARN_BUILT_IN = {"beta_fast": 32, "beta_slow": 1}
TIED = ("lm_head.weight", "embed_out.weight")


@dataclass(frozen=True, slots=True)
class Architecture:
    """`name` is GGUF's. `paired_rope`: llama.cpp turns neighbouring numbers of a head together, transformers the two
    halves, so that the rows of q and k change places."""

    name: str
    paired_rope: bool = False


KNOWN = {
    "llama": Architecture("llama", paired_rope=True),
    "mistral": Architecture("llama", paired_rope=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma3_text": Architecture("gemma3"),
    "gpt_neox": Architecture("gptneox"),
}
# the last of these of every six layers of Gemma 3 looks at everything, the others at a window; llama.cpp is built so
GEMMA_PERIOD = 6
GELU = {"gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh"}


def architecture_of(config: Any) -> Architecture:
    """Raises ModelError where a GGUF file cannot hold it, naming those that it can."""
    found = KNOWN.get(config.model_type)
    if found is None:
        raise ModelError(
            f"GGUF export does not know the architecture {config.model_type!r}",
            choices=sorted(KNOWN),
            next_step="export it with --to hf or --to onnx, or tune a base model of one of these architectures",
        )
    return found


def refusals(config: Any) -> list[str]:
    """What this model asks for that llama.cpp would compute otherwise; empty where nothing stands in the way."""
    found = []
    activation = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", "silu")
    if activation not in (GELU if config.model_type in ("gpt_neox", "gemma3_text") else {"silu"}):
        found.append(f"its activation is {activation!r}; llama.cpp computes another for this architecture")
    kind = _rope(config).get("rope_type", "default")
    if kind not in ROPE_TYPES or (kind == "llama3" and KNOWN[config.model_type].name != "llama"):
        found.append(f"its rotary embedding is scaled by {kind!r}, which llama.cpp does not have for it")
    if kind == "yarn":
        found += _yarn_refusals(_rope(config))
    if config.model_type != "gpt_neox" and _rope(config).get("partial_rotary_factor", 1.0) != 1.0:
        found.append("only a part of each head is rotated")
    if config.model_type in ("qwen2", "qwen3") and "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        found.append("some of its layers look at a sliding window only")
    if config.model_type == "gemma3_text":
        found += _gemma_refusals(config)
    if config.model_type == "gpt_neox" and not getattr(config, "attention_bias", True):
        found.append("its attention has no biases")
    return found


def _yarn_refusals(rope: dict[str, Any]) -> list[str]:
    """llama.cpp reads beta_fast and beta_slow from the file for architectures other than these."""
    found = []
    for key, built_in in YARN_BUILT_IN.items():
        if (value := rope.get(key) or built_in) != built_in:
            found.append(f"its yarn scaling has {key} {value:g}; llama.cpp computes it with {built_in:g}")
    if not rope.get("truncate", True):
        found.append("its yarn scaling is not cut off at whole dimensions (truncate false), as llama.cpp's is")
    return found


def _gemma_refusals(config: Any) -> list[str]:
    found = []
    wanted = [
        "full_attention" if (layer + 1) % GEMMA_PERIOD == 0 else "sliding_attention"
        for layer in range(config.num_hidden_layers)
    ]
    if list(config.layer_types) != wanted:
        found.append(f"its layers with a sliding window are not five of every {GEMMA_PERIOD}")
    if config.query_pre_attn_scalar != config.head_dim:
        found.append(
            f"its queries are scaled by {config.query_pre_attn_scalar}, not by the head's size {config.head_dim}"
        )
    if config.final_logit_softcapping or config.attn_logit_softcapping:
        found.append("its logits are capped")
    if config.attention_bias or getattr(config, "use_bidirectional_attention", False):
        found.append("its attention has biases or looks ahead")
    if config.rope_parameters["sliding_attention"].get("rope_type", "default") != "default":
        found.append("the rotary embedding of its layers with a window is scaled")
    return found


def notes(config: Any) -> list[str]:
    """What a user should know about the file that is written."""
    context = context_of(config)
    if context == config.max_position_embeddings:
        return []
    return [
        f"the model looks back {context} tokens only (sliding window), which llama.cpp does not do for it: the context "
        f"in the file is {context} tokens"
    ]


def context_of(config: Any) -> int:
    """Tokens that the file says the model was made for."""
    longest = int(config.max_position_embeddings)
    return min(longest, _window(config) or longest)


def describe(writer: Any, config: Any) -> None:
    """Write the architecture's numbers into a `GGUFWriter`."""
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_context_length(context_of(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "gpt_neox":
        writer.add_layer_norm_eps(config.layer_norm_eps)
        writer.add_parallel_residual(config.use_parallel_residual)
    else:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if config.model_type == "gemma3_text":
        writer.add_sliding_window(config.sliding_window)
        writer.add_rope_freq_base_swa(float(config.rope_parameters["sliding_attention"]["rope_theta"]))
    _describe_rope(writer, config, head)


def _describe_rope(writer: Any, config: Any, head: int) -> None:
    rope = _rope(config)
    writer.add_rope_dimension_count(int(head * rope.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType(kind))
        if kind == "yarn":
            _describe_yarn(writer, rope, config.max_position_embeddings)
        else:
            writer.add_rope_scaling_factor(float(rope["factor"]))


def _describe_yarn(writer: Any, rope: dict[str, Any], longest: int) -> None:
    """Where a key is missing, as transformers computes it. llama.cpp multiplies queries and keys by the paper's
    0.1 ln(factor) + 1 by itself; the file says by how much more."""
    trained = int(rope.get("original_max_position_embeddings") or longest)
    factor = float(rope.get("factor") or longest / trained)
    writer.add_rope_scaling_factor(factor)
    writer.add_rope_scaling_orig_ctx_len(trained)
    attention = rope.get("attention_factor")
    over, under = rope.get("mscale"), rope.get("mscale_all_dim")
    if attention is None:
        attention = _magnitude(factor, over) / _magnitude(factor, under) if over and under else _magnitude(factor)
    writer.add_rope_scaling_attn_factors(float(attention) / _magnitude(factor))


def _magnitude(factor: float, scale: float = 1.0) -> float:
    """Peng et al. 2023 (YaRN), equation 22: by how much attention grows with the context."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def places(model: Any) -> dict[str, str]:
    """Name in the file of each weight that is written, by its own name, in the file's order; tied output weights once.
    Looks at names only. Raises ModelError for a weight that the format has no place for."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    config = model.config
    layout = architecture_of(config)
    number = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == layout.name)
    names = get_tensor_name_map(number, config.num_hidden_layers)
    found = {}
    for own in model.state_dict():
        if own in TIED and config.tie_word_embeddings:
            continue
        name = names.get_name(own, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(
                f"GGUF has no place for the weight {own} of {config.model_type}",
                next_step="export the model with --to hf or --to onnx",
            )
        found[own] = name
    return found


def tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Name in the file and weight, float32, in the file's order. Raises ModelError as `places` does."""
    layout = architecture_of(model.config)
    if (factors := _frequency_factors(model)) is not None:
        yield "rope_freqs.weight", factors
    weights = model.state_dict()
    for own, name in places(model).items():
        yield name, _arranged(own, weights[own].detach().float().cpu(), model.config, layout)


def _arranged(name: str, weight: Tensor, config: Any, layout: Architecture) -> Tensor:
    heads = config.num_attention_heads
    if layout.paired_rope and ".q_proj." in name:
        return _neighbours(weight, heads)
    if layout.paired_rope and ".k_proj." in name:
        return _neighbours(weight, config.num_key_value_heads)
    if config.model_type == "gemma3_text" and name.endswith("norm.weight"):
        return weight + 1  # Gemma multiplies by one more than its weight
    if ".query_key_value." in name:  # head by head q, k, v; the file has all q, then all k, then all v
        each = weight.reshape(heads, 3, -1, *weight.shape[1:])
        return each.transpose(0, 1).reshape(weight.shape)
    return weight


def _neighbours(weight: Tensor, heads: int) -> Tensor:
    """Rows i and i + half of each head, which are turned together, become rows 2i and 2i + 1."""
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def slows_frequencies(config: Any) -> bool:
    """Whether the file has a factor for each rotary frequency (Llama 3.1's scaling)."""
    return bool(_rope(config).get("rope_type") == "llama3")


def _frequency_factors(model: Any) -> Tensor | None:
    """float32 [head / 2]: by how much Llama 3.1's scaling slows each rotary frequency; None without it."""
    if not slows_frequencies(model.config):
        return None
    rope = _rope(model.config)
    scaled = model.model.rotary_emb.inv_freq.double().cpu()
    steps = torch.arange(len(scaled), dtype=torch.float64) / len(scaled)
    return (rope["rope_theta"] ** -steps / scaled).float()


def _rope(config: Any) -> dict[str, Any]:
    found = dict(getattr(config, "rope_parameters", None) or {})
    return dict(found["full_attention"]) if "full_attention" in found else found


def _window(config: Any) -> int | None:
    return getattr(config, "sliding_window", None) if config.model_type == "mistral" else None
