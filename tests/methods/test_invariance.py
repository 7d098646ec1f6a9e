"""What a step learns depends neither on how it was cut for memory nor on whether a shared prompt was computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from tests.methods import every
from tests.methods.every import METHODS, Learnt, learn
from tomoni.engine import engine
from tomoni.engine.engine import Engine
from tomoni.rows import Item


def assert_alike(found: Learnt, expected: Learnt, *, apart: float = 2e-5) -> None:
    assert len(found.reports) == len(expected.reports) > 0
    assert found.completions == expected.completions
    for one, other in zip(found.reports, expected.reports, strict=True):
        assert one.item_ids == other.item_ids
        assert one.stats.keys() == other.stats.keys()
        for name, mean in one.stats.items():
            assert mean.value == pytest.approx(other.stats[name].value, rel=2e-3, abs=2e-4, nan_ok=True), (
                one.step,
                name,
            )
            assert mean.count == pytest.approx(other.stats[name].count, rel=1e-4, abs=1e-6), (one.step, name)
    for name, weight in found.weights.items():
        np.testing.assert_allclose(weight, expected.weights[name], atol=apart, err_msg=name)


def cut_by(patch: pytest.MonkeyPatch, size: int) -> list[int]:
    """Micro-batches of `size` items from now on; the list fills with the sizes that were cut."""
    sizes: list[int] = []

    def micro_batches(items: Sequence[Item], budget: int) -> Iterator[tuple[Item, ...]]:
        for start in range(0, len(items), size):
            sizes.append(len(items[start : start + size]))
            yield tuple(items[start : start + size])

    patch.setattr(engine, "micro_batches", micro_batches)
    return sizes


@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_of_one_of_two_and_the_whole_step_learn_the_same(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for size in (1, 2, 1000):
        sizes = cut_by(monkeypatch, size)
        found[size] = learn(method)
        assert max(sizes) == min(size, max(sizes)) and (size > 2 or set(sizes) <= {1, size})
    assert max(sizes) > 2
    assert_alike(found[1], found[1000])
    assert_alike(found[2], found[1000])
    start = every.engine(every.config(method)).trained
    moved = [name for name, weight in start.items() if not np.allclose(weight.detach(), found[1].weights[name])]
    assert len(moved) > 10, "weights that do not move are always the same"


@pytest.mark.parametrize("method", METHODS)
def test_a_prompt_computed_once_for_its_rows_teaches_what_whole_rows_teach(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: list[bool] = []
    shares = Engine._shares

    def seen(self: Engine, rows: Sequence[object]) -> bool:
        shared.append(shares(self, rows))  # type: ignore[arg-type]
        return shared[-1]

    monkeypatch.setattr(Engine, "_shares", seen)
    once = learn(method)
    assert any(shared)
    monkeypatch.setattr(Engine, "_shares", lambda self, rows: False)
    assert_alike(once, learn(method))
