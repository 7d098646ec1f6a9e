from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.serve.running import Running, serving, workspace


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for the tests that leave nothing behind."""
    folder: Path = tmp_path_factory.mktemp("served")
    workspace(folder)
    with serving(workspace=folder) as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with server.client() as made:
        yield made
