"""What the pages share: the workspace's store and registry, who comes in, and the model that answers. No torch."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tomoni.studio.doors import Doors, order_of
from tomoni.studio.insight import AGAIN, base_of
from tomoni.studio.quota import ANSWERS_A_MINUTE, Quota
from tomoni.studio.words import Lang

if TYPE_CHECKING:
    from tomoni.feedback.store import Store
    from tomoni.registry import Registry
    from tomoni.studio.answering import Answering
    from tomoni.studio.asking import Asking
    from tomoni.studio.holding import Holding
    from tomoni.studio.insight import Insight
    from tomoni.studio.rounding import Rounds
    from tomoni.studio.steward import Steward
    from tomoni.studio.teaching import Teaching
    from tomoni.studio.training import Training

DRAWN = "studio.secret"  # the setting's name; its value is random per workspace


@dataclass
class House:
    workspace: Path
    store: Store
    registry: Registry
    doors: Doors
    answering: Answering
    asking: Asking
    insight: Insight
    teaching: Teaching
    training: Training
    rounds: Rounds
    holding: Holding
    steward: Steward
    lang: Lang | None = None  # asked for on the command line
    answers_a_minute: int = ANSWERS_A_MINUTE  # that a person may ask of the model; 0: as many as they like
    _quota: Quota = field(default_factory=Quota)

    def __post_init__(self) -> None:
        self._secret = secret_of(self.store)

    def ask(self, person: str, answers: int) -> None:
        """Fault 429 where the person has asked for too many answers in the last minute."""
        if self.answers_a_minute:
            self._quota.take("too_many_asked", f"{self.answers_a_minute} per minute", "answers", person, cost=answers)

    def order(self, person: str, pair: str) -> tuple[int, int]:
        order = order_of(self._secret, person, base_of(pair))
        return (order[1], order[0]) if pair.endswith(AGAIN) else order  # asked again, the sides are swapped


def secret_of(store: Store) -> str:
    kept: str | None = store.get(DRAWN, None)
    if kept is None:
        kept = secrets.token_hex(32)
        store.set(DRAWN, kept)
    return kept
