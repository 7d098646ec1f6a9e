"""What both sides get: the same rows in the same order, with lengths of real data."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from bench import lengths
from bench.work import Prompts, Work, group_by_length, instructions, preferences, prompts, reward_of, told

BENCH = Path(lengths.__file__).parent
# what a peer's process imports: in its environment there is no tomoni
PEERS = ("peer_train", "peer_prefer", "peer_sample", "peer_command", "calibrate", "process", "work", "lengths")


def test_lengths_are_of_instruction_data_up_to_the_longest_row() -> None:
    stored = lengths.stored()
    totals = [prompt + completion for prompt, completion in stored]
    assert len(stored) == lengths.KEPT
    assert max(totals) <= lengths.LONGEST
    assert min(completion for _, completion in stored) > 1
    assert np.percentile(totals, 90) > 3 * np.median(totals)  # most are short and a few are long


def test_rows_survive_the_file(tmp_path: Path) -> None:
    work = instructions(items=16, vocabulary=8000, batch_size=8, epochs=2)
    work.save(tmp_path / "work.npz")
    again = Work.load(tmp_path / "work.npz")
    assert all(np.array_equal(one, other) for one, other in zip(work.rows, again.rows, strict=True))
    assert (again.prompts, again.order, again.batch_size) == (work.prompts, work.order, 8)
    assert again.tokens == 2 * sum(map(len, work.rows))


def test_every_epoch_holds_every_row_once_grouped_or_not() -> None:
    for grouped in (False, True):
        work = instructions(items=40, vocabulary=8000, batch_size=8, epochs=2, grouped=grouped)
        assert sorted(work.order[:40]) == sorted(work.order[40:]) == list(range(40))
        assert work.order[:40] != work.order[40:]


def test_both_orders_are_of_the_same_rows() -> None:
    shuffled, grouped = (instructions(items=40, vocabulary=8000, batch_size=8, grouped=how) for how in (False, True))
    assert all(np.array_equal(one, other) for one, other in zip(shuffled.rows, grouped.rows, strict=True))


def test_grouping_pads_less() -> None:
    def padded(work: Work) -> int:
        return sum(max(count for count, _ in work.counts(step)) * work.batch_size for step in range(work.steps))

    shuffled, grouped = (instructions(items=160, vocabulary=8000, batch_size=8, grouped=how) for how in (False, True))
    assert padded(grouped) < 0.6 * padded(shuffled)


def test_grouping_sorts_stretches_of_fifty_batches_and_puts_the_longest_row_first() -> None:
    sizes = [*range(1, 101), *range(101, 151)]
    order = group_by_length(range(150), sizes, 2)
    assert order[0] == 149
    assert [sizes[index] for index in order[1:100]] == list(range(99, 0, -1))
    assert sorted(order) == list(range(150))


def test_more_items_than_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2000 lengths are stored"):
        instructions(items=2001, vocabulary=8000, batch_size=8)


def test_prompts_survive_the_file(tmp_path: Path) -> None:
    drawn = prompts(count=5, vocabulary=8000, prompt=(16, 128), answer=(8, 256))
    drawn.save(tmp_path / "prompts.npz")
    again = Prompts.load(tmp_path / "prompts.npz")
    assert again.answers == drawn.answers
    assert all(np.array_equal(one, other) for one, other in zip(drawn.prompts, again.prompts, strict=True))
    assert all(16 <= len(prompt) <= 128 for prompt in drawn.prompts)
    assert all(8 <= answer <= 256 for answer in drawn.answers)


@pytest.mark.parametrize("name", PEERS)
def test_peers_import_nothing_of_tomoni_at_their_start(name: str) -> None:
    module = ast.parse((BENCH / f"{name}.py").read_text(encoding="utf-8"))
    imported = [
        alias.name if isinstance(node, ast.Import) else node.module or ""
        for node in module.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert not [found for found in imported if found.split(".")[0] == "tomoni"]
    assert {found.removeprefix("bench.") for found in imported if found.startswith("bench.")} <= set(PEERS)


def test_the_two_rows_of_a_pair_share_their_prompt_and_stay_together_in_either_order() -> None:
    for grouped in (False, True):
        work = preferences(pairs=12, vocabulary=8000, batch_size=4, grouped=grouped)
        assert work.steps == 3
        for first, second in zip(work.order[::2], work.order[1::2], strict=True):
            assert second == first + 1
            prompt = work.prompts[first]
            assert np.array_equal(work.rows[first][:prompt], work.rows[second][:prompt])
            assert prompt < len(work.rows[first]) <= lengths.LONGEST
            assert prompt < len(work.rows[second]) <= lengths.LONGEST
        assert sorted(work.order) == list(range(24))


def test_told_completions_of_a_prompt_differ_in_length_and_in_what_they_earn() -> None:
    work = told(prompts=4, generations=8, vocabulary=8000, batch_size=2, longest=128)
    assert work.steps == 2
    for start in range(0, 32, 8):
        completions = [work.rows[row][work.prompts[row] :].tolist() for row in range(start, start + 8)]
        assert len({work.rows[row][: work.prompts[row]].tobytes() for row in range(start, start + 8)}) == 1
        assert len(set(map(len, completions))) > 1
        assert len(set(map(reward_of, completions))) > 1
        assert all(16 <= len(one) <= 128 and 0 <= reward_of(one) <= 1 for one in completions)
