"""Frozen layers of an encoder over many texts at once: each text's numbers are, to the bit, those it has alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

from tests import tiny
from tests.engine.items import settings
from tomoni.engine import encoderparts, frozen, kernels
from tomoni.engine.engine import Engine
from tomoni.engine.forward import ScoreHead
from tomoni.engine.frozen import Below
from tomoni.rows import Item, Row

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=str(kernels.reason()))


LAYERS = 3
SHAPES = {"num_hidden_layers": LAYERS, "num_attention_heads": 3, "vocab_size": tiny.VOCABULARY}
MODELS: dict[str, Any] = {
    # 36 hidden numbers: rows that no vector register's width divides
    "bert": lambda: BertModel(BertConfig(hidden_size=36, intermediate_size=50, **SHAPES)),
    "roberta": lambda: RobertaModel(RobertaConfig(hidden_size=48, intermediate_size=96, pad_token_id=0, **SHAPES)),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(dim=36, hidden_dim=50, n_layers=LAYERS, n_heads=3, vocab_size=tiny.VOCABULARY)
    ),
}


def below(kind: str, threads: int = 1) -> Below:
    torch.manual_seed(5)
    cfg = settings().model_copy(update={"threads": threads})
    engine = Engine(MODELS[kind]().requires_grad_(False), trained={}, cfg=cfg, score_head=ScoreHead(3))
    engine.model.eval()
    return Below(engine.forward, LAYERS - 1)


def texts(lengths: Sequence[int], *, segments: bool = False) -> list[Row]:
    draw = np.random.default_rng(sum(lengths))
    made = []
    for length in lengths:
        tokens = draw.integers(2, tiny.VOCABULARY, length).astype(np.int32)
        second = (np.arange(length) > length // 2).astype(np.int8) if segments and length % 2 else None
        made.append(Row(tokens, np.zeros(length, np.float32), tokens, second))
    return made


@pytest.mark.parametrize("kind", MODELS)
@given(lengths=st.lists(st.integers(1, 40), min_size=2, max_size=12), together=st.sampled_from([1, 30, 1024]))
@hypothesis_settings(deadline=None, max_examples=15)
def test_a_texts_states_are_the_same_alone_and_beside_any_others(kind: str, lengths: list[int], together: int) -> None:
    given_rows = texts(lengths, segments=kind == "bert")
    layers = below(kind)
    assert layers.works and layers._rowwise
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen, "TOGETHER", together)
        found = layers._compute(given_rows)
    for row, states_TD in zip(given_rows, found, strict=True):
        assert states_TD.shape == (len(row), layers.width)
        assert torch.equal(states_TD, layers._compute([row])[0])


@pytest.mark.parametrize("kind", MODELS)
def test_states_are_those_of_the_model_and_of_any_number_of_cores(kind: str) -> None:
    rows = texts([7, 1, 30, 12, 7, 19])
    one, two = below(kind), below(kind, threads=2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        found = one._compute(rows)
        torch.set_num_threads(2)
        again = two._compute(rows)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    model = one.forward.inner.base_model.eval()
    for row, states_TD in zip(rows, found, strict=True):
        tokens = torch.from_numpy(np.asarray(row.tokens, dtype=np.int64))[None]
        with torch.no_grad():
            expected_TD = model(input_ids=tokens, output_hidden_states=True).hidden_states[LAYERS - 1][0]
        torch.testing.assert_close(states_TD, expected_TD, rtol=1e-4, atol=1e-4)


def test_a_text_longer_than_the_kernels_hold_is_computed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """And does not change what its neighbours get."""
    rows = texts([9, 25, 14])
    layers = below("bert")
    expected = layers._compute(rows)
    for module in (encoderparts, frozen):
        monkeypatch.setattr(module, "LONGEST", 20)
    found = layers._compute(rows)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[2], expected[2])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-5)


def test_a_key_names_the_cores_only_where_they_show() -> None:
    """States of frozen layers kept by a run with one core are found by a run with two."""
    row = Item("a", tuple(texts([5]))).rows[0]
    layers = below("bert")
    before = torch.get_num_threads()
    try:
        keys = set()
        for threads in (1, 2):
            torch.set_num_threads(threads)
            keys.add(layers._key(row))
    finally:
        torch.set_num_threads(before)
    assert len(keys) == 1
