"""How many cores a piece of work gets, by the times that it took."""

from __future__ import annotations

from tomoni.engine.cores import LATEST, SOONEST, Cores


def play(cores: Cores, pieces: int, seconds: dict[int, float], *, size: int = 16, most: int = 4) -> list[int]:
    chosen = []
    for _ in range(pieces):
        count = cores.choose(most, size)
        cores.told(most, size, count, seconds[count])
        chosen.append(count)
    return chosen


def test_the_faster_way_is_taken_and_the_slower_one_tried_ever_more_rarely() -> None:
    quiet = play(Cores(), 4 * LATEST, {1: 2.0, 4: 0.6})
    assert quiet[:2] == [4, 1]
    assert quiet.count(1) < 12
    busy = play(Cores(), 4 * LATEST, {1: 2.0, 4: 9.0})
    assert busy.count(4) < 12
    assert busy[2 : 2 + SOONEST] == [1] * SOONEST


def test_a_machine_that_becomes_busy_or_quiet_is_noticed() -> None:
    cores = Cores()
    play(cores, 200, {1: 2.0, 4: 0.6})
    assert play(cores, 100, {1: 2.5, 4: 12.0})[-1] == 1  # all cores at once became slow: one is taken within few pieces
    assert play(cores, LATEST + 100, {1: 2.0, 4: 0.6})[-1] == 4


def test_sizes_are_timed_apart_and_one_core_is_one_core() -> None:
    cores = Cores()
    play(cores, 50, {1: 1.0, 4: 5.0}, size=1)
    assert cores.choose(4, 1000) == 4  # not known yet
    assert cores.choose(4, 1) == 1
    assert cores.choose(1, 16) == 1
