"""A causal model as a function of tensors alone, for exporters that follow a computation: the cache goes in and comes
out as tensors, positions and masks are computed from the attention mask."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tomoni.errors import ModelError

KeyAndValue = tuple[Tensor, Tensor]
# a rotary embedding that is computed anew when the text is long cannot be one fixed graph
CHANGING_ROTARY: Final = ("dynamic", "longrope")
INSTEAD: Final = "export the model with --to hf, which keeps it as it is"


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Of one layer: heads and numbers a head, of its keys and of its values."""

    key: tuple[int, int]
    value: tuple[int, int]


class Traceable(nn.Module):
    """Call it with tokens int64 [N, T], a mask int64 [N, past + T] (1 where a token is) and per layer the keys and
    values of what came before, float32 [N, heads, past, size]. Returns logits [N, T, V], then each layer's keys and values of
    past + T. Rows may be padded on either side. A layer with a sliding window keeps its whole past; the mask hides it.
    """

    def __init__(self, model: PreTrainedModel, *, untie: bool = False) -> None:
        """`untie` gives a head that is tied to the embeddings weights of its own, so that they can be rounded apart."""
        super().__init__()
        self.model = copy_for_tracing(model)
        if untie:
            head: Any = self.model.get_output_embeddings()
            head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        takes = inspect.signature(self.model.forward).parameters
        self.takes_positions = "position_ids" in takes or any(
            parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.values()
        )
        self.cache = cache_shapes(self.model)

    def forward(self, tokens_NT: Tensor, mask_NS: Tensor, past: Sequence[KeyAndValue]) -> tuple[Tensor, ...]:
        cache = DynamicCache()
        cache.layers = [_filled(key, value) for key, value in past]
        more: dict[str, Any] = {}
        if self.takes_positions:
            positions_NS = (mask_NS.cumsum(-1) - 1).clamp(min=0)
            more["position_ids"] = positions_NS[:, -tokens_NT.shape[1] :]
        out: Any = self.model(
            input_ids=tokens_NT, attention_mask=mask_NS, past_key_values=cache, use_cache=True, **more
        )
        layers = out.past_key_values.layers
        return (out.logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values)))

    def example(self, *, rows: int, past: int, length: int) -> tuple[Tensor, Tensor, list[KeyAndValue]]:
        """Inputs of that size; the cache's numbers are of no text."""
        past_layers = [
            (
                torch.zeros(rows, shape.key[0], past, shape.key[1]),
                torch.zeros(rows, shape.value[0], past, shape.value[1]),
            )
            for shape in self.cache
        ]
        tokens_NT = torch.arange(rows * length).reshape(rows, length) % 2
        return tokens_NT, torch.ones(rows, past + length, dtype=torch.int64), past_layers


def untraceable(model: PreTrainedModel) -> list[str]:
    """Why a model cannot become a function of tokens and a cache of keys and values; empty where it can, as far as its
    config tells."""
    config = model.config
    text = config.get_text_config()
    kind = config.model_type
    reasons = []
    if hasattr(model, "peft_config") and model.peft_config:
        reasons.append("its adapter is not merged: merge it first")
    if getattr(config, "is_encoder_decoder", False):
        reasons.append(f"{kind} is an encoder and a decoder; only models that continue text are held")
    if getattr(model, "_is_stateful", False) or _odd_layers(text):
        odd = f" ({', '.join(_odd_layers(text))})" if _odd_layers(text) else ""
        reasons.append(f"{kind} has layers with a state instead of keys and values{odd}")
    if changing := sorted(set(_rotary_kinds(text)) & set(CHANGING_ROTARY)):
        reasons.append(f"its rotary embedding ({', '.join(changing)}) changes with the length of the text")
    if integers := sum(not weight.dtype.is_floating_point for weight in model.parameters()):
        reasons.append(f"{integers} of its weights are quantized already")
    return reasons


def copy_for_tracing(model: PreTrainedModel) -> PreTrainedModel:
    """The model with plain attention, in float32 and eval mode. The given one stays as it is; where it is float32 on
    the CPU already the two share their weights."""
    tensors = [*model.parameters(), *model.buffers()]
    plain = all(tensor.device.type == "cpu" for tensor in tensors) and all(
        weight.dtype == torch.float32 for weight in model.parameters()
    )
    shared = {id(tensor): tensor for tensor in tensors} if plain else {}
    copied: Any = copy.deepcopy(model, shared)
    if not plain:
        copied = copied.to("cpu", torch.float32)
    copied.config._attn_implementation = "eager"
    copied.config._experts_implementation = "batched_mm"  # the others choose experts by loops over numbers
    return copied.eval()  # type: ignore[no-any-return]


def cache_shapes(model: PreTrainedModel) -> tuple[CacheShape, ...]:
    """What each layer keeps, learnt from a forward of two tokens. ModelError where that is not keys and values."""
    with torch.no_grad():
        out: Any = model(input_ids=torch.zeros(1, 2, dtype=torch.int64), use_cache=True)
    layers = getattr(out.past_key_values, "layers", None)
    if not layers or any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        raise ModelError(
            f"{model.config.model_type} keeps something else than keys and values of each token", next_step=INSTEAD
        )
    return tuple(CacheShape(_heads_and_size(layer.keys), _heads_and_size(layer.values)) for layer in layers)


def _heads_and_size(tensor: Tensor) -> tuple[int, int]:
    return int(tensor.shape[1]), int(tensor.shape[3])


def _filled(key: Tensor, value: Tensor) -> DynamicLayer:
    layer = DynamicLayer()
    layer.keys, layer.values = key, value
    layer.dtype, layer.device = key.dtype, key.device
    layer.is_initialized = True
    return layer


def _odd_layers(config: Any) -> list[str]:
    known = {"full_attention", "sliding_attention", "chunked_attention"}
    return sorted(set(getattr(config, "layer_types", None) or ()) - known)


def _rotary_kinds(config: Any) -> list[str]:
    """The kinds of rotary embedding, which some architectures name once and others for each type of layer."""
    given = getattr(config, "rope_parameters", None) or {}
    parts = [given, *(part for part in given.values() if isinstance(part, dict))]
    return [str(part["rope_type"]) for part in parts if part.get("rope_type")]
