"""What several of the engine's tests need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tomoni.engine import lanes


@pytest.fixture
def small_lanes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lanes as short as the tests' rows; the number of threads is as before afterwards."""
    monkeypatch.setattr(lanes, "TOKENS_A_LANE", 30)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
