"""What a model makes of a text, as one vector: states of its layers, averaged over tokens. D hidden.

By plain forward passes over padded batches, without an engine for training. An answer is described by the middle
layer: a head on it tells the better of two answers apart from fewer judgements than on the last one, whose states are
about the next token. A text as such (an embedding) is described by the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tomoni.engine.batch import Tile
from tomoni.engine.forward import Forward, decoder_layers, in_eval_mode, trial_tile
from tomoni.rows import Float32

MOST_TOKENS = 4096  # of one pass, padding included
Tokens = Sequence[int]


class Pooled:
    """Of one model, whose weights may change between two calls."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._forward = Forward(model, own_type=False)  # its fast decoder would hold the weights once more
        self._device = next(model.parameters()).device
        self.layer = layers_to_middle(model)  # whose output describes an answer

    def answers(self, prompts: Sequence[Tokens], answers: Sequence[Tokens]) -> list[Float32]:
        """float32 [D] per answer: the mean of the middle layer's states at its tokens, given its prompt. Nothing may be
        empty."""
        rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
        return self._means(rows, [len(prompt) for prompt in prompts], self._middle)

    def texts(self, rows: Sequence[Tokens]) -> list[Float32]:
        """float32 [D] per row of tokens: the mean of the last layer's states (after its norm). Nothing may be empty."""
        return self._means(rows, [0] * len(rows), self._forward.hidden)

    def _means(self, rows: Sequence[Tokens], starts: Sequence[int], states: Callable[[Tile], Tensor]) -> list[Float32]:
        if any(len(row) <= start for row, start in zip(rows, starts, strict=True)):
            raise ValueError("nothing to average")
        found: dict[int, Float32] = {}
        with torch.no_grad(), in_eval_mode(self._model):
            for group in groups([len(row) for row in rows]):
                states_NTD = states(self._tile([rows[index] for index in group])).float()
                for line, index in enumerate(group):
                    found[index] = states_NTD[line, starts[index] : len(rows[index])].mean(0).cpu().numpy()
        return [found[index] for index in range(len(rows))]

    def _middle(self, tile: Tile) -> Tensor:
        # virtual tokens of prompt tuning stand in front
        return self._forward.lowest(self.layer, tile).states_NTD[:, -tile.tokens_NT.shape[1] :]

    def _tile(self, rows: Sequence[Tokens]) -> Tile:
        tokens_NT = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
        for line, row in enumerate(rows):
            tokens_NT[line, : len(row)] = torch.tensor(list(row), dtype=torch.long)
        return trial_tile(tokens_NT.to(self._device), [len(row) for row in rows])


def layers_to_middle(model: Any) -> int:
    """How many layers a text goes through until the states that describe an answer."""
    return max(1, len(decoder_layers(model)) // 2)


def groups(lengths: Sequence[int], most: int = MOST_TOKENS) -> Iterator[list[int]]:
    """Indices of rows of like length, the longest first, as many as `most` tokens allow; one alone may exceed it."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index], reverse=True):
        if group and lengths[group[0]] * (len(group) + 1) > most:
            yield group
            group = []
        group.append(index)
    if group:
        yield group
