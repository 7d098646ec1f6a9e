"""A taste from few judgements, on a tiny model."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.loop.workspaces import asked
from tomoni.evaluate.subject import Subject, open_subject
from tomoni.feedback.head import Head
from tomoni.feedback.snapshot import Snapshot
from tomoni.loop.taste import Drawn, Reader, agreements, best_of, expected_win_rate, understand
from tomoni.records import Comparison, Message, Rated, Source, Verdict

HERE = Source("judgements", 1)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    from tests import tiny

    return open_subject(tiny.folder(tmp_path_factory.mktemp("tiny") / "model"))


def drawn(seed: int = 0, prompts: int = 30) -> list[Drawn]:
    """To each prompt two shouted and two quiet answers."""
    draws = random.Random(seed)

    def word(letters: str) -> str:
        return "".join(draws.choices(letters, k=draws.randint(4, 9)))

    return [
        Drawn(asked(word("abcdefgh")), tuple(word(kind) for kind in ("ABCDEFGH", "stuvwxyz") * 2))
        for _ in range(prompts)
    ]


def shouted(text: str) -> bool:
    return text.isupper()


def compared(one: Drawn, verdict: Verdict = Verdict.FIRST, *, swapped: bool = False) -> Comparison:
    """The shouted answer against the quiet one."""
    first, second = ((Message("assistant", text),) for text in one.texts[:2])
    if swapped:
        first, second = second, first
        verdict = {Verdict.FIRST: Verdict.SECOND, Verdict.SECOND: Verdict.FIRST}.get(verdict, verdict)
    return Comparison("c" + one.texts[0], HERE, one.prompt, first, second, verdict)


def snapshot(comparisons: list[Comparison] | None = None, thumbs: list[Rated] | None = None) -> Snapshot:
    return Snapshot.of(comparisons or [], [], thumbs or [], left_out={}, people=("p",), judgements=1)


def test_ten_comparisons_tell_which_of_the_answers_to_other_prompts_pleases(subject: Subject) -> None:
    judged, others = drawn(prompts=10), drawn(seed=1)
    reader = Reader(subject, judged + others)
    head = understand(reader, snapshot([compared(one) for one in judged]), judged)
    gaps = [reader_gap(reader, head.w_D, one) for one in others]
    assert np.mean([gap > 0 for gap in gaps]) > 0.9


def reader_gap(reader: Reader, w_D: np.ndarray, one: Drawn) -> float:
    first, second = reader.read([(one.prompt, text) for text in one.texts[:2]])
    return float((first.phi_D - second.phi_D) @ w_D)


def test_swapping_answers_and_verdict_gives_the_same_taste(subject: Subject) -> None:
    judged = drawn(prompts=8)
    reader = Reader(subject, judged)
    one = understand(reader, snapshot([compared(each) for each in judged]), judged)
    other = understand(reader, snapshot([compared(each, swapped=True) for each in judged]), judged)
    assert one.w_D == pytest.approx(other.w_D, abs=1e-6)


def test_ties_hold_two_answers_together_and_both_bad_says_nothing(subject: Subject) -> None:
    judged = drawn(prompts=12)
    reader = Reader(subject, judged)
    liked = [compared(one) for one in judged[:6]]
    without = understand(reader, snapshot(liked), judged)
    with_ties = understand(reader, snapshot([*liked, *(compared(one, Verdict.TIE) for one in judged[6:])]), judged)
    bad = understand(reader, snapshot([*liked, *(compared(one, Verdict.BOTH_BAD) for one in judged[6:])]), judged)
    assert abs(reader_gap(reader, with_ties.w_D, judged[8])) < abs(reader_gap(reader, without.w_D, judged[8]))
    assert bad.w_D == pytest.approx(without.w_D)


@pytest.mark.parametrize("good", [True, False])
def test_a_thumb_compares_an_answer_with_what_is_usually_said_to_its_prompt(subject: Subject, good: bool) -> None:
    judged = drawn(prompts=10)
    reader = Reader(subject, judged)
    thumbs = [
        Rated("t" + one.texts[0], HERE, one.prompt, (Message("assistant", one.texts[0]),), good) for one in judged
    ]
    head = understand(reader, snapshot(thumbs=thumbs), judged)
    assert np.mean([(reader_gap(reader, head.w_D, one) > 0) == good for one in judged]) > 0.9
    nothing = understand(reader, snapshot(thumbs=thumbs), [])
    assert nothing.labels == 0


def test_the_best_is_what_pleases_unless_the_model_doubts_it_far_more(subject: Subject) -> None:
    judged = drawn(prompts=10)
    reader = Reader(subject, judged)
    head = understand(reader, snapshot([compared(one) for one in judged]), judged)
    firm = replace(head, w_D=head.w_D * 100)  # a taste against which likelihood is nothing
    chosen = [one.texts[best_of(reader, firm, one)[0]] for one in judged]
    assert np.mean([shouted(text) for text in chosen]) > 0.9
    none = replace(head, w_D=head.w_D * 0)
    for one in judged[:3]:
        place, margin = best_of(reader, none, one)
        likely = [known.logprob / known.tokens for known in reader.read([(one.prompt, text) for text in one.texts])]
        assert place == int(np.argmax(likely)) and margin > 0


def test_of_answers_that_please_alike_the_one_that_says_what_the_others_say_is_learnt(subject: Subject) -> None:
    texts = ("It is 530 yen.", "It costs 530 yen.", "530 yen.", "It is 980 yen.")
    drawn_ = Drawn(drawn(prompts=1)[0].prompt, texts)
    others = drawn(prompts=10)
    reader = Reader(subject, [*others, drawn_])
    none = Head.blank(reader.space.dimensions, length=reader.space.length)
    agreed_N = agreements([*others, drawn_])[-1]
    assert best_of(reader, none, drawn_, agreed_N, care=0.0)[0] in (0, 1, 2)
    alone = replace(drawn_, texts=texts[:1])
    assert best_of(reader, none, alone, agreements([alone])[0])[0] == 0


def test_what_answers_share_is_counted_in_threes_of_letters_that_are_not_in_the_prompt() -> None:
    # of one prompt all threes are as rare: abcd has abc and bcd, abce has abc and bce. Dice 2·1/4, and 0 with the third
    assert agreed("?", "abcd", "abce", "xyz") == pytest.approx([0.25, 0.25, 0.0])
    # abc stands in the prompt: what is left has nothing in common, and two that add nothing say the same
    assert agreed("abc?", "abcd", "abce") == [0.0, 0.0]
    assert agreed("what is abcd?", "abcd", "bcd") == [1.0, 1.0]
    assert agreed("?", "あ", "あ") == [1.0, 1.0]
    assert agreed("?", "", "word") == [0.0, 0.0]
    assert agreed("?", "alone") == [0.0]


def test_what_every_prompts_answers_have_counts_for_nearly_nothing() -> None:
    fruits = ("fig", "yam", "nut", "pea", "rye", "oat", "soy", "lox", "ham", "cod")
    known = [Drawn((Message("user", f"{n}?"),), (f"well, {fruit}", f"well, {fruit}")) for n, fruit in enumerate(fruits)]
    unsure = Drawn((Message("user", "last?"),), ("well, egg", "well, jam", "well, tea"))
    found = agreements([*known, unsure])
    assert all(agreed_N.tolist() == pytest.approx([1.0, 1.0]) for agreed_N in found[:-1])
    assert max(found[-1]) < 0.1  # five threes of seven are alike, and say nothing
    assert max(agreements([unsure])[0]) > 0.4  # where nothing tells that


@given(st.lists(st.lists(st.text(max_size=8), min_size=1, max_size=4), min_size=1, max_size=6), st.text(max_size=6))
def test_agreement_is_a_share_and_does_not_depend_on_the_order_of_answers(texts: list[list[str]], prompt: str) -> None:
    there = [Drawn((Message("user", prompt),), tuple(some)) for some in texts]
    turned = [Drawn(one.prompt, one.texts[::-1]) for one in there[::-1]]
    for one_N, other_N in zip(agreements(there), agreements(turned)[::-1], strict=True):
        assert ((one_N >= 0) & (one_N <= 1 + 1e-12)).all()
        assert one_N.tolist() == pytest.approx(other_N[::-1].tolist(), abs=1e-12)


def agreed(prompt: str, *texts: str) -> list[float]:
    found: list[float] = agreements([Drawn((Message("user", prompt),), texts)])[0].tolist()
    return found


def test_the_expected_win_rate_is_high_for_what_was_preferred_and_half_for_what_is_alike(subject: Subject) -> None:
    judged = drawn(prompts=10)
    reader = Reader(subject, judged)
    head = understand(reader, snapshot([compared(one) for one in judged]), judged)
    better = expected_win_rate(reader, head, [(one.prompt, one.texts[1], one.texts[0]) for one in judged])
    worse = expected_win_rate(reader, head, [(one.prompt, one.texts[0], one.texts[1]) for one in judged])
    alike = expected_win_rate(reader, head, [(one.prompt, one.texts[0], one.texts[0]) for one in judged])
    assert better.low > 0.5 > worse.high
    assert better.value == pytest.approx(1 - worse.value, abs=1e-9)
    assert (alike.value, alike.low, alike.high) == (0.5, 0.5, 0.5)
