"""Choices of people are read as they stand, and what is said of a model on them is counted right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import people


def hh(asked: str, chosen: str, rejected: str) -> str:
    begin = f"\n\nHuman: {asked}\n\nAssistant:"
    return json.dumps({"chosen": f"{begin} {chosen}", "rejected": f"{begin} {rejected}"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hh_rlhf").mkdir()
    lines = [
        hh("Hi?\n\nAssistant: Yes?\n\nHuman: Who are you?", "A: friend\n\nof yours", "no"),
        hh("Say", "", "no"),
        json.dumps({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"}),
    ]
    (tmp_path / "hh_rlhf" / "harmless-base.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "pandalm").mkdir()
    votes = [(1, 1, 2), (2, 2, 2), (0, 0, 1), (0, 1, 2), (1, 1, 1), (1, 1, 1)]
    answers = [("good", "bad"), ("bad", "good"), ("a", "b"), ("a", "b"), ("same", "same"), ("", "b")]
    rows = [
        {"idx": number, "instruction": "Do.", "input": "x" * (number % 2), "response1": one, "response2": other,
         **{f"annotator{who}": vote for who, vote in enumerate(votes[number], 1)}}
        for number, (one, other) in enumerate(answers)
    ]  # fmt: skip
    (tmp_path / "pandalm" / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path


def test_dialogues_keep_their_turns_and_what_cannot_be_compared_is_counted(folder: Path) -> None:
    (found,), left_out = people.hh_rlhf(folder)
    assert [(part["role"], part["content"]) for part in found.prompt] == [
        ("user", "Hi?"), ("assistant", "Yes?"), ("user", "Who are you?")
    ]  # fmt: skip
    assert (found.chosen, found.rejected) == ("A: friend\n\nof yours", "no")
    assert dict(left_out) == {"an empty answer": 1, "the two conversations part before the last answer": 1}


def test_the_majority_of_three_decides_and_ties_are_no_choice(folder: Path) -> None:
    found, left_out = people.pandalm(folder)
    assert [(one.prompt[0]["content"], one.chosen, one.rejected) for one in found] == [
        ("Do.", "good", "bad"), ("Do.\n\nx", "good", "bad")
    ]  # fmt: skip
    assert dict(left_out) == {"a tie": 1, "no majority": 1, "the same answers": 1, "an empty answer": 1}


def choices(count: int, start: int = 0) -> list[people.Choice]:
    """The better answer is polite, and as long."""
    return [
        people.Choice(
            f"{n}", ({"role": "user", "content": f"q{n}"},), f"please take number {n}", f"just take number {n}"
        )
        for n in range(start, start + count)
    ]


def test_words_that_people_like_are_found_and_length_is_not_mistaken_for_them() -> None:
    train, test = choices(40), choices(10, 40)
    assert people.by_words(train, test) == [1.0] * 10
    assert people.by_length(train, test) == [0.5] * 10
    longer = [people.Choice(one.id, one.prompt, one.chosen + " today", one.rejected) for one in train]
    assert people.by_length(longer, longer) == [1.0] * 40
    shorter = [people.Choice(one.id, one.prompt, one.rejected, one.chosen + " today") for one in train]
    assert people.by_length(shorter, shorter) == [1.0] * 40  # learnt, not assumed
    assert people.by_length(longer, shorter) == [0.0] * 40


def test_the_same_prompt_is_never_on_both_sides() -> None:
    made = [people.Choice(f"{n}", ({"role": "user", "content": f"q{n % 50}"},), f"{n}", "no") for n in range(500)]
    held_out = {one.prompt[0]["content"] for one in made if one.held_out}
    assert not held_out & {one.prompt[0]["content"] for one in made if not one.held_out}
    assert 2 <= len(held_out) <= 20


def test_the_table_averages_seeds_pair_by_pair() -> None:
    line = {"set": "pandalm", "seed": 0, "pairs": 1000, "left_out": {}}
    lines = [
        line | {"train": "tfidf", "right": [1.0, 0.0, 1.0, 0.0]},
        line | {"train": "head", "right": [1.0, 1.0, 1.0, 0.0], "ece": 0.1},
        line | {"train": "head", "seed": 1, "right": [1.0, 1.0, 0.0, 1.0], "ece": 0.3},
    ]
    row = people.table(lines).splitlines()[-1]
    assert row.startswith("| pandalm (1,000 + 4) | head | 75.0 % (") and "| 75.0, 75.0 | +25.0 (" in row
    assert row.endswith("| 0.200 |")
