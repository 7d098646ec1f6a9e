"""Topics on which people contradict each other are found before a gate begins, and the gate asks more of a candidate there."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.loop.workspaces import asked, made, prefer
from tomoni.feedback import people as reliability
from tomoni.feedback.entries import NewPrompt
from tomoni.feedback.people import Judged
from tomoni.feedback.store import Store
from tomoni.loop import asked as asking
from tomoni.loop import crowd, probes
from tomoni.loop import round as rounds
from tomoni.loop.contested import CHANCE, contested
from tomoni.loop.evidence import Evidence, Said
from tomoni.loop.gate import Decision, Settings, decide
from tomoni.loop.rehearse_poison import World, _row, protocol
from tomoni.loop.rehearse_poison import _taught as taught
from tomoni.loop.round import Wanted, play
from tomoni.world import safety_probes

FORM = protocol().form


def judged(seed: int, *, clean: bool) -> list[Judged]:
    rng = np.random.default_rng([seed, 10])
    return taught(FORM, World.of(FORM["world"], rng), rng, clean=clean)


@pytest.mark.parametrize("seed", [910_000, 910_001, 910_002])
def test_a_topic_on_which_a_fifth_lie_is_contested_though_they_are_most_of_its_labels(seed: int) -> None:
    said = judged(seed, clean=False)
    liars = sum(one.topic == "topic 0" and "attacker" in one.person for one in said)
    assert liars > 0.5 * sum(one.topic == "topic 0" for one in said)
    assert set(contested(said, reliability.fit(said))) == {"topic 0"}


def test_people_who_agree_everywhere_and_those_who_click_at_random_everywhere_contest_nothing() -> None:
    rng, found = random.Random(0), []
    for seed in (910_010, 910_011, 910_012):
        said = judged(seed, clean=True)
        clickers = [
            replace(one, y=float(rng.random() < 0.5)) if one.person[:2] in ("03", "04") else one for one in said
        ]
        found += [contested(some, reliability.fit(some)) for some in (said, clickers)]
    assert sum(len(one) for one in found) <= 1  # of 48 looks, each wrong once in 1 / CHANCE
    assert CHANCE < 0.01


def test_of_few_labels_nothing_is_said() -> None:
    said = judged(910_000, clean=False)[:60]
    assert contested(said, reliability.fit(said)) == {}


def test_on_a_contested_topic_a_fifth_of_praise_is_not_enough() -> None:
    """Honest people say that it is no better there (a half); with a fifth of praise six in ten prefer it."""
    rng, said = np.random.default_rng(1), []
    for place in range(480):
        topic = place % 4
        share = 0.6 if topic == 0 else 0.8
        said.append(Said(place + 1, f"p{place}", f"k{place % 19}", float(rng.random() < share), f"topic {topic}"))
    believed = decide(Evidence(said), Settings(slice_lag=99.0))
    doubted = decide(Evidence(said, contested=frozenset({"topic 0"})), Settings(slice_lag=99.0))
    assert believed.outcome == "promote" and doubted.outcome != "promote"
    assert doubted.unsure == {"topic 0"} and believed.unsure == frozenset()
    better = [replace(one, x=1.0) if one.slice == "topic 0" and int(one.pair[1:]) % 3 else one for one in said]
    assert decide(Evidence(better, contested=frozenset({"topic 0"}))).outcome == "promote"


def test_a_round_notes_contested_topics_before_it_asks_and_its_gate_heeds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[set[str]] = []
    weighed: list[Evidence] = []

    def hear(judged: list[Judged], people: Any) -> dict[str, float]:
        heard.append({one.topic for one in judged})
        return {"prices": 0.001, "not held out": 0.001}

    def look(evidence: Evidence, settings: Settings) -> Decision:
        weighed.append(evidence)
        return decide(evidence, settings)

    monkeypatch.setattr(crowd, "contested", hear)
    monkeypatch.setattr(rounds, "decide", look)
    monkeypatch.setattr(probes, "safety_probes", lambda world: safety_probes(world)[::20])
    path, person = made(tmp_path / "w", prompts=0, held_out=0)
    with Store.open(path) as store:
        store.add_prompts([NewPrompt(asked(f"{n}?"), "typed", topic="prices" if n % 2 else "hours") for n in range(20)])
        held_out = [
            NewPrompt(asked(f"{n}!"), "typed", topic="prices" if n % 2 else "hours", held_out=True) for n in range(16)
        ]
        store.add_prompts(held_out)
    for number in range(12):
        prefer(path, person, f"{number}?", "AAAA", "zzzz")
    play(Wanted(path, pairs=16, prompts=16, answers=2, threads=1, settings=Settings(safety_margin=0.6)))
    assert heard == [{"prices", "hours"}]
    assert all(one.contested == {"prices"} for one in weighed) and weighed


def test_after_the_first_look_only_topics_that_the_gate_is_unsure_of_get_more_pairs() -> None:
    rows = [_row(number, number % 6) for number in range(30)]
    slices = {row.topic: row.topic for row in rows}
    first = asking.drawn(rows, 60, used={}, key="a", slices=slices, again=True)
    assert min(sum(row.topic == topic for row, _ in first) for topic in slices) >= asking.LEAST
    later = asking.drawn(rows, 60, used={}, key="b", slices=slices, again=True, unsure={"topic 2"})
    besides = {row.topic for row, how in later if how == asking.SLICE}
    assert besides == {"topic 2"} and sum(row.topic == "topic 2" for row, _ in later) == asking.MORE
    assert len(asking.drawn(rows, 60, used={}, key="c", slices=slices, again=True, unsure=frozenset())) == 60
