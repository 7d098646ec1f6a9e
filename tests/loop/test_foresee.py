"""The head as the gate's control variate: through the code that a round runs, it saves judgements and promotes no more of what
is no better; and without a head nothing is changed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from tests.loop.judging import judgement, pairs_of
from tests.loop.workspaces import LETTERS, asked, made, prefer
from tomoni.feedback.entries import PromptRow, Stored
from tomoni.feedback.head import Head
from tomoni.feedback.space import Space
from tomoni.loop import asked as asking
from tomoni.loop import probes
from tomoni.loop.asked import Asked
from tomoni.loop.evidence import Evidence, counted
from tomoni.loop.foresee import OTHERS, Foresight
from tomoni.loop.gate import Settings
from tomoni.loop.rehearse_gate import course
from tomoni.loop.round import Wanted, play
from tomoni.loop.taste import Known
from tomoni.world import safety_probes

PAIRS, BATCHES, HELD_OUT = 60, 6, 24
ROWS = [PromptRow(asked(f"{n}?"), "typed", None, "", "active", True, f"{n:02}", "") for n in range(HELD_OUT)]


class Ledger:
    """A reader of made-up answers: what the head sees of each is its gold through noise."""

    space = Space(np.zeros(1), np.zeros(1), np.zeros((1, 0)), np.array([0.0, 1.0]), None)

    def __init__(self, rng: Any, better: float) -> None:
        self.rng, self.better, self.gold, self.seen = rng, better, dict[str, float](), dict[str, float]()
        self.own_Q = rng.permutation(np.repeat([-0.8, 0.8], HELD_OUT // 2))  # on some prompts better, on others worse

    def answers(self, prompts: Sequence[asking.Prompt]) -> list[tuple[str, str]]:
        found = []
        for prompt in prompts:
            base, candidate = self.rng.normal(0, 1.2, 2)
            number = int(prompt[0].content[:-1])
            both = []
            for gold in (base, candidate + self.better + self.own_Q[number]):
                text = f"answer {len(self.gold)}"
                self.gold[text], self.seen[text] = float(gold), float(gold + self.rng.normal(0, 0.8))
                both.append(text)
            found.append((both[0], both[1]))
        return found

    def read(self, wanted: Sequence[tuple[asking.Prompt, str]]) -> list[Known]:
        return [Known(np.array([self.seen[text]]), -5.0, 5) for _, text in wanted]


def shown(seed: int, *, better: float, slope: float | None) -> tuple[str, int]:
    """What the gate decides, asked after every judgement, and after how many; `slope`: what the head thinks of what it
    sees, None where there is no head."""
    ledger = Ledger(np.random.default_rng([seed, 5]), better)
    pairs: list[Asked] = []
    for batch in range(BATCHES):
        key = f"{seed} {batch}"
        seen = None if slope is None else Foresight(ledger, Head(np.array([slope]), np.eye(1) * 0.01, 1.0, labels=50))
        chosen = asking.drawn(ROWS, PAIRS, used={}, key=key, slices={"": ""}, again=True)
        others = asking.others(ROWS, OTHERS * PAIRS, key=key)
        answers = ledger.answers([*(row.messages for row, _ in chosen), *others])
        some, _ = asking.pairs_of(1, chosen, answers[: len(chosen)], key=key, slices={"": ""})
        if seen is not None:
            unjudged = zip(others, answers[len(chosen) :], strict=True)
            some = seen.on(some, [(prompt, *both) for prompt, both in unjudged])
        pairs += some
    rng = random.Random(seed)
    stored = []
    for number, one in enumerate(pairs):
        x = float(rng.random() < expit(ledger.gold[one.new] - ledger.gold[one.old]))
        said = judgement(one.id, "k", replace(one, both=False), x)
        stored.append(Stored(number + 1, said, ""))
    evidence = Evidence(asking.said_of(stored, [replace(one, both=False) for one in pairs]))
    tally = counted(evidence, cap=1.0, newcomer=1.0)
    return course(tally.pairs, -np.log(0.05), Settings(miss=0.2, most=len(tally.pairs)))


@pytest.mark.parametrize("slope", [None, 0.8, -0.8])
def test_at_most_one_in_twenty_that_are_no_better_is_promoted_whatever_the_head_thinks(slope: float | None) -> None:
    outcomes = [shown(seed, better=0.0, slope=slope)[0] for seed in range(100)]
    assert outcomes.count("promote") / len(outcomes) <= 0.05


def test_a_head_that_sees_what_people_like_saves_judgements() -> None:
    plain, helped = ([shown(seed, better=0.75, slope=slope) for seed in range(40)] for slope in (None, 0.8))
    assert sum(outcome == "promote" for outcome, _ in helped) >= sum(outcome == "promote" for outcome, _ in plain) - 3
    assert np.mean([n for _, n in helped]) < 0.9 * np.mean([n for _, n in plain])


def test_no_two_judged_pairs_share_what_nobody_judges_and_those_for_a_topic_have_none() -> None:
    ledger = Ledger(np.random.default_rng(0), 0.0)
    rows = [(row, "random" if number % 3 else "slice") for number, row in enumerate(ROWS)]
    answers = ledger.answers([row.messages for row, _ in rows])
    pairs, _ = asking.pairs_of(1, rows, answers, key="k", slices={"": ""})
    others = asking.others(ROWS, 40, key="k")
    unjudged = [(prompt, *both) for prompt, both in zip(others, ledger.answers(others), strict=True)]
    seen = Foresight(ledger, Head(np.array([1.0]), np.eye(1) * 1e-9, 1.0, labels=50))
    found = seen.on(pairs, unjudged)
    told = [one for one in found if one.expected is not None]
    assert {one.selected_by for one in told} == {"random"} and len(told) == 16
    rate_M = [float(expit(ledger.seen[new] - ledger.seen[old])) for _, old, new in unjudged]
    for number, one in enumerate(told):
        assert one.elsewhere == pytest.approx(np.mean(rate_M[number::16]), abs=1e-6)
        assert one.expected == pytest.approx(float(expit(ledger.seen[one.new] - ledger.seen[one.old])), abs=1e-6)
    assert all(one.elsewhere is None for one in found if one.selected_by == "slice")
    few = seen.on(pairs, unjudged[:3])
    assert sum(one.expected is not None for one in few) == 3


@pytest.mark.parametrize(("comparisons", "there"), [(9, False), (10, True)])
def test_a_round_lets_the_head_foresee_only_where_it_knows_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comparisons: int, there: bool
) -> None:
    monkeypatch.setattr(probes, "safety_probes", lambda world: safety_probes(world)[::20])
    path, person = made(tmp_path / "w", held_out=16)
    for number in range(comparisons):
        prefer(path, person, f"{LETTERS[number]}?", "AAAA", "zzzz")
    wanted = Wanted(path, pairs=16, prompts=16, answers=2, threads=1, settings=Settings(safety_margin=0.6))
    pairs = pairs_of(play(wanted).folder)
    assert pairs and all((one.expected is not None) is there for one in pairs)
    assert all((one.elsewhere is not None) is there for one in pairs)
