"""Rows that are decoded together, and what the model remembers of them.

Rows are padded on the left, so that all grow at the same end. Padding is masked and positions count real tokens, so
each row is computed as if it were alone (to rounding). Where the cache is plain keys and values, cohorts are merged
into one and columns that have become padding for every row are cut; other memories (recurrent states, indexes) stay
as they were prefilled, and their rows must be of one length.

N rows, T columns, V vocabulary.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tomoni.engine.forward import virtual_tokens, without_adapter


class Decoder:
    """A causal model as two verbs: prefill a cohort, and give each of its rows a token."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._inner: Any = without_adapter(model)
        self.virtual_tokens = virtual_tokens(model)
        self.vocabulary: int = self._inner.config.get_text_config().vocab_size
        kinds = {type(layer) for layer in self._new_cache().layers}
        self.mergeable = kinds <= {DynamicLayer, DynamicSlidingWindowLayer}
        accepted = inspect.signature(self._inner.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._positions = "position_ids" in accepted

    @property
    def pads(self) -> bool:
        """Whether rows of different lengths can be prefilled together."""
        return self.mergeable and self._positions and not self.virtual_tokens

    @property
    def device(self) -> torch.device:
        found: torch.device = next(self._inner.parameters()).device
        return found

    def prefill(self, prompts: list[list[int]]) -> tuple[Cohort, Tensor]:
        """The cohort of these prompts and the logits [N, V] after each."""
        width = max(map(len, prompts))
        tokens_NT = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        lengths_N1 = torch.tensor([[len(prompt)] for prompt in prompts])
        mask_NT = (torch.arange(width)[None, :] >= width - lengths_N1).long()
        cache = self._new_cache()
        tokens_NT, mask_NT = tokens_NT.to(self.device), mask_NT.to(self.device)
        positions = {} if self.virtual_tokens else self._position_ids(mask_NT)
        logits_NTV: Tensor = self.model(
            input_ids=tokens_NT,
            attention_mask=mask_NT,
            past_key_values=cache,
            use_cache=True,
            **positions,
            **self._last_only,
        ).logits
        mask_NT = pad(
            mask_NT, (self.virtual_tokens, 0), value=1
        )  # of prompt tuning: they stand in the cache from here on
        return Cohort(cache, mask_NT), logits_NTV[:, -1]

    def decode(self, cohort: Cohort, tokens: list[int]) -> Tensor:
        """Logits [N, V] after each row's next token."""
        cohort.mask_NT = pad(cohort.mask_NT, (0, 1), value=1)
        tokens_N1 = torch.tensor(tokens, device=self.device)[:, None]
        positions = self._position_ids(cohort.mask_NT)
        # an adapter in the layers acts here too; the virtual tokens of prompt tuning must not be given again
        model = self._inner if self.virtual_tokens else self.model
        logits_NTV: Tensor = model(
            input_ids=tokens_N1,
            attention_mask=cohort.mask_NT,
            past_key_values=cohort.cache,
            use_cache=True,
            **{name: ids[:, -1:] for name, ids in positions.items()},
            **self._last_only,
        ).logits
        return logits_NTV[:, -1]

    def _position_ids(self, mask_NT: Tensor) -> dict[str, Tensor]:
        return {"position_ids": (mask_NT.cumsum(-1) - 1).clamp(min=0)} if self._positions else {}

    def _new_cache(self) -> DynamicCache:
        return DynamicCache(config=self._inner.config)


class Cohort:
    """What the model remembers of N rows: its cache, and a mask [N, T] that is 0 where a row has padding."""

    def __init__(self, cache: DynamicCache, mask_NT: Tensor) -> None:
        self.cache = cache
        self.mask_NT = mask_NT

    def select(self, rows: list[int]) -> None:
        """Keep these rows, in this order; a row may be named twice."""
        if rows == list(range(len(self.mask_NT))):
            return
        index = torch.tensor(rows, device=self.mask_NT.device)
        self.cache.batch_select_indices(index)
        self.mask_NT = self.mask_NT[index]

    def trim(self) -> None:
        """Cut the columns that are padding in every row. Only where the decoder is `mergeable`."""
        spare = int(self.mask_NT.any(0).long().argmax())
        if spare == 0:
            return
        self.mask_NT = self.mask_NT[:, spare:]
        self._stretch(self.mask_NT.shape[1])

    def merge(self, other: Cohort) -> None:
        """Append the rows of `other`. Only where the decoder is `mergeable`; `other` is used up."""
        width = max(self.mask_NT.shape[1], other.mask_NT.shape[1])
        for cohort in (self, other):
            cohort.mask_NT = pad(cohort.mask_NT, (width - cohort.mask_NT.shape[1], 0))
            cohort._stretch(width)
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            if mine.is_initialized:
                mine.keys = torch.cat([mine.keys, theirs.keys])
                mine.values = torch.cat([mine.values, theirs.values])
        self.mask_NT = torch.cat([self.mask_NT, other.mask_NT])

    def _stretch(self, width: int) -> None:
        """Cut or pad on the left what each layer holds, as if the rows had been `width` columns from the start."""
        for layer in self.cache.layers:
            if not layer.is_initialized:  # a layer that shares another's keys
                continue
            kept = width
            if isinstance(layer, DynamicSlidingWindowLayer):
                kept = min(width, layer.sliding_window - 1)
                layer.cumulative_length = width
            missing = kept - layer.keys.shape[-2]
            layer.keys = pad(layer.keys, (0, 0, missing, 0))  # a negative amount cuts
            layer.values = pad(layer.values, (0, 0, missing, 0))
