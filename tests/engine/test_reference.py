"""The reference: the start, a moving average, another model; and log-probabilities at a temperature."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tests.engine.items import engine, random_items, settings
from tests.engine.test_engine import plain_logprobs
from tomoni import losses
from tomoni.engine.engine import Engine
from tomoni.rows import Item


def flat(found: list[tuple[np.ndarray, ...]]) -> np.ndarray:
    return np.concatenate([values for rows in found for values in rows])


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_logprobs_are_those_of_the_logits_divided_by_the_temperature(architecture: str, temperature: float) -> None:
    model = tiny.model(architecture)
    items = random_items(3, seed=3)
    found = engine(model, temperature=temperature).logprobs(items)
    for item, (values,) in zip(items, found, strict=True):
        row = item.rows[0]
        with torch.no_grad():
            logits = model.eval()(torch.tensor(row.tokens[None].astype(np.int64))).logits[0].double() / temperature
        expected = [
            float(logits[i - 1].log_softmax(-1)[row.tokens[i]]) if row.weights[i] else 0.0 for i in range(len(row))
        ]
        assert np.allclose(values, expected, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_kept_logprobs_do_not_depend_on_what_else_is_asked_for(threads: int) -> None:
    items = random_items(9, seed=4, rows=2)
    built = engine(tiny.model(), keep_reference=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = flat(built.logprobs(items, of="reference", keep=True))
        other = engine(tiny.model(), keep_reference=True)
        one_by_one = [flat(other.logprobs([item], of="reference", keep=True)) for item in items]
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(together, np.concatenate(one_by_one))
    assert np.allclose(together, flat(built.logprobs(items, of="reference")), atol=1e-5)


def test_kept_logprobs_are_computed_once_an_item(monkeypatch: pytest.MonkeyPatch) -> None:
    built = engine(tiny.model(), keep_reference=True)
    asked: list[int] = []
    compute = Engine.logprobs_alone

    def counted(self: Engine, items: list[Item]) -> list[tuple[np.ndarray, ...]]:
        asked.append(len(items))
        return compute(self, items)

    monkeypatch.setattr(Engine, "logprobs_alone", counted)
    items = random_items(5, seed=5)
    first = flat(built.logprobs(items[:4], of="reference", keep=True))
    built.forward_backward(items, losses.nll)
    built.optim_step(1e-2)
    again = flat(built.logprobs(items, of="reference", keep=True))
    assert asked == [4, 1]
    assert np.array_equal(first, again[: len(first)])
    changed = [Item(items[0].id, (items[0].rows[0].with_(tokens=items[0].rows[0].tokens[::-1].copy()),))]
    built.logprobs(changed, of="reference", keep=True)
    assert asked == [4, 1, 1], "other tokens under the same id are another item"


def test_a_moving_average_goes_a_part_of_the_way_and_is_in_the_checkpoint(tmp_path: Path) -> None:
    items = random_items(4, seed=6)
    built = engine(tiny.model(), keep_reference=True)
    start = {name: weight.detach().clone() for name, weight in built.trained.items()}
    built.forward_backward(items, losses.nll)
    built.optim_step(1e-2)
    built.move_reference(0.25)
    name = next(iter(start))
    expected = copy.deepcopy(built.model)
    with torch.no_grad():
        for key, weight in expected.named_parameters():
            weight.copy_(start[key] * 0.75 + built.trained[key] * 0.25)
    found = flat(built.logprobs(items, of="reference"))
    with torch.no_grad():
        by_hand = np.concatenate(
            [np.where(i.rows[0].weights, plain_logprobs(expected.eval(), i.rows[0]).numpy(), 0) for i in items]
        )
    assert np.allclose(found, by_hand, atol=1e-5)
    assert not torch.equal(start[name], built.trained[name])

    built.save(tmp_path)
    resumed = engine(tiny.model(), keep_reference=True)
    resumed.load(tmp_path)
    assert np.array_equal(flat(resumed.logprobs(items, of="reference")), found)


def test_another_model_can_be_the_reference() -> None:
    items = random_items(4, seed=7)
    other = tiny.model(seed=9)
    looking = Engine(other, trained={}, cfg=settings())
    built = engine(tiny.model(), keep_reference=True, reference_engine=looking)
    for keep in (False, True):
        found = built.logprobs(items, of="reference", keep=keep)
        with torch.no_grad():
            for item, (values,) in zip(items, found, strict=True):
                expected = plain_logprobs(other.eval(), item.rows[0]).numpy() * (item.rows[0].weights > 0)
                assert np.allclose(values, expected, atol=1e-5)
