"""A decoder for answers: the layers of a Llama-like model for a few tokens at a time.

Keys and values stand in `Slots`. The weights are copies, made by `refresh` and laid out for few rows. What runs them is C
where there is a compiler (`compiled`), else PyTorch (`torchlayers`).

N tokens, P of which logits are wanted, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tomoni.engine import blueprint
from tomoni.engine.blueprint import Blueprint
from tomoni.engine.compiled import compiled_layers
from tomoni.engine.forward import in_eval_mode, virtual_tokens, without_adapter
from tomoni.engine.matrices import Weights
from tomoni.engine.slots import Piece, SlotRow, Slots
from tomoni.engine.torchlayers import TorchLayers

PROBE = (11, 3)  # tokens of the trial's two rows


class SlotDecoder:
    """Prompts by `extend`, then a token a row by `decode`."""

    virtual_tokens = 0

    def __init__(self, model: nn.Module, plan: Blueprint, weights: Weights) -> None:
        self.model, self.weights = model, weights
        inner: Any = without_adapter(model)
        self.vocabulary: int = inner.config.get_text_config().vocab_size
        self._state: tuple[tuple[int, int], ...] = ()
        self._known = len(plan.embedding.weight)
        self.slots = Slots(len(plan.layers), 2 * plan.kv_heads, plan.head_dim)
        self._layers = compiled_layers(inner, plan, weights, self.slots) or TorchLayers(
            inner, plan, weights, self.slots
        )
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take up weights that have changed since. Not while rows are remembered: their keys are the old weights'."""
        state = tuple((weight.data_ptr(), weight._version) for weight in self.model.parameters())
        if state == self._state:
            return
        self._layers.refresh()
        self._state = state

    @torch.no_grad()
    def extend(self, pieces: Sequence[Piece], *, every: bool = False) -> Tensor:
        """Compute the pieces; the logits [P, V] behind those that are a prompt's end, in their order, or behind `every`
        token."""
        ends, count = [], 0
        self._check([token for piece in pieces for token in piece.tokens], [piece.positions.stop for piece in pieces])
        if len({piece.row.slot for piece in pieces}) < len(pieces):
            raise ValueError("two pieces of one row; the second would not see the first")
        for piece in pieces:
            count += len(piece.tokens)
            if piece.last:
                ends.append(count - 1)
        out_PV = self._layers.extend(pieces, None if every else ends)
        for piece in pieces:
            piece.row.length += len(piece.tokens)
        return out_PV

    @torch.no_grad()
    def decode(self, rows: Sequence[SlotRow], tokens: Sequence[int]) -> Tensor:
        """The logits [N, V] behind each row's next token."""
        longest = max(row.length for row in rows) + 1
        self.slots.reserve(longest)
        self._check(tokens, [longest])
        out_NV = self._layers.decode(rows, tokens)
        for row in rows:
            row.length += 1
        return out_NV

    def _check(self, tokens: Sequence[int], lengths: Sequence[int]) -> None:
        """What runs the layers reads and writes where it is told to."""
        if not 0 <= min(tokens) <= max(tokens) < self._known or max(lengths) > self.slots.room:
            raise IndexError("a token that the model does not know, or a row without room for it")


class SlotCohort:
    """Answers that are decoded together, in the order the sampler has them."""

    def __init__(self, slots: Slots, rows: list[SlotRow]) -> None:
        self._slots = slots
        self.rows = rows

    def select(self, rows: list[int]) -> None:
        """Keep these rows, in this order."""
        kept = [self.rows[index] for index in rows]
        staying = set(map(id, kept))
        for row in self.rows:
            if id(row) not in staying:
                self._slots.free(row)
        self.rows = kept


# -- which models ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def slot_decoder(model: nn.Module, weights: Weights) -> SlotDecoder | None:
    """A decoder of this kind, where the model is one that it can stand in for; that is tried once on a few tokens."""
    inner: Any = without_adapter(model)
    if any(weight.device.type != "cpu" or weight.dtype != torch.float32 for weight in model.parameters()):
        return None
    plan = None if virtual_tokens(model) else blueprint.read(inner)
    if plan is None or not _is_regular(inner, plan):
        return None
    decoder = SlotDecoder(model, plan, weights)
    return decoder if _agrees(decoder, inner) else None


def _is_regular(inner: Any, plan: Blueprint) -> bool:
    """A plain head, and a window for all layers or none. Of a window that a Llama's config names its code knows nothing,
    and its cache does."""
    if type(inner.get_output_embeddings()) is not nn.Linear:
        return False
    if plan.window is not None and type(inner).__name__ == "LlamaForCausalLM":
        return False
    kinds = set(getattr(inner.config, "layer_types", None) or ())
    return plan.window is None or len(kinds) < 2


def _agrees(decoder: SlotDecoder, inner: Any) -> bool:
    """Two rows, one in two pieces, then a token each, against the model's own forward pass. int8 differs by its
    rounding, so it is held only to being much nearer than chance."""
    rows = [[(7 * at + start) % decoder.vocabulary for at in range(PROBE[0])] for start in PROBE]
    with in_eval_mode(inner):
        expected = inner(input_ids=torch.tensor(rows), use_cache=False).logits[:, -1].float()
    places = [decoder.slots.new(PROBE[0]) for _ in rows]
    decoder.extend([Piece(places[0], rows[0][:5], False), Piece(places[1], rows[1][:-1], True)])
    decoder.extend([Piece(places[0], rows[0][5:-1], True)])
    found = decoder.decode(places, [row[-1] for row in rows])
    for place in places:
        decoder.slots.free(place)
    if found.shape != expected.shape:
        return False
    off = float((found - expected).norm() / expected.norm().clamp(min=1e-30))
    return off < (1e-3 if decoder.weights == "float32" else 0.5)
