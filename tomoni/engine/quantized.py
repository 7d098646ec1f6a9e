"""What int8 weights cost in quality: the same texts through both decoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tomoni.engine.decode import SlotDecoder, slot_decoder
from tomoni.engine.matrices import Weights
from tomoni.engine.slots import Piece
from tomoni.errors import ModelError, UserError
from tomoni.rows import Int32


@dataclass(frozen=True, slots=True)
class QualityLoss:
    """Over the predicted tokens of the texts given: mean losses in nats a token, the mean divergence KL(float32 ||
    int8) in nats, and how often both hold the same token likeliest."""

    tokens: int
    loss: float
    loss_int8: float
    divergence: float
    same_likeliest: float


@torch.no_grad()
def quality_loss(model: nn.Module, rows: Sequence[Sequence[int] | Int32]) -> QualityLoss:
    """Each row is a text's tokens, at least two of them; every token but the first is predicted.

    Raises UserError where no row has two tokens, ModelError where the model is not one for int8 (see `Sampler`).
    """
    texts = [[int(token) for token in row] for row in rows if len(row) > 1]
    if not texts:
        raise UserError("no text has two tokens or more", next_step="give held-out texts")
    exact, rounded = _decoder(model, "float32"), _decoder(model, "int8")
    sums = torch.zeros(4, dtype=torch.float64)
    for text in texts:
        sums += _compared(exact, rounded, text)
    count = sum(len(text) - 1 for text in texts)
    loss, loss_int8, divergence, same = (sums / count).tolist()
    return QualityLoss(count, loss, loss_int8, divergence, same)


def _decoder(model: nn.Module, weights: Weights) -> SlotDecoder:
    decoder = slot_decoder(model, weights)
    if decoder is None:
        raise ModelError(
            f"{type(model).__name__} is not a model for int8 weights",
            next_step="take a model of the Llama family, on the CPU and in float32",
        )
    return decoder


def _compared(exact: SlotDecoder, rounded: SlotDecoder, text: list[int]) -> Tensor:
    """float64 [4]: sums of both losses, of the divergence and of agreement."""
    logprobs_TV, rounded_TV = (_logprobs(decoder, text[:-1]) for decoder in (exact, rounded))
    targets_T1 = torch.tensor(text[1:])[:, None]
    losses = [-found_TV.gather(1, targets_T1).sum() for found_TV in (logprobs_TV, rounded_TV)]
    divergence = (logprobs_TV.exp() * (logprobs_TV - rounded_TV)).sum()
    same = (logprobs_TV.argmax(-1) == rounded_TV.argmax(-1)).sum().double()
    return torch.stack([*losses, divergence, same])


def _logprobs(decoder: SlotDecoder, tokens: list[int]) -> Tensor:
    """float64 [T, V] behind each token."""
    row = decoder.slots.new(len(tokens))
    try:
        logits_TV = decoder.extend([Piece(row, tokens, True)], every=True)
    finally:
        decoder.slots.free(row)
    return logits_TV.double().log_softmax(-1)
