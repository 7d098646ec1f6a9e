"""Only the embeddings of tokens that occur are trained.

A task's texts use a few thousand of a vocabulary of tens of thousands. The others get no gradient, and Adam moves no weight
that has never had one; yet gradient, moments and norm of the whole table are written and read at every step, which takes
a seventh of a small encoder's time. So the table is parted while it is trained: what occurs is a parameter, the rest is
not. The one difference: weight decay leaves embeddings of tokens that never occur as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tomoni.rows import Item

MOST = 0.7  # of the vocabulary: beyond that there is little to spare
NAMES = ("word_embeddings", "tok_embeddings")  # as transformers' encoders call the table of their embeddings


class PartedEmbedding(nn.Module):
    """`weight` [U, D] of the tokens that occur, the others' rows as they were. `place_V`: a token's row, -1 for others."""

    def __init__(self, whole: nn.Embedding, used: Tensor) -> None:
        super().__init__()
        self.whole = [whole]  # in a list: no module of this one, so none of its parameters
        self.weight = nn.Parameter(whole.weight.detach()[used].clone())
        place = torch.full((whole.num_embeddings,), -1, dtype=torch.int64)
        place[used] = torch.arange(len(used))
        self.register_buffer("place_V", place, persistent=False)
        self.register_buffer("rest_VD", whole.weight.detach(), persistent=False)
        self.num_embeddings, self.padding_idx = whole.num_embeddings, whole.padding_idx

    def forward(self, tokens: Tensor) -> Tensor:
        place_V: Any = self.place_V
        rest_VD: Any = self.rest_VD
        places = place_V[tokens]
        found = nn.functional.embedding(places.clamp(min=0), self.weight)
        if bool((places < 0).any()):
            found = torch.where((places < 0)[..., None], rest_VD[tokens], found)
        return found

    def joined(self) -> nn.Embedding:
        """The whole table with what was trained in its place."""
        (whole,) = self.whole
        made = nn.Embedding(whole.num_embeddings, whole.embedding_dim, padding_idx=whole.padding_idx)
        place_V: Any = self.place_V
        rest_VD: Any = self.rest_VD
        with torch.no_grad():
            made.weight.copy_(rest_VD)
            made.weight[place_V >= 0] = self.weight.detach().to(made.weight)
        return made


def tokens_of(items: Iterable[Item]) -> np.ndarray:
    """All tokens that occur, in order."""
    found = np.zeros(0, dtype=np.int32)
    part: list[np.ndarray] = []
    for number, item in enumerate(items):
        part += [row.tokens for row in item.rows]
        if number % 4096 == 4095:
            found, part = np.unique(np.concatenate([found, *part])), []
    return np.unique(np.concatenate([found, *part]))


def part(model: Any, used: np.ndarray) -> bool:
    """Part the model's table of embeddings, if that pays. To be done before what is trained is chosen."""
    place = _table(model)
    if place is None:
        return False
    parent, name = place
    whole = getattr(parent, name)
    if len(used) > MOST * whole.num_embeddings:
        return False
    setattr(parent, name, PartedEmbedding(whole, torch.from_numpy(np.asarray(used, dtype=np.int64))))
    return True


@contextlib.contextmanager
def joined(model: Any) -> Iterator[None]:
    """Meanwhile the model has one table of embeddings, as others read it."""
    parents = [
        (module, name, child)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, PartedEmbedding)
    ]
    for module, name, child in parents:
        setattr(module, name, child.joined())
    try:
        yield
    finally:
        for module, name, child in parents:
            setattr(module, name, child)


def _table(model: Any) -> tuple[Any, str] | None:
    embeddings = getattr(model, "embeddings", None)
    for name in NAMES:
        if type(getattr(embeddings, name, None)) is nn.Embedding:
            return embeddings, name
    return None
