"""Embeddings of tokens that occur are trained, the others are left: the same weights as training the whole table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.engine.test_flatencoder import body, cfg, items
from tomoni.engine import fewtokens
from tomoni.engine.engine import Engine
from tomoni.engine.forward import ScoreHead
from tomoni.losses import classes


def trained(architecture: str, *, parted: bool) -> tuple[Any, list[float]]:
    model = body(architecture)
    if parted:
        assert fewtokens.part(model, fewtokens.tokens_of(items()))
    engine = Engine(
        model, trained=dict(model.named_parameters()), cfg=cfg(weight_decay=0.0), score_head=ScoreHead(3, "row", "mean")
    )
    losses = []
    for _ in range(4):
        losses.append(
            (engine.forward_backward(items(), classes.softmax_classes) | engine.optim_step(1e-2))["loss"].value
        )
    return model, losses


@pytest.mark.parametrize("architecture", tiny.ENCODERS)
def test_four_steps_end_with_the_weights_of_training_the_whole_table(architecture: str) -> None:
    whole, expected = trained(architecture, parted=False)
    model, losses = trained(architecture, parted=True)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    with fewtokens.joined(model):
        found = model.state_dict()
        for name, weight in whole.state_dict().items():
            torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-6, msg=name)
    assert any(isinstance(module, fewtokens.PartedEmbedding) for module in model.modules())


def test_a_token_that_training_never_had_keeps_its_embedding_when_it_comes() -> None:
    model = body("bert")
    before = model.embeddings.word_embeddings.weight.detach().clone()
    fewtokens.part(model, np.array([3, 5, 9]))
    tokens = torch.tensor([[3, 7, 9, 200]])
    torch.testing.assert_close(model.embeddings.word_embeddings(tokens), before[tokens])
    assert model.embeddings.word_embeddings.weight.shape == (3, 32)


def test_where_most_tokens_occur_nothing_is_parted() -> None:
    model = body("bert")
    assert not fewtokens.part(model, np.arange(250))
    assert type(model.embeddings.word_embeddings) is torch.nn.Embedding
