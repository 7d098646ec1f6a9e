"""What a transformers model of the Llama family consists of, for code that runs its layers by itself.

`read` recognises the family by its parts, never by a name alone, and gives None for anything it is not sure about; who
uses a blueprint tries it once against the model's own forward pass (see `forward`). The model stays the one place where
weights live: a blueprint points at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from tomoni.engine.products import between, forward, into

# rotations that do not depend on how long the longest row is
ROTATIONS = frozenset({"default", "linear", "llama3", "yarn"})
FAMILY = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})


class Projection:
    """A linear layer, plain or with LoRA. `weight` [out, in] is what it multiplies by: the module's own, or the base's
    with the adapter folded in, as of the last `refresh`."""

    def __init__(self, module: nn.Linear | LoraLinear) -> None:
        self._lora: tuple[nn.Parameter, nn.Parameter] | None = None
        self._scale = 1.0
        self._folded: Tensor | None = None
        self.scaled: tuple[Tensor, Tensor] | None = None  # s A [r, in] and s B [out, r], as of the last `refresh`
        if isinstance(module, nn.Linear):
            self._base = module
        else:
            (name,) = module.active_adapters
            base: Any = module.get_base_layer()
            self._base = base
            down: Any = module.lora_A[name]
            up: Any = module.lora_B[name]
            self._lora = (down.weight, up.weight)
            self._scale = float(module.scaling[name])

    @property
    def weight(self) -> Tensor:
        return self._base.weight if self._folded is None else self._folded

    @property
    def bias(self) -> Tensor | None:
        return self._base.bias

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """The parameters that `gradients` answers for, in its order."""
        if self._lora is not None:
            return self._lora
        return (self._base.weight,) if self._base.bias is None else (self._base.weight, self._base.bias)

    @torch.no_grad()
    def refresh(self) -> None:
        """Fold the adapter's present weights: W + s B A."""
        if self._lora is None:
            return
        down_RI, up_OR = self._lora
        if self._folded is None:
            self._folded = torch.empty_like(self._base.weight)
        torch.addmm(self._base.weight, up_OR, down_RI, alpha=self._scale, out=self._folded)
        self.scaled = (down_RI * self._scale, up_OR * self._scale)

    def __call__(self, input_NI: Tensor) -> Tensor:
        """[N, in] -> [N, out]; no gradient."""
        return forward(input_NI, self.weight, self.bias)

    def gradients(self, input_NI: Tensor, output_NO: Tensor, needed: Sequence[bool]) -> list[Tensor | None]:
        """Gradients of a plain layer's `leaves` from its input and its output's gradient."""
        found: list[Tensor | None] = [between(output_NO, input_NI) if needed[0] else None]
        if len(needed) > 1:
            found.append(output_NO.sum(0) if needed[1] else None)
        return found


