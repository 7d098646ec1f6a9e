"""What is dropped is told by keys: in order, each thread by its own, and the same again."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from tomoni.engine import kernels
from tomoni.engine.dropout import Draw, KeyedDropout, draw, keyed

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=str(kernels.reason()))


def drawn(key: int, count: int = 4) -> list[Draw]:
    with keyed(key):
        return [draw(nn.Dropout(0.1)) for _ in range(count)]


def test_keys_follow_from_the_micro_batchs_key_and_differ() -> None:
    assert drawn(7) == drawn(7)
    keys = [found.key for key in range(200) for found in drawn(key)]
    assert len(set(keys)) == len(keys) == 800 and all(0 <= key < 2**32 for key in keys)
    assert abs(sum(key > 2**31 for key in keys) / 800 - 0.5) < 0.07  # 4 standard deviations
    assert all(found.p == 0.1 for found in drawn(7))


def test_nothing_is_drawn_where_nothing_is_dropped() -> None:
    with keyed(3):
        first = [draw(nn.Dropout(0.1).eval()), draw(nn.Dropout(0.0)), draw(nn.Dropout(0.1))]
    assert first == [Draw(), Draw(), drawn(3, 1)[0]]


def test_a_thread_has_its_own_keys_and_pytorchs_generator_is_not_asked() -> None:
    found: list[list[Draw]] = []
    state = torch.get_rng_state()
    with keyed(1):
        before = draw(nn.Dropout(0.1))
        thread = threading.Thread(target=lambda: found.append(drawn(2)))
        thread.start()
        thread.join()
        after = draw(nn.Dropout(0.1))
    assert [before, after] == drawn(1, 2) and found == [drawn(2)]
    assert torch.equal(state, torch.get_rng_state())


def test_outside_of_a_step_the_seed_tells_what_is_drawn() -> None:
    torch.manual_seed(5)
    one = draw(nn.Dropout(0.1))
    torch.manual_seed(5)
    assert draw(nn.Dropout(0.1)) == one


def test_dropping_keeps_the_mean_and_drops_the_same_backward() -> None:
    dropout, x = KeyedDropout(0.25), torch.ones(200, 500, requires_grad=True)
    with keyed(11):
        out = dropout(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(out, gradient)
    assert abs(float((out == 0).float().mean()) - 0.25) < 0.006  # 4 standard deviations
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert torch.equal(dropout.eval()(x), x)
    assert dropout.train()(x.double()).dtype == torch.float64  # by PyTorch
