"""The halves of a BERT layer against PyTorch in float64, dropout included, and that they are what runs where they may."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tests import tiny
from tests.engine.test_flatencoder import items
from tomoni.engine import flatencoder, kernels
from tomoni.engine.batch import collate
from tomoni.engine.calls import pointer, rows_and_width
from tomoni.engine.dropout import Draw
from tomoni.engine.encoderparts import Attend, FeedAddNorm, Project, ProjectAddNorm, Texts, attend_once
from tomoni.engine.forward import Forward

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=str(kernels.reason()))
CPU = torch.device("cpu")
seeds = st.integers(0, 2**31)
shares = st.sampled_from([0.0, 0.1, 0.5])


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def doubles(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


def agree(found: Tensor, expected: Tensor, given: list[Tensor], twins: list[Tensor], seed: int) -> None:
    """The outcome, and what a random gradient of it sends to everything that was given."""
    torch.testing.assert_close(found.detach().double(), expected.detach(), rtol=2e-5, atol=2e-5)
    direction = drawn(seed + 99, *found.shape)
    ours = torch.autograd.grad(found, given, direction)
    theirs = torch.autograd.grad(expected, twins, direction.double())
    for one, other in zip(ours, theirs, strict=True):
        size = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=2e-5 * size)


def dropped(x: Tensor, draw: Draw) -> Tensor:
    return x * draw.factors(x.numel()).view(x.shape).double() if draw.p else x


@given(seeds, st.integers(1, 9), st.integers(1, 40), st.integers(1, 50), shares)
@settings(deadline=None, max_examples=40)
def test_a_product_its_residual_and_the_norm_are_pytorchs(
    seed: int, rows: int, width: int, inner: int, p: float
) -> None:
    draw = Draw(seed % 2**32, p)
    given = [drawn(seed + i, *shape) for i, shape in enumerate([(rows, inner), (rows, width), (width, inner)])]
    given += [drawn(seed + 5 + i, width) for i in range(3)]
    given = [one.requires_grad_() for one in given]
    found = ProjectAddNorm.apply(draw, 1e-3, *given)  # type: ignore[no-untyped-call]
    x, residual, weight, bias, scale, shift = twins = doubles(*given)
    summed = dropped(x @ weight.t() + bias, draw) + residual
    expected = functional.layer_norm(summed, (width,), scale, shift, 1e-3)
    agree(found, expected, given, twins, seed)


@given(seeds, st.integers(1, 9), st.integers(1, 40), st.integers(1, 50), shares)
@settings(deadline=None, max_examples=40)
def test_what_is_fed_through_gelu_is_pytorchs(seed: int, rows: int, width: int, inner: int, p: float) -> None:
    draw = Draw(seed % 2**32, p)
    shapes: list[tuple[int, ...]] = [
        (rows, width),
        (inner, width),
        (inner,),
        (width, inner),
        (width,),
        (width,),
        (width,),
    ]
    given = [drawn(seed + i, *shape).requires_grad_() for i, shape in enumerate(shapes)]
    found = FeedAddNorm.apply(draw, 1e-3, *given)  # type: ignore[no-untyped-call]
    x, up, up_bias, down, down_bias, scale, shift = twins = doubles(*given)
    fed = functional.gelu(x @ up.t() + up_bias) @ down.t() + down_bias
    expected = functional.layer_norm(dropped(fed, draw) + x, (width,), scale, shift, 1e-3)
    agree(found, expected, given, twins, seed)


def attended(starts: Tensor, asks: Tensor, heads: int, draw: Draw, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """By heads, one text after another; what is dropped stands where the kernels draw it."""
    seen, dim = [], q.shape[1] // heads
    for text in range(len(starts) - 1):
        asking, there = slice(int(asks[text]), int(asks[text + 1])), slice(int(starts[text]), int(starts[text + 1]))
        asked, keys = asking.stop - asking.start, there.stop - there.start
        for head in range(heads):
            own = slice(head * dim, (head + 1) * dim)
            p_AT = torch.softmax(q[asking, own] @ k[there, own].t() * dim**-0.5, -1)
            if draw.p:
                places = [(int(asks[text]) * heads + head * asked + a) * 65537 % 2**32 for a in range(asked)]
                factors = draw.factors(max(places) + keys) if max(places) < 2**24 else None
                assert factors is not None
                p_AT = p_AT * torch.stack([factors[at : at + keys] for at in places]).double()
            seen.append((asking, own, p_AT @ v[there, own]))
    expected = torch.zeros_like(q)
    for asking, own, part in seen:
        expected[asking, own] = part
    return expected


@given(
    seeds,
    st.lists(st.integers(1, 37), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(1, 35),
    st.booleans(),
    shares,
)
@settings(deadline=None, max_examples=60)
def test_attention_inside_each_text_is_pytorchs(
    seed: int, lengths: list[int], heads: int, dim: int, first_only: bool, p: float
) -> None:
    """By every token of a text, or by its first one alone."""
    starts = torch.tensor([0, *lengths]).cumsum(0)
    asks = torch.arange(len(lengths) + 1) if first_only else starts
    draw = Draw(seed % 2**32, p)
    sizes = (int(asks[-1]), int(starts[-1]), int(starts[-1]))
    given = [drawn(seed + i, size, heads * dim).requires_grad_() for i, size in enumerate(sizes)]
    found = Attend.apply(Texts(starts, asks, heads), draw, *given)  # type: ignore[no-untyped-call]
    twins = doubles(*given)
    expected = attended(starts, asks, heads, draw, *twins)
    agree(found, expected, given, twins, seed)


@given(seeds, st.lists(st.integers(1, 37), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 12), shares)
@settings(deadline=None, max_examples=60)
def test_one_query_a_text_sees_what_it_sees_of_keys_and_values(
    seed: int, lengths: list[int], heads: int, dim: int, p: float
) -> None:
    """Keys, values and their gradients by the long way, in float64; the drops are the same ones."""
    starts, asks, width = torch.tensor([0, *lengths]).cumsum(0), torch.arange(len(lengths) + 1), heads * dim
    draw, key, value = Draw(seed % 2**32, p), nn.Linear(width, width), nn.Linear(width, width)
    leaves = [key.weight, key.bias, value.weight, value.bias]
    for number, leaf in enumerate(leaves):
        leaf.data = drawn(seed + 7 + number, *leaf.shape, scale=width**-0.5)
    given = [drawn(seed + i, size, width).requires_grad_() for i, size in enumerate((len(lengths), int(starts[-1])))]
    found = attend_once(Texts(starts, starts, heads), draw, *given, key, value)
    q, x, w_k, b_k, w_v, b_v = twins = doubles(*given, *leaves)
    expected = attended(starts, asks, heads, draw, q, x @ w_k.t() + b_k, x @ w_v.t() + b_v)
    agree(found, expected, [*given, *leaves], twins, seed)


@given(seeds, st.integers(1, 9), st.integers(1, 40))
@settings(deadline=None, max_examples=20)
def test_projections_of_the_same_tokens_share_one_gradient(seed: int, rows: int, width: int) -> None:
    given = [
        drawn(seed + i, *s).requires_grad_() for i, s in enumerate([(rows, width), (3, width), (3,), (5, width), (5,)])
    ]
    x, w, b, w2, b2 = twins = doubles(*given)
    found = torch.cat(Project.apply(*given), 1)  # type: ignore[no-untyped-call]
    agree(found, torch.cat([x @ w.t() + b, x @ w2.t() + b2], 1), given, twins, seed)


def test_dropout_keeps_its_share_and_its_mean_and_other_keys_drop_others() -> None:
    one, other = Draw(1, 0.1).factors(200_000), Draw(2, 0.1).factors(200_000)
    for factors in (one, other):
        assert abs(float((factors == 0).float().mean()) - 0.1) < 0.003  # 4 standard deviations
        assert abs(float(factors.mean()) - 1) < 0.004
        assert factors.unique().tolist() == pytest.approx([0.0, 1 / 0.9])
    both = float(((one == 0) & (other == 0)).float().mean())
    neighbours = float(((one[1:] == 0) & (one[:-1] == 0)).float().mean())
    assert abs(both - 0.01) < 0.001
    assert abs(neighbours - 0.01) < 0.001


def test_gelu_is_right_to_a_ten_millionth_and_lets_what_is_no_number_through() -> None:
    x = torch.linspace(-12, 12, 4001)[:, None].contiguous()
    active = torch.empty_like(x)
    library: Any = kernels.library()
    library.gelu_forward(pointer(x), pointer(torch.zeros(1)), pointer(active), *rows_and_width(x))
    error = (active.double() - functional.gelu(x.double())).abs() / x.abs().clamp(min=1)
    assert float(error.max()) < 2e-7
    bad = torch.tensor([[float("nan")], [float("inf")]])
    library.gelu_forward(pointer(bad), pointer(torch.zeros(1)), pointer(active[:2]), *rows_and_width(bad))
    assert torch.isnan(active[0]).all() and torch.isinf(active[1]).all()


def _ran(patch: pytest.MonkeyPatch, model: Any) -> int:
    """How many layers were done by these parts, of a pass over a batch."""
    forward = Forward(model)
    assert forward.encoder is not None
    ran: list[Any] = []
    fused = flatencoder._fused

    def counted(layer: Any, *given: Any) -> torch.Tensor:
        ran.append(layer)
        return fused(layer, *given)

    patch.setattr(flatencoder, "_fused", counted)
    forward.encoder.hidden(collate(items(), causal=False, limit=10_000, device=CPU).tiles)
    return len(ran)


def _body(**changes: Any) -> Any:
    made: Any = tiny.encoder("bert", masked=False, **changes)
    made.pooler = None
    return made


def test_they_run_for_plain_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _ran(monkeypatch, _body()) == 2


@pytest.mark.parametrize("why", ["a hook", "another activation", "an adapter's layer", "no kernels"])
def test_anything_else_is_left_to_the_models_own_modules(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    model = _body(hidden_act="relu") if why == "another activation" else _body()
    if why == "a hook":
        for layer in model.encoder.layer:
            layer.intermediate.dense.register_forward_hook(lambda *given: None)
    if why == "an adapter's layer":

        class Wrapped(nn.Linear):
            pass

        for layer in model.encoder.layer:
            layer.output.dense.__class__ = Wrapped
    if why == "no kernels":
        monkeypatch.setattr(flatencoder, "library", lambda: None)
    assert _ran(monkeypatch, model) == 0
