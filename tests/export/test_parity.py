"""Parity: each way of being another model is found, and named."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest

from tomoni.export import parity
from tomoni.export.answers import Answer, Prompt, likeliest
from tomoni.records import Message
from tomoni.rows import Int32

FORM = ("gguf", "f16")
PROMPT = Prompt("one", (Message("user", "やあ"),))
LOGITS = np.array([[0.0, 3.0, 1.0, 2.0], [4.0, 0.0, 1.0, 1.5]], dtype=np.float32)


def _moved(first: float = 0.0, second: float = 0.0) -> np.ndarray:
    """Other logits of the first two tokens, at each place."""
    return LOGITS + np.array([first, second, 0.0, 0.0], dtype=np.float32)


def _answer(
    logits: Sequence[Sequence[float]] | np.ndarray = LOGITS,
    tokens: Sequence[int] | None = None,
    finish: Literal["stop", "length"] = "stop",
) -> Answer:
    found = [likeliest(np.asarray(row, dtype=np.float32)) for row in logits]
    made = [ids[0] for ids, _ in found] if tokens is None else tokens
    return Answer(
        np.asarray(made, dtype=np.int32), finish, np.stack([i for i, _ in found]), np.stack([v for _, v in found])
    )


@dataclasses.dataclass
class Program:
    """Says what it is told to say."""

    made: Answer
    said: str | None = "<u>やあ</u>"
    read: tuple[int, ...] = (5, 6)
    ending: bool = True
    name: str = "a program"

    def text(self, prompt: Prompt) -> str | None:
        return self.said

    def tokens(self, prompt: Prompt) -> Int32:
        return np.asarray(self.read, dtype=np.int32)

    def answers(self, prompts: Sequence[Int32], most: int) -> list[Answer]:
        return [self.made] * len(prompts)

    def ends_at(self, token: int, tokens: Int32) -> bool:
        return self.ending


def _compared(program: Program, form: tuple[str, str] = FORM) -> parity.Parity:
    known = parity.answers_of(Program(_answer()), [PROMPT])
    return parity.compare(known, program, form, ends={0: "</s>"}, shown=lambda ids: str(ids.tolist()))


def test_the_same_model_passes_with_no_difference() -> None:
    found = _compared(Program(_answer()))
    assert found.passed and not found.differences
    assert (found.logprob, found.divergence, found.places) == (0.0, 0.0, 2)
    assert found.text_equal == found.tokens_equal == found.answers_equal == found.ended == found.ended_before == 1


def test_a_program_without_a_template_engine_is_not_blamed_for_its_text() -> None:
    found = _compared(Program(_answer(), said=None))
    assert found.passed and found.texts == found.text_equal == 0  # nor is it said to write the same


def test_a_plain_text_is_no_proof_of_a_template_and_conversations_are_asked_instead() -> None:
    plain = Prompt("plain", text="昔々、")
    known = parity.answers_of(Program(_answer(), said="昔々、"), [plain])
    alone = parity.compare(known, Program(_answer(), said="昔々、"), FORM, ends={}, shown=str)
    assert alone.passed and (alone.text_equal, alone.texts, alone.tokens_equal) == (0, 0, 1)
    for said, equal in (("<u>やあ</u>", 1), ("<u>やあ</u> ", 0)):
        found = parity.compare(
            known, Program(_answer(), said=said), FORM, ends={}, shown=str, spoken=[(PROMPT, "<u>やあ</u>")]
        )
        assert (found.text_equal, found.texts, found.built_in_texts, found.passed) == (equal, 1, True, bool(equal))


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        (Program(_answer(), said="<u>やあ </u>"), "the chat template writes another text (on 1 of 1 prompts)"),
        (Program(_answer(), read=(5, 7)), "the text becomes other tokens (on 1 of 1 prompts)"),
        (Program(_answer(), ending=False), "the token '</s>' does not end an answer"),
        (Program(_answer(finish="length")), "an answer does not end where it ended (on 1 of 1 prompts)"),
        (Program(_answer(LOGITS[:1], finish="length")), "an answer does not end where it ended (on 1 of 1 prompts)"),
        (Program(_answer(_moved(0.2))), "logprobs differ by more than 0.1 (on 1 of 1 prompts)"),
    ],
)
def test_each_difference_fails_and_is_named(program: Program, problem: str) -> None:
    found = _compared(program)
    assert not found.passed and problem in found.problems


def test_the_largest_difference_and_the_divergence_are_those_of_the_distributions() -> None:
    """By hand: two tokens, (1/2, 1/2) against (1/4, 3/4). ln 2 is the larger difference; the divergence is
    1/2 ln (1/2 / 1/4) + 1/2 ln (1/2 / 3/4) = 1/2 ln (4/3)."""
    before = _answer(np.log([[0.5, 0.5]]), [0])
    after = _answer(np.log([[0.25, 0.75]]), [0])
    largest, divergences = parity.distances(before, after)
    assert largest == pytest.approx(np.log(2), abs=1e-6)
    assert divergences == pytest.approx([0.5 * np.log(4 / 3)], abs=1e-6)


def test_tokens_below_one_percent_do_not_count_towards_the_largest_difference() -> None:
    before = _answer(np.log([[0.991, 0.009]]))
    after = _answer(np.log([[0.9999, 0.0001]]))
    assert parity.distances(before, after)[0] == pytest.approx(np.log(0.9999 / 0.991), abs=1e-6)


def test_answers_may_part_where_two_tokens_are_nearly_as_likely() -> None:
    near = [[0.0, 3.0, 1.0, 2.99], [4.0, 0.0, 1.0, 1.5]]
    known = parity.answers_of(Program(_answer(near)), [PROMPT])
    other = Program(_answer([[0.0, 2.985, 1.0, 2.995], near[1]]))
    found = parity.compare(known, other, FORM, ends={}, shown=lambda ids: str(ids.tolist()))
    assert found.passed and found.answers_equal == 0
    assert [(one.kind, one.at, one.passed) for one in found.differences] == [("answer", 0, True)]
    assert found.differences[0].margin == pytest.approx(0.01, abs=1e-4)


def test_answers_that_part_where_the_model_was_sure_fail() -> None:
    other = Program(_answer(LOGITS, tokens=[3, 0]))  # the logits are right, and yet the second likeliest is taken
    found = _compared(other)
    assert "greedy answers part where the margin is more than 0.2 (on 1 of 1 prompts)" in found.problems


def test_nothing_is_compared_behind_the_place_where_answers_part() -> None:
    other = [_moved(0, -2)[0], [-9.0, 9.0, -9.0, -9.0]]
    assert len(parity.distances(_answer(), _answer(other))[1]) == 1


def test_a_mean_divergence_fails_though_every_logprob_is_within_its_bound() -> None:
    moved = _compared(Program(_answer(_moved(0, 0.05))))
    assert moved.logprob < 0.1 and moved.divergence > 1e-4 and not moved.passed
    assert "diverge" in moved.problems[0]


def test_no_prompt_is_no_proof() -> None:
    found = parity.compare([], Program(_answer()), FORM, ends={}, shown=str)
    assert not found.passed


def test_prompts_without_room_for_an_answer_are_left_out() -> None:
    long = Program(_answer(), read=tuple(range(100)))
    assert parity.answers_of(long, [PROMPT], context=parity.MOST_TOKENS + 99) == []
    assert len(parity.answers_of(long, [PROMPT], context=parity.MOST_TOKENS + 100)) == 1


def test_places_that_a_program_does_not_tell_are_left_out() -> None:
    untold = _answer(_moved(9), tokens=[1, 0])
    untold.ids[0], untold.logprobs[0] = -1, -np.inf
    assert len(parity.distances(_answer(), untold)[1]) == 1
