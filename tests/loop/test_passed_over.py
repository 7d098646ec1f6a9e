"""Pairs that people pass over: they say nothing, nobody waits for them, and leaving some out does not bend the evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.loop.test_gate import SAFE, said
from tomoni.feedback.entries import Stored
from tomoni.loop import asked as asking
from tomoni.loop.evidence import Evidence, Said, counted
from tomoni.loop.gate import decide
from tomoni.records import Judgement, Kind, Message


def over(n: int, pair: str, **more: object) -> Said:
    return replace(Said(n, pair, "k0", 0.5, skipped=True), **more)  # type: ignore[arg-type]


def test_a_pair_that_is_passed_over_changes_no_figure() -> None:
    xs = said([1, 1, 0] * 12, people=5, topics=("a", "b"))
    some = [over(500 + n, f"s{n}", slice="ab"[n % 2]) for n in range(20)]
    with_, without = decide(Evidence([*xs, *some], safety=SAFE)), decide(Evidence(xs, safety=SAFE))
    assert with_.log_e == pytest.approx(without.log_e)
    assert (with_.win_rate, with_.controlled, with_.said, with_.counted) == (
        without.win_rate, without.controlled, without.said, without.counted,
    )  # fmt: skip
    assert [one for one in with_.reasons if one.key != "one_persons_share"] == [
        one for one in without.reasons if one.key != "one_persons_share"
    ]


def test_where_everything_is_passed_over_the_round_ends() -> None:
    many = decide(Evidence([over(n, f"s{n}") for n in range(1, 501)]))
    assert many.outcome == "keep" and many.counted == 0
    few = decide(Evidence([over(1, "s")]))
    assert few.outcome == "undecided" and few.win_rate[0] == 0.5


def test_what_was_passed_over_first_stays_so_and_half_of_both_orders_is_the_whole() -> None:
    first = [over(1, "a"), Said(2, "a", "k1", 1.0)]
    both = [Said(3, "b", "k1", 1.0, both=True), over(4, "b~again", both=True)]
    pairs = counted(Evidence([*first, *both]), cap=1.0, newcomer=0.75).pairs
    assert [(pair.pair, pair.x, pair.skipped) for pair in pairs] == [("a", 0.5, True), ("b", 0.5, True)]


def test_people_who_leave_out_what_the_head_overrates_do_not_bend_the_evidence() -> None:
    """The candidate is no better. The head knows half of what decides (`taste`), and takes length for the other half; pairs
    with a long answer of the candidate's are passed over. What is left would look like a candidate that the head misjudges."""
    rng = np.random.default_rng(3)
    taste, long = rng.choice([-0.2, 0.2], 1500), rng.choice([-0.2, 0.2], 1500)
    won = rng.random(1500) < 0.5 + taste
    told = [
        Said(
            n + 1, f"p{n}", f"k{n % 9}", 0.5 if long[n] > 0 else float(won[n]), expected=0.5 + taste[n] + long[n],
            elsewhere=0.5, skipped=bool(long[n] > 0),
        )
        for n in range(1500)
    ]  # fmt: skip
    left_out = decide(Evidence([one for one in told if not one.skipped]))
    assert max(left_out.log_e_path) > left_out.needed  # what the game must not be: promoted, and is no better
    whole = decide(Evidence(told))
    assert max(whole.log_e_path) < whole.needed and whole.outcome != "promote"
    assert whole.counted == left_out.counted


def test_passing_over_reaches_the_gate() -> None:
    one = asking.Asked("r0001-0", "p", (Message("user", "何時？"),), "", "", ("九時。", "十時。"), 1, False, "random")
    skip = Judgement(
        "s", "k", one.messages, one.texts, (0, 1), Kind.COMMENT, {},
        extra={"pair": one.id, "purpose": "gate", "skipped": True},
    )  # fmt: skip
    comment = replace(skip, id="c", comment="？", extra={"pair": one.id, "purpose": "gate"})
    found = asking.said_of([Stored(3, skip, ""), Stored(4, comment, "")], [one])
    assert [(said.pair, said.x, said.skipped) for said in found] == [(one.id, 0.5, True)]
