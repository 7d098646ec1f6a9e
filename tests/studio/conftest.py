from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.studio.rooms import Browser, house_in, owner
from tomoni.studio.house import House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with house_in(tmp_path) as made:
        yield made


@pytest.fixture
def browser(house: House) -> Browser:
    """The owner's, signed in."""
    return Browser(house).enter(owner(house))
