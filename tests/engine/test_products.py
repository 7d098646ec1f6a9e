"""Products in training by the kernels in C: those of float64, and no row of one depends on the rows beside it."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import tiny
from tests.engine.items import engine, random_items
from tests.engine.test_flatencoder import items as texts
from tomoni import losses
from tomoni.engine import kernels, products
from tomoni.engine.forward import ScoreHead
from tomoni.engine.products import between, forward, into, product
from tomoni.errors import UserError
from tomoni.losses import classes

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=str(kernels.reason()))
seeds = st.integers(0, 2**31)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def is_product(found: Tensor, left: Tensor, right: Tensor, more: Tensor | float = 0.0) -> None:
    inputs = left.shape[1]
    expected = left.double() @ right.double() + (more.double() if isinstance(more, Tensor) else more)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5 * max(1, inputs) ** 0.5)


@given(seeds, st.integers(1, 40), st.integers(1, 70), st.integers(1, 70), st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_product_is_that_of_float64_and_no_row_depends_on_the_others(
    seed: int, rows: int, inputs: int, outputs: int, biased: bool
) -> None:
    x_QI, weight_OI = drawn(seed, rows, inputs), drawn(seed + 1, outputs, inputs)
    bias_O = drawn(seed + 2, outputs) if biased else None
    found_QO = product(x_QI, weight_OI, bias_O)
    is_product(found_QO, x_QI, weight_OI.t(), 0.0 if bias_O is None else bias_O)
    for row in range(rows):
        assert torch.equal(found_QO[row], product(x_QI[row : row + 1], weight_OI, bias_O)[0])


def test_a_number_that_is_none_stays_in_its_row() -> None:
    x_QI = drawn(0, 3, 20)
    x_QI[1, 4] = float("nan")
    found_QO = product(x_QI, drawn(1, 33, 20))
    assert found_QO[1].isnan().all() and found_QO[[0, 2]].isfinite().all()


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """The kernels whatever the processor, on one core; (rows, inputs, outputs) of what they were asked for."""
    seen, run, threads = [], products._run, torch.get_num_threads()

    def asked(left: Tensor, a: Any, right: Tensor, b: Any, out: Tensor, inputs: int, **more: Tensor | None) -> Tensor:
        seen.append((len(out), inputs, out.shape[1]))
        return run(left, a, right, b, out, inputs, **more)

    monkeypatch.setenv("TOMONI_PRODUCTS", "ours")
    monkeypatch.setattr(products, "_run", asked)
    torch.set_num_threads(1)
    yield seen
    torch.set_num_threads(threads)


# a panel's depth is 512: less, more, exactly and several of it, and lines that compete for a cache's places, on each side
@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [
    (128, 300, 40), (131, 513, 33), (200, 512, 520), (129, 1536, 384), (600, 40, 512), (1100, 72, 384), (140, 64, 1536),
])  # fmt: skip
def test_the_three_products_of_training_are_those_of_float64(
    ours: list[tuple[int, ...]], tokens: int, inputs: int, outputs: int
) -> None:
    x_QI, weight_OI, dy_QO = drawn(1, tokens, inputs), drawn(2, outputs, inputs), drawn(3, tokens, outputs)
    bias_O, onto_QI = drawn(4, outputs), drawn(5, tokens, inputs)
    is_product(forward(x_QI, weight_OI), x_QI, weight_OI.t())
    is_product(forward(x_QI, weight_OI, bias_O), x_QI, weight_OI.t(), bias_O)
    is_product(forward(x_QI, weight_OI, bias_O, onto_QO=dy_QO), x_QI, weight_OI.t(), bias_O + dy_QO)
    is_product(into(dy_QO, weight_OI), dy_QO, weight_OI)
    before = onto_QI.clone()
    found = into(dy_QO, weight_OI, onto_QI=onto_QI)
    assert found.data_ptr() == onto_QI.data_ptr()
    is_product(found, dy_QO, weight_OI, before)
    assert ours == [(tokens, inputs, outputs)] * 3 + [(tokens, outputs, inputs)] * 2
    ours.clear()
    is_product(between(dy_QO, x_QI), dy_QO.t(), x_QI)
    assert ours == ([(outputs, tokens, inputs)] if outputs >= 128 else [])


def test_pytorch_does_what_the_kernels_are_not_for(ours: list[tuple[int, ...]]) -> None:
    x_QI, weight_OI, dy_QO = drawn(1, 150, 64), drawn(2, 48, 64), drawn(3, 150, 48)
    is_product(forward(x_QI[:100], weight_OI), x_QI[:100], weight_OI.t())  # few rows
    is_product(forward(x_QI[:9], weight_OI, dy_QO[0], onto_QO=dy_QO[:9]), x_QI[:9], weight_OI.t(), dy_QO[0] + dy_QO[:9])
    is_product(forward(x_QI, weight_OI[:20]), x_QI, weight_OI[:20].t())  # few outputs
    is_product(forward(x_QI.double(), weight_OI.double()), x_QI, weight_OI.t())
    is_product(into(dy_QO.t().contiguous().t(), weight_OI), dy_QO, weight_OI)  # not row by row
    is_product(between(dy_QO, x_QI), dy_QO.t(), x_QI)  # 48 outputs are few rows
    wide, other = drawn(4, 150, 1024), drawn(5, 48, 1024)
    is_product(forward(wide, other), wide, other.t())  # rows that compete for a cache's places
    torch.set_num_threads(2)
    is_product(forward(x_QI, weight_OI), x_QI, weight_OI.t())
    assert ours == []
    torch.set_num_threads(1)
    is_product(forward(x_QI, weight_OI), x_QI, weight_OI.t())
    assert ours == [(150, 64, 48)]


def test_matrices_that_do_not_fit_are_refused_before_memory_is_read(ours: list[tuple[int, ...]]) -> None:
    x_QI, weight_OI = drawn(1, 200, 64), drawn(2, 128, 64)
    for wrong in (
        lambda: forward(x_QI, drawn(2, 128, 80)),
        lambda: forward(x_QI, weight_OI, drawn(3, 3)),
        lambda: forward(x_QI, weight_OI, drawn(3, 128).double()),
        lambda: forward(x_QI, weight_OI, onto_QO=drawn(3, 1, 128)),
        lambda: into(drawn(3, 200, 130), weight_OI),
        lambda: between(drawn(3, 190, 128), x_QI),
    ):
        with pytest.raises(RuntimeError, match="do not fit a product"):
            wrong()


@pytest.mark.parametrize(
    ("about", "asked", "expected"),
    [
        (b"vendor_id : AuthenticAMD\nflags : avx2 avx512f", "", "ours"),
        (b"vendor_id : AuthenticAMD\nflags : avx2", "", "torch"),
        (b"vendor_id : GenuineIntel\nflags : avx512f", "", "torch"),
        (b"vendor_id : GenuineIntel\nflags : avx512f", "ours", "ours"),
        (b"vendor_id : AuthenticAMD\nflags : avx512f", "torch", "torch"),
    ],
)
def test_the_processor_decides_or_the_user(
    about: bytes, asked: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "processor", lambda: about)
    monkeypatch.setenv("TOMONI_PRODUCTS", asked)
    products._made_by.cache_clear()
    try:
        assert products.made_by() == expected
    finally:
        products._made_by.cache_clear()


def test_a_choice_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMONI_PRODUCTS", "Torch")
    with pytest.raises(UserError, match=r"TOMONI_PRODUCTS is 'Torch'[^$]*ours, torch"):
        products.made_by()


def gradients_of_a_step(kind: str) -> dict[str, Tensor]:
    made: Any = tiny.model() if kind == "llama" else tiny.encoder(masked=False)
    if kind == "llama":
        of_step, loss, given = engine(made), losses.nll, random_items(9)
    else:
        made.pooler = None
        of_step, loss, given = engine(made, score_head=ScoreHead(3, "row", "first")), classes.softmax_classes, texts()
    of_step.forward_backward(given, loss)
    return {name: weight.grad.clone() for name, weight in of_step.trained.items() if weight.grad is not None}


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_step_by_the_kernels_is_pytorchs_to_rounding(
    kind: str, ours: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses and all gradients of a decoder and an encoder whose every product is given to one or the other."""
    monkeypatch.setattr(products, "FEWEST_ROWS", 1)
    monkeypatch.setattr(products, "FEWEST_OUTPUTS", 1)
    by_kernels = gradients_of_a_step(kind)
    assert len(set(ours)) >= 6
    ours.clear()
    monkeypatch.setenv("TOMONI_PRODUCTS", "torch")
    by_torch = gradients_of_a_step(kind)
    assert ours == [] and by_kernels.keys() == by_torch.keys() and len(by_torch) > 10
    for name, gradient in by_torch.items():
        torch.testing.assert_close(by_kernels[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of x86")
@pytest.mark.parametrize("processor", ["haswell", "x86-64"])
def test_older_processors_get_the_same_and_keep_rows_apart_too(
    processor: str,
    built_for: Callable[[str], ctypes.CDLL],
    monkeypatch: pytest.MonkeyPatch,
    ours: list[tuple[int, ...]],
) -> None:
    built = built_for(processor)
    monkeypatch.setattr("tomoni.engine.products.kernels", lambda: built)
    for rows, inputs, outputs in ((1, 5, 3), (13, 72, 100), (31, 36, 16), (140, 600, 130)):
        x_QI, weight_OI, bias_O = drawn(rows, rows, inputs), drawn(1, outputs, inputs), drawn(2, outputs)
        found_QO = product(x_QI, weight_OI, bias_O)
        is_product(found_QO, x_QI, weight_OI.t(), bias_O)
        assert all(
            torch.equal(found_QO[row], product(x_QI[row : row + 1], weight_OI, bias_O)[0]) for row in range(rows)
        )
    dy_QO = drawn(3, 140, 512)
    is_product(between(dy_QO, x_QI), dy_QO.t(), x_QI)
    is_product(into(dy_QO, drawn(4, 512, 600)), dy_QO, drawn(4, 512, 600))
