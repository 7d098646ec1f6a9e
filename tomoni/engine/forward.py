"""A transformers model seen as body and head, so that the head need only run where something is trained.

Whether an architecture allows that (and needs no mask for right padding) is not assumed but tried once on a few
tokens against the model's own forward pass; where it differs, the plain forward pass is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tomoni.engine.batch import Tile

PROBE = 7  # tokens of the trial; enough to see a window, a shift or a scaled logit


@dataclass(frozen=True)
class ScoreHead:
    """A linear head on hidden states: one output per row (pooled) or per trained position."""

    size: int
    per: Literal["row", "token"] = "row"
    pool: Literal["last", "mean", "first"] = "last"


class Forward:
    """`causal`: positions are predicted from the ones before. `split`: body and head run apart. `masked`: padding needs
    an attention mask."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.inner = without_adapter(model)
        config: Any = self.inner.config
        self.vocabulary: int = config.get_text_config().vocab_size
        self.virtual_tokens = virtual_tokens(model)
        self.causal = _is_causal(self.inner)
        self.masked = not self.causal
        self.split = False
        if not self.virtual_tokens:
            self._try()

    def hidden(self, tile: Tile) -> Tensor:
        """[N, T, D] after the last layer and its norm."""
        hidden = self.before_head(tile, with_hidden=True)[1]
        assert hidden is not None
        return hidden

    def before_head(self, tile: Tile, *, with_hidden: bool) -> tuple[Tensor, Tensor | None]:
        """What goes into `head`: hidden states [N, T, D] where the model is `split`, else the logits [N, T, V] of its
        own forward pass; and the hidden states, where they are wanted or at hand."""
        if self.split:
            hidden: Tensor = self._body(tile.tokens_NT, **self._mask(tile))
            return hidden, hidden
        out = self.model(
            input_ids=tile.tokens_NT, output_hidden_states=with_hidden, use_cache=False, **self._mask(tile)
        )
        width = tile.tokens_NT.shape[1]  # virtual tokens of prompt tuning stand in front
        return out.logits[:, -width:], out.hidden_states[-1][:, -width:] if with_hidden else None

    def head(self, before_head_Q: Tensor) -> Tensor:
        """[Q, V]: logits of what `before_head` gave."""
        return self.inner.get_output_embeddings()(before_head_Q) if self.split else before_head_Q

    def _body(self, tokens_NT: Tensor, **mask: Tensor) -> Tensor:
        body = self.inner.base_model
        hidden: Tensor = body(input_ids=tokens_NT, use_cache=False, **mask).last_hidden_state
        return hidden

    def _mask(self, tile: Tile) -> dict[str, Tensor]:
        extra = {} if tile.segments_NT is None else {"token_type_ids": tile.segments_NT}
        if not (self.masked and tile.padded):
            return extra
        width = tile.tokens_NT.shape[1]
        mask = torch.arange(width)[None, :] < tile.lengths_N[:, None]
        return {"attention_mask": mask.long().to(tile.tokens_NT.device), **extra}

    @torch.no_grad()
    def _try(self) -> None:
        was_training = self.model.training
        self.model.eval()
        device = next(self.model.parameters()).device
        tokens = (torch.arange(2 * PROBE, device=device) * 7 % self.vocabulary).view(2, PROBE)
        plain = self.model(input_ids=tokens, use_cache=False).logits
        if self.causal:
            shorter = self.model(input_ids=tokens[:, : PROBE - 3], use_cache=False).logits
            self.masked = not _same(shorter, plain[:, : PROBE - 3])
        try:
            split = self.inner.get_output_embeddings()(self._body(tokens))
            self.split = split.shape == plain.shape and _same(split, plain)
        except (AttributeError, TypeError, RuntimeError):
            self.split = False  # no such parts in this architecture: the plain pass is always there
        self.model.train(was_training)


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one.float(), other.float(), rtol=1e-3, atol=1e-4 * float(other.abs().max().clamp(min=1)))


def without_adapter(model: nn.Module) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]


def virtual_tokens(model: nn.Module) -> int:
    configs: Any = getattr(model, "peft_config", None) or {}
    return max((getattr(config, "num_virtual_tokens", 0) or 0 for config in configs.values()), default=0)


def _is_causal(model: Any) -> bool:
    name = type(model).__name__
    return name.endswith(("ForCausalLM", "LMHeadModel")) or bool(getattr(model.config, "is_decoder", False))


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The list of layers: the longest of the model's lists that stand in no other list (experts stand in layers)."""
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [found for name, found in lists.items() if not any(name.startswith(f"{other}.") for other in lists)]
    if not outer:
        raise ValueError(f"{type(model).__name__} has no list of layers")
    return max(outer, key=len)
