from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from tests.studio.rooms import Browser, house_in, owner
from tomoni.studio import doors
from tomoni.studio.house import House

RECOMMENDED = doors.hasher


@pytest.fixture(autouse=True, scope="session")
def quick_passwords() -> Iterator[None]:
    """Argon2 as it is, with a thousandth of the work; `test_doors` looks at how it is set up for people."""
    quick = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=64, parallelism=1),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doors, "hasher", lambda: quick)
        yield


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with house_in(tmp_path) as made:
        yield made


@pytest.fixture
def browser(house: House) -> Browser:
    """The owner's, signed in."""
    return Browser(house).enter(owner(house))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """For tests whose requests are refused: a house that nothing is changed in."""
    with house_in(tmp_path_factory.mktemp("shared")) as made:
        yield made


@pytest.fixture(scope="session")
def visitor(shared: House) -> Browser:
    """The owner's browser in the shared house."""
    return Browser(shared).enter(owner(shared))
