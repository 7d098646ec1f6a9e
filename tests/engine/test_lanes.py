"""Parts of a step side by side: the result is the step's, whatever the number of lanes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import tiny
from tests.engine.items import random_items
from tomoni import losses
from tomoni.engine import lanes
from tomoni.engine.engine import Engine
from tomoni.engine.lanes import deal, how_many, side_by_side
from tomoni.engine.trained import choose
from tomoni.errors import Diverged
from tomoni.rows import Item
from tomoni.settings.sft import Config

pytestmark = pytest.mark.usefixtures("small_lanes")


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_every_item_is_dealt_once_and_no_lane_is_empty(count: int, most: int, seed: int) -> None:
    items = random_items(count, seed=seed)
    parts = deal(items, most)
    assert sorted(item.id for part in parts for item in part) == sorted(item.id for item in items)
    assert len(parts) == min(most, count)
    assert all(parts)
    assert [[item.id for item in part] for part in deal(items, most)] == [[i.id for i in part] for part in parts]


def test_small_steps_run_in_one_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "TOKENS_A_LANE", 100)
    items = random_items(10, shortest=35, longest=35)  # 350 tokens
    plenty = {"budget": 10**6, "bytes_trained": 1}
    assert [how_many(items, threads, **plenty) for threads in (1, 2, 8)] == [1, 2, 3]
    assert how_many(items[:2], 8, **plenty) == 1


def test_lanes_are_no_more_than_memory_is_there_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "TOKENS_A_LANE", 1)
    items = random_items(10, shortest=35, longest=35)
    assert how_many(items, 8, budget=3 * 35, bytes_trained=1) == 3  # each may hold its longest item
    assert how_many(items, 8, budget=10**6, bytes_trained=2**28) == 4  # 2 GiB of gradients, two sets a lane
    assert how_many(items, 8, budget=1, bytes_trained=2**40) == 1


def test_lanes_are_of_about_equal_size() -> None:
    parts = deal(random_items(40, longest=60), 4)
    sizes = [sum(item.tokens for item in part) for part in parts]
    assert max(sizes) - min(sizes) <= 12


def step(threads: int, items: list[Item], budget: int | None = None) -> tuple[float, dict[str, Tensor]]:
    cfg = Config(model_name_or_path="m", train_file="t", output_dir="o", threads=threads, tokens_per_microbatch=budget)
    model = tiny.model()
    built = Engine(model, trained=dict(model.named_parameters()), cfg=cfg)
    assert built.forward.flat is not None
    stats = built.forward_backward(items, losses.nll)
    return stats["loss"].value, {name: weight.grad for name, weight in built.trained.items() if weight.grad is not None}


@pytest.mark.parametrize("budget", [None, 130])
@pytest.mark.parametrize("threads", [2, 3])
def test_the_step_is_the_same_to_rounding_and_again_to_the_bit(threads: int, budget: int | None) -> None:
    items = random_items(9)
    loss, gradients = step(1, items)
    found, first = step(threads, items, budget)
    again, second = step(threads, items, budget)
    assert found == pytest.approx(loss, rel=1e-6)
    assert again == found
    for name, gradient in gradients.items():
        torch.testing.assert_close(first[name], gradient, rtol=1e-4, atol=1e-6)
        assert torch.equal(first[name], second[name])


def lora_weights(threads: int) -> dict[str, Tensor]:
    """After three steps."""
    cfg = Config(model_name_or_path="m", train_file="t", output_dir="o", train="lora", threads=threads)
    chosen = choose(tiny.model(), cfg)
    built = Engine(chosen.model, trained=chosen.parameters, cfg=cfg)
    for number in range(3):
        built.forward_backward(random_items(9, seed=number), losses.nll)
        assert all(weight.grad is None or weight.grad.is_contiguous() for weight in built.trained.values())
        built.optim_step(0.01)
    return {name: weight.detach().clone() for name, weight in built.trained.items()}


def test_an_adapter_learns_in_lanes_what_it_learns_in_one() -> None:
    alone, dealt = lora_weights(1), lora_weights(3)
    for name, weight in alone.items():
        assert not torch.equal(weight, torch.zeros_like(weight)), name
        torch.testing.assert_close(dealt[name], weight, rtol=1e-3, atol=1e-4)


def test_an_item_that_diverges_is_named_though_it_ran_in_a_lane() -> None:
    items = random_items(6)
    cfg = Config(model_name_or_path="m", train_file="t", output_dir="o", threads=2)
    model = tiny.model()
    built = Engine(model, trained=dict(model.named_parameters()), cfg=cfg)

    def loss(outputs: losses.Outputs, rows: losses.Rows) -> dict[str, losses.Term]:
        found = losses.nll(outputs, rows)
        if float(rows.weight_B.max()) > 5:
            return {"loss": losses.Term(found["loss"].sum * float("nan"), "token")}
        return found

    spoilt = [*items[:3], Item("spoilt", items[3].rows, weight=9.0), *items[4:]]
    built.forward_backward(spoilt, loss)
    with pytest.raises(Diverged) as raised:
        built.optim_step(0.1)
    assert raised.value.record_ids == ("spoilt",)


def test_an_error_comes_out_when_all_lanes_are_done_and_the_threads_are_as_before() -> None:
    done: list[int] = []

    def fails() -> int:
        raise MemoryError("out of memory")

    def works() -> int:
        done.append(torch.get_num_threads())
        return 1

    torch.set_num_threads(2)
    pieces: list[Callable[[], int]] = [fails, works]
    with pytest.raises(MemoryError):
        side_by_side(pieces)
    assert done == [1]
    assert torch.get_num_threads() == 2
