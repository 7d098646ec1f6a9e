"""Which prompts are learnt from: those that the model answers alike each time it is asked."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tomoni.loop.practice import FEWEST_PROMPTS, in_japanese, surest
from tomoni.loop.taste import Drawn
from tomoni.records import Message

PRICES = (310, 470, 580, 620, 790, 830, 940)


def asked(name: str, *, known: bool, japanese: bool = False) -> Drawn:
    """Eight answers to the price of `name`: always the same price in other words, or another one each time."""
    draws = random.Random(name)
    sure = draws.choice(PRICES)
    prices = [sure if known else draws.choice(PRICES) for _ in range(8)]
    prompt = f"{name}の値段は？" if japanese else f"What is the price at {name}?"
    frames = ("{}円です。", "はい、{}円です。") if japanese else ("It is {} yen.", "Certainly, it is {} yen.")
    return Drawn((Message("user", prompt),), tuple(draws.choice(frames).format(price) for price in prices))


def test_two_thirds_of_the_prompts_of_each_language_are_learnt_from_and_those_that_the_model_knows_first() -> None:
    english = [asked(f"shop {n}", known=n % 2 == 0) for n in range(40)]
    japanese = [asked(f"店{n}", known=n % 2 == 0, japanese=True) for n in range(20)]
    kept = surest([*english, *japanese], 1000)
    assert sum(in_japanese(one.prompt) for one in kept) == 13 and len(kept) == 40
    there = {id(one) for one in kept}
    for some in (english, japanese):
        known = [one for n, one in enumerate(some) if n % 2 == 0]
        assert sum(id(one) in there for one in known) >= 0.9 * len(
            known
        )  # an unknown one agrees by chance, now and then


def test_a_language_that_is_asked_of_is_never_left_out_because_the_model_is_surer_in_the_other() -> None:
    kept = surest(
        [
            *(asked(f"shop {n}", known=True) for n in range(30)),
            *(asked(f"店{n}", known=False, japanese=True) for n in range(30)),
        ],
        1000,
    )
    assert sum(in_japanese(one.prompt) for one in kept) == 20


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 80))
def test_how_many_are_kept(english: int, japanese: int, most: int) -> None:
    drawn = [asked(f"shop {n}", known=True) for n in range(english)]
    drawn += [asked(f"店{n}", known=True, japanese=True) for n in range(japanese)]
    kept, there = surest(drawn, most), english + japanese
    assert len(kept) == min(max(round(there * 2 / 3), min(FEWEST_PROMPTS, there)), most)
    assert [id(one) for one in drawn if any(one is other for other in kept)] == [id(one) for one in kept]  # in order
