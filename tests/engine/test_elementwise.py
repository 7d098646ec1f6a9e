"""The built kernels against PyTorch in float64, and what happens where they cannot be built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import tiny
from tests.engine.items import engine, random_items
from tomoni import losses
from tomoni.engine import elementwise, kernels

needs_kernels = pytest.mark.skipif(kernels.library() is None, reason=str(kernels.reason()))
sizes = st.integers(1, 70)
seeds = st.integers(0, 2**31)


def drawn(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=2e-5)


@needs_kernels
@given(seeds, sizes, sizes)
@settings(deadline=None, max_examples=40)
def test_the_norm_and_its_gradient_are_pytorchs(seed: int, rows: int, width: int) -> None:
    x, gradient, residual = (drawn(seed + i, rows, width) for i in range(3))
    weight = drawn(seed + 3, width)
    x64, weight64 = x.double().requires_grad_(), weight.double().requires_grad_()
    expected = torch.nn.functional.rms_norm(x64, (width,), weight64, 1e-3)
    dx, dweight = torch.autograd.grad(expected, [x64, weight64], gradient.double())

    found, inverse = elementwise.rms(x, weight, 1e-3)
    close(found, expected.detach())
    close(elementwise.rms_again(x, weight, inverse), expected.detach())
    alone, added = gradient.clone(), gradient.clone()
    assert elementwise.rms_backward_(alone, x, inverse, weight) is None
    found_weight = elementwise.rms_backward_(added, x, inverse, weight, residual_ND=residual, weight_needed=True)
    torch.testing.assert_close(alone.double(), dx, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(added.double(), dx + residual.double(), rtol=1e-4, atol=1e-3)
    assert found_weight is not None
    torch.testing.assert_close(found_weight.double(), dweight, rtol=1e-4, atol=1e-3)


@needs_kernels
@given(seeds, sizes, sizes)
@settings(deadline=None, max_examples=40)
def test_the_gated_activation_and_its_gradients_are_pytorchs(seed: int, rows: int, width: int) -> None:
    gate, up, gradient = (drawn(seed + i, rows, width, scale=6.0) for i in range(3))
    gate64, up64 = gate.double().requires_grad_(), up.double().requires_grad_()
    expected = torch.nn.functional.silu(gate64) * up64
    dgate, dup = torch.autograd.grad(expected, [gate64, up64], gradient.double())
    close(elementwise.swiglu(gate, up), expected.detach())
    inner = gradient.clone()
    found_up, again = elementwise.swiglu_backward_(inner, gate, up)
    for found, right in ((inner, dgate), (found_up, dup), (again, expected.detach())):
        torch.testing.assert_close(found.double(), right, rtol=2e-5, atol=1e-4)


@needs_kernels
@given(seeds, st.integers(1, 5), sizes, sizes)
@settings(deadline=None, max_examples=40)
def test_the_causal_softmax_sees_what_a_query_sees(seed: int, among: int, block: int, before: int) -> None:
    end = block + before
    scores, gradient = drawn(seed, among, block, end), drawn(seed + 1, among, block, end)
    hidden = torch.ones(block, end, dtype=torch.bool).triu(before + 1)
    scores64 = scores.double().requires_grad_()
    expected = scores64.masked_fill(hidden, float("-inf")).softmax(-1)
    (dscores,) = torch.autograd.grad(expected, scores64, gradient.double())
    found = elementwise.causal_softmax_(scores.clone())
    close(found, expected.detach())
    assert (found[:, hidden] == 0).all()
    close(elementwise.causal_softmax_backward_(gradient.clone(), found), dscores)


@needs_kernels
@given(seeds, sizes, st.integers(1, 3), st.integers(1, 20), st.floats(0.1, 2))
@settings(deadline=None, max_examples=40)
def test_a_rotation_is_a_complex_product_and_is_turned_back(
    seed: int, rows: int, heads: int, half: int, scale: float
) -> None:
    x, angle = drawn(seed, rows, heads * 2 * half), drawn(seed + 1, rows, 1, half)
    cos, sin = angle.cos(), angle.sin()
    parts = x.double().view(rows, heads, 2, half)
    turned = torch.complex(parts[:, :, 0], parts[:, :, 1]) * torch.polar(torch.full_like(angle, scale), angle)
    expected = torch.stack([turned.real, turned.imag], 2).reshape(x.shape)
    found = elementwise.rotated(x, cos, sin, scale, 1.0)
    close(found, expected)
    torch.testing.assert_close(elementwise.rotated(found, cos, sin, 1 / scale, -1.0), x, rtol=1e-4, atol=1e-4)


@needs_kernels
@given(seeds, st.integers(1, 20), sizes)
@settings(deadline=None, max_examples=40)
def test_the_targets_log_probabilities_are_pytorchs(seed: int, rows: int, width: int) -> None:
    logits = drawn(seed, rows, width)
    targets = torch.randint(0, width, (rows,), generator=torch.Generator().manual_seed(seed))
    expected = logits.double().log_softmax(-1)
    exponentials = logits.clone()
    own, likeliest, total = elementwise.target_softmax_(exponentials, targets)
    close(own, expected[torch.arange(rows), targets])
    close(exponentials / total[:, None], expected.exp())
    assert torch.equal(likeliest.bool(), logits[torch.arange(rows), targets] == logits.amax(1))


@needs_kernels
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_comes_through(bad: float) -> None:
    x = drawn(0, 3, 40)
    x[1, 7] = bad
    for found in (
        elementwise.rms(x, torch.ones(40), 1e-6)[0],
        elementwise.causal_softmax_(x.clone().view(3, 1, 40)).view(3, 40),
        elementwise.target_softmax_(x.clone(), torch.zeros(3, dtype=torch.int64))[0][:, None],
    ):
        assert [bool(row.isfinite().all()) for row in found] == [True, False, True]
    nan = x.clone().nan_to_num_(nan=float("nan"), posinf=float("nan"))
    assert elementwise.swiglu(nan, torch.ones(3, 40))[1, 7].isnan()


@pytest.fixture
def fresh() -> Iterator[None]:
    caches = (kernels._library, kernels._reason, kernels._built)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def gradients() -> dict[str, Tensor]:
    built = engine(tiny.model())
    built.forward_backward(random_items(5), losses.nll)
    return {name: weight.grad.clone() for name, weight in built.trained.items() if weight.grad is not None}


@needs_kernels
@pytest.mark.usefixtures("fresh")
def test_without_a_compiler_training_is_the_same_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    with_kernels = gradients()
    for cached in (kernels._library, kernels._reason, kernels._built):
        cached.cache_clear()
    monkeypatch.setattr(kernels, "_compiler", lambda: None)
    assert kernels.library() is None
    assert "no C compiler" in str(kernels.reason())
    without = gradients()
    assert with_kernels.keys() == without.keys()
    for name, gradient in with_kernels.items():
        torch.testing.assert_close(gradient, without[name], rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("fresh")
def test_a_compiler_that_fails_is_quoted_and_nothing_else_happens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'no such thing as a C compiler' >&2\nexit 3\n")
    broken.chmod(0o700)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kernels.library() is None
    assert "no such thing as a C compiler" in str(kernels.reason())
    assert list((tmp_path / "tomoni" / "kernels").iterdir()) == []


@needs_kernels
@pytest.mark.usefixtures("fresh")
def test_a_build_is_made_once_and_one_that_others_may_write_to_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = kernels._built()
    before = made.stat().st_mtime_ns
    kernels._built.cache_clear()
    assert kernels._built().stat().st_mtime_ns == before
    made.write_bytes(b"not a library")
    made.chmod(0o777)
    kernels._built.cache_clear()
    assert kernels._built() == made
    assert made.read_bytes() != b"not a library"
    assert kernels.library() is not None


@pytest.mark.usefixtures("fresh")
def test_kernels_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMONI_KERNELS", "off")
    assert kernels.library() is None
    assert "TOMONI_KERNELS" in str(kernels.reason())


@needs_kernels
@pytest.mark.usefixtures("fresh")
def test_a_build_that_was_cut_short_is_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = kernels._built()
    made.write_bytes(made.read_bytes()[:100])
    assert kernels.library() is not None
    assert kernels.reason() is None
