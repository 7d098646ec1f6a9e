"""What a model makes of answers that are given to it: the states of a middle layer, and how likely they are to it.

For a head that learns from few judgements. Of a tuned model the middle layer says more about an answer's manner than the
last, which is about the next token only, and the mean over the answer more than its last token (LOG.md, "Learning from ten
judgements").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tomoni.engine.forward import decoder_layers, in_eval_mode, virtual_tokens, without_adapter
from tomoni.engine.pooled import MOST_TOKENS, groups, layers_to_middle
from tomoni.rows import Float32, Int32, Row


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Of N answers: `features_ND` the mean over the answer's tokens of a layer's states, `logprob_N` the sum of their
    log-probabilities, `tokens_N` how many there are, the end token among them."""

    features_ND: Float32
    logprob_N: Float32
    tokens_N: Int32


def middle_layer(model: nn.Module) -> int:
    """The layer that is read: the one that `pooled` reads too, counted from 0 in `decoder_layers`."""
    return layers_to_middle(model) - 1


def read_answers(
    model: nn.Module,
    rows: Sequence[Row],
    *,
    layer: int | None = None,
    budget: int = MOST_TOKENS,
    told: Callable[[float], None] | None = None,
) -> Read:
    """Read rows of a prompt and an answer, as `Renderer.completion` makes them: the answer is where `weights` are not 0.

    `layer` counts from 0; `middle_layer` unless given. Nothing of the model changes: no gradient, no mode, no random
    state. `told` is given the share of rows read so far. Raises ValueError for a row without an answer or longer than `layer` exists.
    """
    chosen = decoder_layers(model)[middle_layer(model) if layer is None else layer]
    spots = [np.flatnonzero(row.weights) for row in rows]
    if any(len(spot) == 0 for spot in spots):
        raise ValueError("a row has no answer")
    width = int(without_adapter(model).config.get_text_config().hidden_size)
    shift = virtual_tokens(model)  # these stand before the prompt
    found = Read(
        np.zeros((len(rows), width), dtype=np.float32),
        np.zeros(len(rows), dtype=np.float32),
        np.asarray([len(spot) for spot in spots], dtype=np.int32),
    )
    kept: list[Tensor] = []
    done = 0

    def keep(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
        kept.append(output if isinstance(output, Tensor) else output[0])

    hook = chosen.register_forward_hook(keep)
    try:
        with torch.no_grad(), in_eval_mode(model):
            for group in groups([len(row) for row in rows], budget):
                kept.clear()
                logits_NTV = _forward(model, [rows[index] for index in group])
                for line, index in enumerate(group):
                    at = torch.as_tensor(spots[index] + shift, device=logits_NTV.device)
                    found.features_ND[index] = kept[0][line, at].float().mean(0).cpu().numpy()
                    found.logprob_N[index] = _logprob(logits_NTV[line, shift:], rows[index], spots[index])
                done += len(group)
                if told is not None:
                    told(done / len(rows))
    finally:
        hook.remove()
    return found


def _forward(model: nn.Module, rows: Sequence[Row]) -> Tensor:
    device = next(model.parameters()).device
    longest = max(map(len, rows))
    tokens_NT = torch.zeros((len(rows), longest), dtype=torch.long)
    mask_NT = torch.zeros((len(rows), longest), dtype=torch.long)
    for line, row in enumerate(rows):
        tokens_NT[line, : len(row)] = torch.from_numpy(row.tokens.astype(np.int64))
        mask_NT[line, : len(row)] = 1
    output = model(input_ids=tokens_NT.to(device), attention_mask=mask_NT.to(device), use_cache=False)
    logits_NTV: Tensor = output.logits
    return logits_NTV


def _logprob(logits_TV: Tensor, row: Row, spots: NDArray[np.int64]) -> float:
    """Position i is predicted from the one before it."""
    targets = torch.as_tensor(row.tokens[spots].astype(np.int64), device=logits_TV.device)
    chosen_TV = logits_TV[torch.as_tensor(spots - 1, device=logits_TV.device)].float()
    return float(torch.log_softmax(chosen_TV, dim=-1).gather(1, targets[:, None]).sum())