class Projections:
    """Projections of one input. Their adapters' products are made together, since each alone is thin."""

    def __init__(self, *parts: Projection) -> None:
        self.parts = parts
        self._downs_XI: Tensor | None = None  # the scaled A of all parts that have one, one below the other

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return tuple(leaf for part in self.parts for leaf in part.leaves)

    @torch.no_grad()
    def refresh(self) -> None:
        for part in self.parts:
            part.refresh()
        if downs := [part.scaled[0] for part in self.parts if part.scaled is not None]:
            self._downs_XI = torch.cat(downs)

    def __call__(self, input_NI: Tensor) -> list[Tensor]:
        """[N, in] -> each part's [N, out]; no gradient."""
        return [part(input_NI) for part in self.parts]

    def into(self, outputs: Sequence[Tensor]) -> Tensor:
        """The input's gradient [N, in] from the outputs' gradients."""
        into_NI = into(outputs[0], self.parts[0].weight)
        for part, output_NO in zip(self.parts[1:], outputs[1:], strict=True):
            into(output_NO, part.weight, onto_QI=into_NI)
        return into_NI

    def gradients(self, input_NI: Tensor, outputs: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
        """Gradients of `leaves` from the input and the outputs' gradients.

        LoRA's come from two thin products a side, never from the gradient of the whole weight:
        dA = s (dY B)^T X and dB = s dY^T (X A^T).
        """
        if not any(needed):
            return [None] * len(needed)
        thin_NX = input_NI.new_empty(0) if self._downs_XI is None else input_NI @ self._downs_XI.t()
        inner_NX = torch.empty_like(thin_NX)
        found: list[Tensor | None] = []
        adapted: dict[int, int] = {}  # where a part's A stands among the gradients: its rank
        for part, output_NO in zip(self.parts, outputs, strict=True):
            if part.scaled is None:
                found += part.gradients(input_NI, output_NO, needed[len(found) : len(found) + len(part.leaves)])
                continue
            up_OR = part.scaled[1]
            start = sum(adapted.values())
            columns = slice(start, start + up_OR.shape[1])
            torch.mm(output_NO, up_OR, out=inner_NX[:, columns])
            adapted[len(found)] = up_OR.shape[1]
            found += [None, (thin_NX[:, columns].t() @ output_NO).t()]
        if adapted:
            downs = (inner_NX.t() @ input_NI).split(list(adapted.values()))
            for place, down_RI in zip(adapted, downs, strict=True):
                found[place] = down_RI
        return found


@dataclass(frozen=True, slots=True)
class Layer:
    attention_norm: nn.Parameter
    qkv: Projections
    o: Projections
    q_norm: nn.Parameter | None  # Qwen3: over each head's values, before the rotation
    k_norm: nn.Parameter | None
    mlp_norm: nn.Parameter
    gate_up: Projections
    down: Projections

    def projections(self) -> tuple[Projections, ...]:
        return (self.qkv, self.o, self.gate_up, self.down)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A decoder of the Llama family: per layer, x += O attention(norm x), x += down(silu(gate norm x) * up norm x)."""

    embedding: nn.Embedding
    rotary: nn.Module
    layers: tuple[Layer, ...]
    norm: nn.Parameter  # the last one, before the head
    epsilon: float
    heads: int
    kv_heads: int
    head_dim: int
    window: int | None  # rows longer than this are not for code that knows no sliding window

    @property
    def scale(self) -> float:
        """Of attention's products."""
        return self.head_dim**-0.5

    def refresh(self) -> None:
        """Take up weights that have changed since."""
        for layer in self.layers:
            for projections in layer.projections():
                projections.refresh()

    def rotations(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [T, head_dim / 2] of positions 0 to `length` - 1, as the model's own module gives them."""
        positions_1T = torch.arange(length, device=self.embedding.weight.device)[None]
        with torch.no_grad():
            cos_1Td, sin_1Td = self.rotary(self.embedding.weight[:1], positions_1T)
        half = self.head_dim // 2
        return cos_1Td[0, :, :half].contiguous(), sin_1Td[0, :, :half].contiguous()


def read(inner: Any) -> Blueprint | None:
    """The blueprint of a model (without its adapter's wrapper); None where it is not of the family, or has a part whose
    arithmetic is not known here: another adapter than plain LoRA, dropout, another activation."""
    if type(inner).__name__ not in FAMILY:
        return None
    config = inner.config
    body = inner.base_model
    rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if config.hidden_act != "silu" or getattr(config, "attention_dropout", 0) or rotation not in ROTATIONS:
        return None
    try:
        layers = [_layer(layer) for layer in body.layers]
    except (AttributeError, TypeError):
        return None
    if not layers or any(layer is None for layer in layers) or not isinstance(body.embed_tokens, nn.Embedding):
        return None
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Blueprint(
        embedding=body.embed_tokens,
        rotary=body.rotary_emb,
        layers=tuple(layer for layer in layers if layer is not None),
        norm=body.norm.weight,
        epsilon=config.rms_norm_eps,
        heads=heads,
        kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        window=_window(config),
    )


def _layer(layer: Any) -> Layer | None:
    attention, mlp = layer.self_attn, layer.mlp
    modules = [
        attention.q_proj,
        attention.k_proj,
        attention.v_proj,
        attention.o_proj,
        mlp.gate_proj,
        mlp.up_proj,
        mlp.down_proj,
    ]
    if not all(_is_plain(module) for module in modules):
        return None
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    q, k, v, o, gate, up, down = (Projection(module) for module in modules)
    return Layer(
        attention_norm=layer.input_layernorm.weight,
        qkv=Projections(q, k, v),
        o=Projections(o),
        q_norm=None if norms[0] is None else norms[0].weight,
        k_norm=None if norms[1] is None else norms[1].weight,
        mlp_norm=layer.post_attention_layernorm.weight,
        gate_up=Projections(gate, up),
        down=Projections(down),
    )


def _is_plain(module: nn.Module) -> bool:
    """A linear layer, or one with a single LoRA that is nothing but W + scale B A."""
    if type(module) is nn.Linear:
        return True
    if type(module) is not LoraLinear or module.merged or module.disable_adapters or len(module.active_adapters) != 1:
        return False
    (name,) = module.active_adapters
    return bool(
        type(module.get_base_layer()) is nn.Linear
        and not module.fan_in_fan_out
        and not module.use_dora.get(name, False)
        and not module.lora_variant
        and not module.lora_bias.get(name, False)
        and name in module.lora_A
        and (isinstance(module.lora_dropout[name], nn.Identity) or module.lora_dropout[name].p == 0)
    )


def _window(config: Any) -> int | None:
    """What limits attention; by Qwen's `layer_types` every layer may see everything though the config names a window."""
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds == {"full_attention"} or not getattr(config, "use_sliding_window", True):
        return None
    window = getattr(config, "sliding_window", None)
    return window if isinstance(window, int) else None
