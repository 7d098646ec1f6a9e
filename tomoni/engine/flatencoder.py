"""BERT's layers over all tokens of a micro-batch at once: no padding but in attention, and the last layer only where it is
read.

The layers are the model's own modules (so adapters, dropout and what is trained are theirs); only the order of work is
ours. Products see one long list of tokens instead of a rectangle for every length, and of a text that is read at its
first token the last layer computes that token alone. Where the modules are plain ones, in float32 on a CPU, what stands
between the products is done by `encoderparts`. Whether it gives what the model gives is tried once (`forward`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tomoni.engine import encoderparts
from tomoni.engine.batch import Tile
from tomoni.engine.dropout import KeyedDropout, draw
from tomoni.engine.encoderparts import Attend, FeedAddNorm, Project, ProjectAddNorm, Texts, attend_once
from tomoni.engine.kernels import library
from tomoni.engine.rowwise import layer as rowwise_layer

# padding costs attention only, and one more rectangle a call of it in every layer
RECTANGLE_COST = 256


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer's modules. Norms come after each part's sum (Vaswani et al. 2017)."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    out: nn.Module
    out_dropout: nn.Dropout
    attention_dropout: nn.Dropout
    attention_norm: nn.Module
    up: nn.Module
    act: nn.Module
    down: nn.Module
    down_dropout: nn.Dropout
    norm: nn.Module

    @property
    def plain(self) -> bool:
        """Whether `encoderparts` may do what these modules do: as they came, with nothing hooked to them."""
        products = (self.query, self.key, self.value, self.out, self.up, self.down)
        norms = (self.attention_norm, self.norm)
        return (
            all(type(module) is nn.Linear and module.bias is not None and _is_full(module) for module in products)
            and all(type(module) is nn.LayerNorm and module.elementwise_affine and _is_full(module) for module in norms)
            and type(self.act).__name__ == "GELUActivation"  # transformers' exact one
            and all(dropout.p < 1 for dropout in (self.attention_dropout, self.out_dropout, self.down_dropout))
            and not any(_hooked(module) for module in (*products, *norms, self.act))
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tile's rows stand in the list of all tokens: [start, end), and in its rectangle (None: everywhere)."""

    rows: int
    width: int
    start: int
    end: int
    real_Q: Tensor | None
    mask_N11T: Tensor | None
    first_N: Tensor  # each row's first token in the list
    lengths_N: Tensor


