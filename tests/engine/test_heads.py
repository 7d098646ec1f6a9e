"""From which rows a head begins."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tomoni.engine.heads import ENOUGH, ENOUGH_A_CLASS, beginning


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4000), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_every_class_takes_part_and_no_row_twice(labels: list[int], seed: int) -> None:
    few = beginning(labels, seed=seed)
    assert few == sorted(set(few))
    assert len(few) == min(len(labels), max(ENOUGH, sum(min(n, ENOUGH_A_CLASS) for n in Counter(labels).values())))
    there, taken = Counter(labels), Counter(labels[index] for index in few)
    assert all(taken[label] >= min(count, ENOUGH_A_CLASS) for label, count in there.items())
    assert few == beginning(labels, seed=seed)


def test_many_classes_have_twenty_rows_each_and_numbers_and_several_labels_two_thousand() -> None:
    assert len(beginning([number % 300 for number in range(30_000)], seed=0)) == 300 * ENOUGH_A_CLASS
    assert len(beginning([0.5] * 9_000, seed=0)) == ENOUGH
    rare = [0] * 50_000 + [1]
    assert 50_000 in beginning(rare, seed=3)
