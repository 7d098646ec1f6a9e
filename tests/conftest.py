"""For every test: no network, the same random examples each time, the folder of real data where one is named."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
settings.register_profile(
    "tomoni", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("tomoni")

HERE = {"127.0.0.1", "::1", "localhost"}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in HERE:
            raise OSError(f"a test tried to reach {address!r}; tests need no network")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def realdata() -> Iterator[Path]:
    """The folder of public data sets; the test is skipped where TOMONI_REALDATA names none."""
    named = os.environ.get("TOMONI_REALDATA")
    if not named or not Path(named).is_dir():
        pytest.skip("TOMONI_REALDATA names no folder")
    yield Path(named)