class FlatEncoder:
    def __init__(self, model: Any, layers: Sequence[_Layer], heads: int) -> None:
        self.model = model
        self.layers = tuple(layers)
        self.heads = heads
        dropout = getattr(model.embeddings, "dropout", None)
        if type(dropout) is nn.Dropout:
            model.embeddings.dropout = KeyedDropout(dropout.p).train(dropout.training)

    @cached_property
    def draws_by_keys(self) -> bool:
        """Whether all that training draws is drawn by `dropout.keyed`, for texts of up to `encoderparts.LONGEST` tokens."""
        known = [getattr(self.model.embeddings, "dropout", None)]
        for layer in self.layers:
            known += [layer.attention_dropout, layer.out_dropout, layer.down_dropout]
        ours = {id(dropout) for dropout in known}
        drawing = (module for module in self.model.modules() if isinstance(module, nn.modules.dropout._DropoutNd))
        plain = all(layer.plain for layer in self.layers) and _is_full(self.model) and library() is not None
        return plain and all(id(module) in ours or module.p == 0 for module in drawing)

    def fits(self, tiles: Sequence[Tile]) -> bool:
        """All tiles begin at the same layer."""
        return len({None if tile.entering is None else tile.entering.layer for tile in tiles}) == 1

    def hidden(self, tiles: Sequence[Tile]) -> list[Tensor]:
        """[N, T, D] of each tile, 0 where there is no token."""
        places = _places(tiles)
        x_QD, first = self._entering(tiles, places)
        texts = self._texts(places)
        for layer in self.layers[first:]:
            x_QD = self._layer(layer, x_QD, places, texts)
        return [_padded(x_QD[place.start : place.end], place) for place in places]

    def lowest(self, count: int, tiles: Sequence[Tile], *, rowwise: bool) -> list[Tensor]:
        """[N, T, D] of each tile after the lowest `count` layers, which nothing is dropped in; no gradients.

        `rowwise` (only where `is_rowwise`): no bit of a text depends on another, nor on the number of cores.
        """
        places = _places(tiles)
        x_QD, first = self._entering(tiles, places)
        texts = self._texts(places)
        for layer in self.layers[first:count]:
            if rowwise and texts is not None:
                x_QD = rowwise_layer(layer, x_QD, texts)
            else:
                x_QD = self._layer(layer, x_QD, places, texts)
        return [_padded(x_QD[place.start : place.end], place) for place in places]

    def is_rowwise(self, count: int) -> bool:
        """Whether the lowest `count` layers can be computed text by text to the bit, over texts of up to
        `encoderparts.LONGEST` tokens at once."""
        plain = all(layer.plain for layer in self.layers[:count])
        projected = getattr(self.model, "embeddings_project", None) is not None
        return plain and library() is not None and _is_full(self.model.embeddings) and not projected

    def firsts(self, tiles: Sequence[Tile]) -> Tensor:
        """[N, D] of each row's first token, in the order of the tiles' rows."""
        places = _places(tiles)
        x_QD, first = self._entering(tiles, places)
        texts = self._texts(places)
        for layer in self.layers[first:-1]:
            x_QD = self._layer(layer, x_QD, places, texts)
        if first == len(self.layers):
            return x_QD[torch.cat([place.first_N for place in places])]
        return self._last(self.layers[-1], x_QD, places, texts)

    def _texts(self, places: Sequence[_Place]) -> Texts | None:
        """Where texts begin and end, where `encoderparts` can do the work between the products."""
        if places[0].lengths_N.device.type != "cpu" or torch.is_autocast_enabled("cpu") or library() is None:
            return None
        lengths = torch.cat([place.lengths_N for place in places])
        if int(lengths.max()) > encoderparts.LONGEST:
            return None
        starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        return Texts(starts, starts, self.heads)

    def _entering(self, tiles: Sequence[Tile], places: Sequence[_Place]) -> tuple[Tensor, int]:
        entering = tiles[0].entering
        if entering is None:
            return self._embedded(tiles, places), 0
        states = [
            _real(tile.entering.states_NTD, place) for tile, place in zip(tiles, places, strict=True) if tile.entering
        ]
        return torch.cat(states), entering.layer

    def _embedded(self, tiles: Sequence[Tile], places: Sequence[_Place]) -> Tensor:
        """By the model's own embeddings, whose positions begin where its architecture says."""
        embeddings: Any = self.model.embeddings
        parts = []
        for tile, place in zip(tiles, places, strict=True):
            given: dict[str, Any] = {}
            if _tells_segments(embeddings) and tile.segments_NT is not None:
                given["token_type_ids"] = tile.segments_NT
            parts.append(_real(embeddings(input_ids=_without_padding(tile, embeddings), **given), place))
        x_QD = torch.cat(parts)
        project = getattr(self.model, "embeddings_project", None)
        return x_QD if project is None else project(x_QD)

    def _layer(self, layer: _Layer, x_QD: Tensor, places: Sequence[_Place], texts: Texts | None) -> Tensor:
        if texts is not None and layer.plain:
            return _fused(layer, x_QD, x_QD, texts)
        query_QD, key_QD, value_QD = layer.query(x_QD), layer.key(x_QD), layer.value(x_QD)
        seen = []
        for place in places:
            q, k, v = (self._by_head(one[place.start : place.end], place) for one in (query_QD, key_QD, value_QD))
            seen.append(_real(self._attended(layer, q, k, v, place.mask_N11T), place))
        return self._rest(layer, x_QD, torch.cat(seen) if len(seen) > 1 else seen[0])

    def _last(self, layer: _Layer, x_QD: Tensor, places: Sequence[_Place], texts: Texts | None) -> Tensor:
        first_N = torch.cat([place.first_N for place in places])
        x_ND = x_QD[first_N]
        if texts is not None and layer.plain:
            return _fused(layer, x_ND, x_QD, texts)
        query_ND, key_QD, value_QD = layer.query(x_ND), layer.key(x_QD), layer.value(x_QD)
        seen, row = [], 0
        for place in places:
            q_NhTd = query_ND[row : row + place.rows].view(place.rows, 1, self.heads, -1).transpose(1, 2)
            k, v = (self._by_head(one[place.start : place.end], place) for one in (key_QD, value_QD))
            seen.append(self._attended(layer, q_NhTd, k, v, place.mask_N11T)[:, 0])
            row += place.rows
        return self._rest(layer, x_ND, torch.cat(seen))

    def _rest(self, layer: _Layer, x_QD: Tensor, seen_QD: Tensor) -> Tensor:
        x_QD = layer.attention_norm(_dropped(layer.out(seen_QD), layer.out_dropout) + x_QD)
        fed_QD = layer.down(layer.act(layer.up(x_QD)))
        normed: Tensor = layer.norm(_dropped(fed_QD, layer.down_dropout) + x_QD)
        return normed

    def _by_head(self, part_QD: Tensor, place: _Place) -> Tensor:
        return _padded(part_QD, place).view(place.rows, place.width, self.heads, -1).transpose(1, 2)

    def _attended(self, layer: _Layer, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        dropout = layer.attention_dropout
        p = dropout.p if dropout.training else 0.0
        seen_NhTd = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
        return seen_NhTd.transpose(1, 2).flatten(2)


def read(model: Any) -> FlatEncoder | None:
    """The layers of a BERT or one of its nearest relatives by their names in transformers; None for any other model."""
    body = getattr(model, "base_model", model)
    config = body.config
    try:
        if config.model_type in ("bert", "roberta", "xlm-roberta", "camembert", "electra"):
            if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
                return None
            return FlatEncoder(body, [_bert(layer) for layer in body.encoder.layer], config.num_attention_heads)
        if config.model_type == "distilbert":
            return FlatEncoder(body, [_distilbert(layer) for layer in body.transformer.layer], config.n_heads)
    except AttributeError:
        return None
    return None


def _bert(layer: Any) -> _Layer:
    attention, out = layer.attention.self, layer.attention.output
    return _Layer(
        query=attention.query, key=attention.key, value=attention.value,
        out=out.dense, out_dropout=out.dropout, attention_dropout=attention.dropout, attention_norm=out.LayerNorm,
        up=layer.intermediate.dense, act=layer.intermediate.intermediate_act_fn,
        down=layer.output.dense, down_dropout=layer.output.dropout, norm=layer.output.LayerNorm,
    )  # fmt: skip


def _distilbert(layer: Any) -> _Layer:
    attention, fed = layer.attention, layer.ffn
    none = nn.Dropout(0.0)
    return _Layer(
        query=attention.q_lin, key=attention.k_lin, value=attention.v_lin,
        out=attention.out_lin, out_dropout=none, attention_dropout=attention.dropout, attention_norm=layer.sa_layer_norm,
        up=fed.lin1, act=fed.activation, down=fed.lin2, down_dropout=fed.dropout, norm=layer.output_layer_norm,
    )  # fmt: skip


def _fused(layer: Any, x_AD: Tensor, x_QD: Tensor, texts: Texts) -> Tensor:
    """The layer at the tokens that see, x_AD, which see x_QD: the same ones, or the first of each text."""
    leaves = [leaf for part in (layer.query, layer.key, layer.value) for leaf in (part.weight, part.bias)]
    drawn = draw(layer.attention_dropout)
    if x_AD is x_QD:
        projected = Project.apply(x_QD, *leaves)  # type: ignore[no-untyped-call]
        seen_AD = Attend.apply(texts, drawn, *projected)  # type: ignore[no-untyped-call]
    else:
        (query_AD,) = Project.apply(x_AD, *leaves[:2])  # type: ignore[no-untyped-call]
        seen_AD = attend_once(texts, drawn, query_AD, x_QD, layer.key, layer.value)
    norm, out, drawn = layer.attention_norm, layer.out, draw(layer.out_dropout)
    parts: tuple[Tensor, ...] = (out.weight, out.bias, norm.weight, norm.bias)
    x_AD = ProjectAddNorm.apply(drawn, norm.eps, seen_AD, x_AD, *parts)  # type: ignore[no-untyped-call]
    up, down, norm, drawn = layer.up, layer.down, layer.norm, draw(layer.down_dropout)
    parts = (up.weight, up.bias, down.weight, down.bias, norm.weight, norm.bias)
    fed: Tensor = FeedAddNorm.apply(drawn, norm.eps, x_AD, *parts)  # type: ignore[no-untyped-call]
    return fed


def _is_full(module: nn.Module) -> bool:
    return all(weight.dtype == torch.float32 and weight.device.type == "cpu" for weight in module.parameters())


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _dropped(x: Tensor, dropout: nn.Dropout) -> Tensor:
    return functional.dropout(x, dropout.p) if dropout.training and dropout.p > 0 else x


def _places(tiles: Sequence[Tile]) -> list[_Place]:
    places, start = [], 0
    for tile in tiles:
        rows, width = tile.tokens_NT.shape
        device = tile.tokens_NT.device
        lengths_N = tile.lengths_N.to(device)
        count = int(lengths_N.sum())
        first_N = start + torch.cumsum(lengths_N, 0) - lengths_N
        real_Q = mask = None
        if tile.padded:
            real_NT = torch.arange(width, device=device)[None] < lengths_N[:, None]
            real_Q, mask = real_NT.flatten().nonzero().squeeze(1), real_NT[:, None, None, :]
        places.append(_Place(rows, width, start, start + count, real_Q, mask, first_N, lengths_N))
        start += count
    return places


def _padded(part_QD: Tensor, place: _Place) -> Tensor:
    """[N, T, D] of a tile's tokens."""
    if place.real_Q is None:
        return part_QD.view(place.rows, place.width, -1)
    padded = part_QD.new_zeros(place.rows * place.width, part_QD.shape[1]).index_copy(0, place.real_Q, part_QD)
    return padded.view(place.rows, place.width, -1)


def _real(states_NTD: Tensor, place: _Place) -> Tensor:
    flat = states_NTD.flatten(0, 1)
    return flat if place.real_Q is None else flat.index_select(0, place.real_Q)


def _without_padding(tile: Tile, embeddings: Any) -> Tensor:
    """RoBERTa counts positions over all tokens but the padding one; a tile is padded with 0, which may be a real token."""
    padding = getattr(embeddings, "padding_idx", None)
    if padding is None or not tile.padded:
        return tile.tokens_NT
    width = tile.tokens_NT.shape[1]
    real_NT = (
        torch.arange(width, device=tile.tokens_NT.device)[None] < tile.lengths_N.to(tile.tokens_NT.device)[:, None]
    )
    return tile.tokens_NT.masked_fill(~real_NT, padding)


def _tells_segments(embeddings: Any) -> bool:
    table = getattr(embeddings, "token_type_embeddings", None)
    return table is not None and table.num_embeddings > 1
