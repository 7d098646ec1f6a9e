"""What the pages share: the workspace's store and registry, who comes in, and the model that answers. No torch."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tomoni.studio.doors import Doors, order_of
from tomoni.studio.words import Lang

if TYPE_CHECKING:
    from tomoni.feedback.store import Store
    from tomoni.registry import Registry
    from tomoni.studio.answering import Answering
    from tomoni.studio.asking import Asking
    from tomoni.studio.teaching import Teaching
    from tomoni.studio.training import Training

SECRET = "studio.secret"  # the setting; random per workspace


@dataclass
class House:
    workspace: Path
    store: Store
    registry: Registry
    doors: Doors
    answering: Answering
    asking: Asking
    teaching: Teaching
    training: Training
    lang: Lang | None = None  # asked for on the command line

    def __post_init__(self) -> None:
        self._secret = secret_of(self.store)

    def order(self, person: str, pair: str) -> tuple[int, int]:
        return order_of(self._secret, person, pair)


def secret_of(store: Store) -> str:
    kept: str | None = store.get(SECRET, None)
    if kept is None:
        kept = secrets.token_hex(32)
        store.set(SECRET, kept)
    return kept
