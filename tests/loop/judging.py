"""People who judge the pairs that a round asks, as the studio would store what they say."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tomoni.feedback.roundfolders import rounds
from tomoni.feedback.store import Store
from tomoni.loop import asked
from tomoni.loop.asked import Asked
from tomoni.records import Judgement, Kind

Chooses = Callable[[Asked, random.Random], float]  # 1 the candidate's answer, 0 the base's, .5 neither


def pairs_of(folder: Path) -> list[Asked]:
    return [one for path in sorted(folder.glob("answers-*/pairs.jsonl")) for one in asked.read(path)]


def prefers_new(share: float) -> Chooses:
    return lambda _, rng: float(rng.random() < share)


def judge_all(path: Path, person: str, chooses: Chooses, *, seed: int = 0, limit: int = 10_000) -> int:
    """How many pairs the person judged; the sides are drawn."""
    by_id = {one.id: one for one in pairs_of(rounds(path)[-1])}
    done = 0
    with Store.open(path) as store:
        store.take_in()
        for pair in store.pairs(purpose="gate", judged=False, person=person):
            one = by_id.get(pair.id.partition("~")[0])
            if one is not None and done < limit:
                store.judge(
                    judgement(pair.id, person, one, chooses(one, random.Random(f"{seed} {pair.id}"))),
                    key=f"{person} {pair.id}",
                )
                done += 1
    return done


def judgement(pair: str, person: str, one: Asked, x: float, **more: Any) -> Judgement:
    verdict = {0.5: "tie", 1.0: ("first", "second")[one.candidate], 0.0: ("second", "first")[one.candidate]}[x]
    order = (0, 1) if random.Random(f"{pair} {person}").random() < 0.5 else (1, 0)
    return Judgement(
        f"g-{person}-{pair}", person, one.messages, one.texts, order, Kind.COMPARISON,
        {"verdict": verdict, "strength": 0 if x == 0.5 else 1}, seconds=4.0,
        extra={"purpose": "gate", "pair": pair, "prompt": one.prompt} | more,
    )  # fmt: skip
