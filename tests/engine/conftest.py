"""What several of the engine's tests need."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tomoni.engine import kernels, lanes


@pytest.fixture
def small_lanes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lanes as short as the tests' rows; the number of threads is as before afterwards."""
    monkeypatch.setattr(lanes, "TOKENS_A_LANE", 30)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def built_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ctypes.CDLL]:
    """The kernels as another x86 processor has them, by the compiler's name for it; those in use are not touched."""

    def build(processor: str) -> ctypes.CDLL:
        monkeypatch.setattr(kernels, "NATIVE", {"x86_64": f"-march={processor}"})
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        kernels._built.cache_clear()
        try:
            return ctypes.CDLL(str(kernels._built()))
        finally:
            kernels._built.cache_clear()

    return build
