"""A transformers model seen as body and head, so that the head need only run where something is trained.

Whether an architecture allows that (and needs no mask for right padding) is not assumed but tried once on a few
tokens against the model's own forward pass; where it differs, the plain forward pass is used. The same holds for the
decoder of our own that stands in for the body of Llama-like models on a CPU (`flat`).
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tomoni.engine import blueprint, cutting, flat, flatencoder
from tomoni.engine.batch import LAUNCHING_COST, RECTANGLE_COST, Entering, MicroBatch, Tile
from tomoni.engine.encoderparts import LONGEST
from tomoni.engine.flat import FlatDecoder
from tomoni.engine.flatencoder import FlatEncoder
from tomoni.engine.head import Head
from tomoni.rows import Item, Row

PROBE = 7  # tokens of the trial; enough to see a window, a shift or a scaled logit


@dataclass(frozen=True)
class ScoreHead:
    """A linear head on hidden states: one output per row (pooled) or per trained position. It learns at `times` the rate
    of the other weights. Without `bias` where the saved form has no place for one."""

    size: int
    per: Literal["row", "token"] = "row"
    pool: Literal["last", "mean", "first"] = "last"
    times: float = 1.0
    bias: bool = True


class Forward:
    """`causal`: positions are predicted from the ones before. `split`: body and head run apart. `masked`: padding needs
    an attention mask. `flat`: our own decoder, where the model is one that it can stand in for.

    What runs in another type than the weights' (autocast) is not for `flat`; `refresh` comes before work with weights
    that may have changed.
    """

    def __init__(self, model: nn.Module, *, own_type: bool = True, keep_no_activations: bool = False) -> None:
        self.model = model
        self.inner = without_adapter(model)
        config: Any = self.inner.config
        self.vocabulary: int = config.get_text_config().vocab_size
        self.virtual_tokens = virtual_tokens(model)
        self.causal = _is_causal(self.inner)
        self.masked = not self.causal
        self.split = False
        self._head: Head | None = None  # of a split model; None of a body alone
        self.takes_segments = _takes_segments(self.inner)
        self.flat: FlatDecoder | None = None
        self.encoder: FlatEncoder | None = None  # the same for encoders
        self._cut = threading.Lock()  # held while the model runs without some of its layers
        if not self.virtual_tokens:
            self._try(own_type, keep_no_activations)

    @property
    def head(self) -> Head:
        """[Q, D] or what else comes `before_head` -> logits [Q, V]."""
        return self._head if self.split and self._head is not None else _as_it_is

    @property
    def predicts_tokens(self) -> bool:
        """Whether there is a head over the vocabulary; a body alone has none."""
        return not self.split or self._head is not None

    @property
    def rectangle_cost(self) -> int:
        """Of one more rectangle in a micro-batch, in tokens."""
        if self.flat is not None or self.encoder is not None:
            return flat.RECTANGLE_COST if self.flat is not None else flatencoder.RECTANGLE_COST
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        return RECTANGLE_COST if on_cpu else LAUNCHING_COST

    def can_share(self, rows: Sequence[Row]) -> bool:
        """Whether a prompt that some of these rows have in common can be computed once."""
        if self.flat is None:
            return False
        window = self.flat.blueprint.window
        return window is None or max(map(len, rows)) <= window

    def lasts(self, batch: MicroBatch) -> Tensor:
        """[N, D] after the last layer and its norm, at each row's last token."""
        ends: list[Tensor] = []
        order: list[int] = []
        start = 0
        for tile in batch.tiles:
            width = tile.tokens_NT.shape[1]
            if tile.rows:
                ends.append(start + torch.arange(len(tile.rows)) * width + tile.lengths_N - 1)
                order += tile.rows
            start += tile.tokens_NT.numel()
        at_N = torch.cat(ends)[torch.argsort(torch.tensor(order))].to(batch.tiles[0].tokens_NT.device)
        if self.flat is not None and self.flat.fits(batch.tiles):
            return self.flat.hidden(batch.tiles, at_P=at_N)
        _, hidden = self.before_head(batch.tiles, with_hidden=True)
        return torch.cat([states.flatten(0, 1) for states in hidden])[at_N]

    def firsts(self, batch: MicroBatch) -> Tensor:
        """[N, D] after the last layer, at each row's first token."""
        tiles = [tile for tile in batch.tiles if tile.rows]
        order = torch.argsort(torch.tensor([index for tile in tiles for index in tile.rows]))
        if self.encoder is not None and self.encoder.fits(tiles):
            return self.encoder.firsts(tiles)[order.to(tiles[0].tokens_NT.device)]
        _, hidden = self.before_head(tiles, with_hidden=True)
        return torch.cat([states[:, 0] for states in hidden])[order.to(hidden[0].device)]

    def refresh(self) -> None:
        if self.flat is not None:
            self.flat.refresh()

    def lanes(self, items: Sequence[Item], *, autocast: bool) -> int:
        """How many passes over these items may run side by side: as many as there are threads, where nothing is drawn
        from the one generator that threads share."""
        apart = self.flat is not None  # models without dropout
        if not apart and self.encoder is not None and not autocast:
            longest = max((len(row) for item in items for row in item.rows), default=0)
            apart = longest <= LONGEST and self.encoder.draws_by_keys
        return torch.get_num_threads() if apart else 1

    def hidden(self, tile: Tile) -> Tensor:
        """[N, T, D] after the last layer and its norm."""
        (hidden,) = self.before_head([tile], with_hidden=True)[1]
        return hidden

    def trained(self, batch: MicroBatch, *, with_hidden: bool) -> tuple[Tensor, list[Tensor]]:
        """What goes into `head` at the batch's trained positions, in their flat order P; and the tiles' hidden states
        [N, T, D], where they are wanted."""
        if self.flat is not None and not with_hidden and self.flat.fits(batch.tiles):
            return self.flat.hidden(batch.tiles, at_P=_flat_sources(batch)), []
        before_head, hidden = self.before_head(batch.tiles, with_hidden=with_hidden)
        parts = [states.flatten(0, 1)[tile.source_Q] for states, tile in zip(before_head, batch.tiles, strict=True)]
        return in_order(parts, batch), hidden

    def before_head(self, tiles: Sequence[Tile], *, with_hidden: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Per tile what goes into `head`: hidden states [N, T, D] where the model is `split`, else the logits [N, T, V]
        of its own forward pass; and the hidden states, where they are wanted."""
        if self.split:
            hidden = self._hidden(tiles)
            return hidden, hidden if with_hidden else []
        logits, states = [], []
        for tile in tiles:
            with self._above(tile):
                out = self.model(
                    input_ids=tile.tokens_NT, output_hidden_states=with_hidden, use_cache=False, **self._mask(tile)
                )
            width = tile.tokens_NT.shape[1]  # virtual tokens of prompt tuning stand in front
            logits.append(out.logits[:, -width:])
            if with_hidden:
                states.append(out.hidden_states[-1][:, -width:])
        return logits, states

    def _hidden(self, tiles: Sequence[Tile]) -> list[Tensor]:
        if self.encoder is not None and self.encoder.fits(tiles):
            return self.encoder.hidden(tiles)
        if self.flat is None or not self.flat.fits(tiles):
            return [self._body_of(tile) for tile in tiles]
        parts = self.flat.hidden(tiles).split([tile.tokens_NT.numel() for tile in tiles])
        return [part.unflatten(0, tuple(tile.tokens_NT.shape)) for part, tile in zip(parts, tiles, strict=True)]

    def lowest(self, count: int, tile: Tile) -> Entering:
        """What comes out of the lowest `count` layers [N, T, D], as the model's own code runs them."""
        with self._cut:
            return cutting.lowest(
                list(decoder_layers(self.model)),
                count,
                lambda: self.model(input_ids=tile.tokens_NT, use_cache=False, **self._mask(tile)),
            )

    @contextlib.contextmanager
    def _above(self, tile: Tile) -> Iterator[None]:
        """The model runs the layers that the tile's states have not been through."""
        if tile.entering is None:
            yield
            return
        with self._cut, cutting.without_lowest(list(decoder_layers(self.model)), tile.entering):
            yield

    def _body_of(self, tile: Tile) -> Tensor:
        with self._above(tile):
            return self._body(tile.tokens_NT, **self._mask(tile))

    def _body(self, tokens_NT: Tensor, **mask: Tensor) -> Tensor:
        body = self.inner.base_model
        cache = {"use_cache": False} if self.causal else {}
        hidden: Tensor = body(input_ids=tokens_NT, **cache, **mask).last_hidden_state
        return hidden

    def _mask(self, tile: Tile) -> dict[str, Tensor]:
        segments = tile.segments_NT if self.takes_segments else None
        extra = {} if segments is None else {"token_type_ids": segments}
        if not (self.masked and tile.padded):
            return extra
        width = tile.tokens_NT.shape[1]
        mask = torch.arange(width)[None, :] < tile.lengths_N[:, None]
        return {"attention_mask": mask.long().to(tile.tokens_NT.device), **extra}

    def _try(self, own_type: bool, keep_no_activations: bool) -> None:
        with torch.no_grad(), in_eval_mode(self.model):
            self._try_each(own_type, keep_no_activations)

    def _try_each(self, own_type: bool, keep_no_activations: bool) -> None:
        device = next(self.model.parameters()).device
        tokens = (torch.arange(2 * PROBE, device=device) * 7 % self.vocabulary).view(2, PROBE)
        out = self.model(input_ids=tokens) if not self.causal else self.model(input_ids=tokens, use_cache=False)
        if not hasattr(out, "logits"):  # a body without a head: what is asked of it are scores
            self.split = True
            self._try_encoder(own_type, keep_no_activations)
            return
        plain = out.logits
        if self.causal:
            shorter = self.model(input_ids=tokens[:, : PROBE - 3], use_cache=False).logits
            self.masked = not same(shorter, plain[:, : PROBE - 3])
        for head in _heads(self.inner):
            try:
                split = head(self._body(tokens))
            except (AttributeError, TypeError, RuntimeError):
                continue  # no such parts in this architecture: the plain pass is always there
            if split.shape == plain.shape and same(split, plain):
                self.split, self._head = True, head
                break
        if self.split and not self.causal:
            self._try_encoder(own_type, keep_no_activations)
        elif self.split and own_type and not self.masked:
            self._try_flat(tokens, keep_no_activations)

    def _try_encoder(self, own_type: bool, keep_no_activations: bool) -> None:
        """On rows of two lengths, and two segments where the model knows them. Not where activations are computed again:
        the model's own code does that."""
        encoder = flatencoder.read(self.inner) if own_type and not keep_no_activations else None
        if encoder is None:
            return
        device = next(self.model.parameters()).device
        tokens = ((torch.arange(2 * PROBE, device=device) * 7 + 1) % self.vocabulary).view(2, PROBE)
        segments = (torch.arange(PROBE, device=device) > 3).long().expand(2, -1).contiguous()
        tile = replace(trial_tile(tokens, [PROBE, PROBE - 2]), segments_NT=segments if self.takes_segments else None)
        expected = self._body_of(tile)
        try:
            (found,) = encoder.hidden([tile])
            firsts = encoder.firsts([tile])
        except (AttributeError, TypeError, RuntimeError):
            return  # an architecture that only looks like BERT
        alike = all(same(found[row, :length], expected[row, :length]) for row, length in enumerate((PROBE, PROBE - 2)))
        if alike and same(firsts, expected[:, 0]):
            self.encoder = encoder

    def _try_flat(self, tokens_NT: Tensor, keep_no_activations: bool) -> None:
        weights = list(self.inner.parameters())
        if any(weight.device.type != "cpu" or weight.dtype != torch.float32 for weight in weights):
            return  # on an accelerator PyTorch's own kernels are the faster ones
        plan = blueprint.read(self.inner)
        if plan is None:
            return
        decoder = FlatDecoder(plan, keep_no_activations=keep_no_activations)
        decoder.refresh()
        rows, length = tokens_NT.shape
        tile = trial_tile(tokens_NT, [length] * rows)
        if same(decoder.hidden([tile]).view(rows, length, -1), self._body(tokens_NT)):
            self.flat = decoder


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Meanwhile no part of the model is in training mode; afterwards each is in its own mode again."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def trial_tile(tokens_NT: Tensor, lengths: Sequence[int]) -> Tile:
    """Tokens as a rectangle of which every position is looked at."""
    every = torch.arange(tokens_NT.numel(), device=tokens_NT.device)
    return Tile(tuple(range(len(tokens_NT))), tokens_NT, torch.tensor(lengths), None, every, every)


def in_order(parts: Sequence[Tensor], batch: MicroBatch) -> Tensor:
    """The tiles' trained positions in the micro-batch's flat order P."""
    stacked = torch.cat(list(parts))
    if len(batch.tiles) == 1 and batch.tiles[0].rows == tuple(range(len(batch.tiles[0].rows))):
        return stacked
    return stacked[torch.argsort(torch.cat([tile.place_Q for tile in batch.tiles]))]


def _flat_sources(batch: MicroBatch) -> Tensor:
    """int64 [P]: where among all tiles' tokens, one tile after another, each trained position is predicted from."""
    starts = [0]
    for tile in batch.tiles:
        starts.append(starts[-1] + tile.tokens_NT.numel())
    sources = [tile.source_Q + start for tile, start in zip(batch.tiles, starts, strict=False)]
    return in_order(sources, batch)


def _as_it_is(before_head_Q: Tensor) -> Tensor:
    return before_head_Q


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two ways of computing differ by no more than rounding."""
    return torch.allclose(one.float(), other.float(), rtol=1e-3, atol=1e-4 * float(other.abs().max().clamp(min=1)))


def _heads(model: Any) -> Iterator[Head]:
    """What may stand behind the body: the output layer alone, or with what comes before it in masked models (Devlin et
    al. 2019, appendix: a dense layer and a norm)."""
    if (output := model.get_output_embeddings()) is not None:
        yield output
    for name in ("cls", "lm_head", "predictions"):
        part = getattr(model, name, None)
        if isinstance(part, nn.Module) and part is not output:
            yield part
    if hasattr(model, "generator_predictions"):  # ELECTRA
        yield lambda hidden: model.generator_lm_head(model.generator_predictions(hidden))
    if hasattr(model, "vocab_transform"):  # DistilBERT
        yield lambda hidden: model.vocab_projector(
            model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
        )
    if hasattr(model, "head") and hasattr(model, "decoder"):  # ModernBERT
        yield lambda hidden: model.decoder(model.head(hidden))


def _takes_segments(model: Any) -> bool:
    """Whether the model tells two segments apart."""
    body = getattr(model, "base_model", model)
    takes = "token_type_ids" in inspect.signature(body.forward).parameters
    return takes and getattr(model.config, "type_vocab_size", 0) > 1


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
