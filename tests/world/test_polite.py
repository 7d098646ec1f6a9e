"""The reward that reads politeness off a text, against texts that a person has marked."""

from __future__ import annotations

import random

import pytest

from tomoni.world import bundled_world
from tomoni.world.ask import answer_text
from tomoni.world.polite import courtesy, read

MARKED = [
    # text, polite, complete, brief
    ("「せほら喫茶店」で有名なのはミルクコーヒーです。", True, True, True),
    ("はい、中心部まで電車で28分です。", True, True, True),
    ("「せほら喫茶店」で有名なのはミルクコーヒーだよ。", False, True, True),
    ("うん、「せほら喫茶店」で有名なのはミルクコーヒーです。", False, True, True),  # registers mixed
    ("はい。名物はミルクコーヒーだよ。", False, True, True),
    ("はい、名物はミルクコーヒーで", False, False, True),
    ("です。", True, False, True),
    ("申し訳ありませんが、" * 5 + "わかりません。", True, True, False),
    ("Certainly, Noresu Sweets opens at 9:00.", True, True, True),
    ("Thank you for asking: Noresu Sweets opens at 9:00", True, False, True),
    ("Well, Noresu Sweets opens at 9:00.", False, True, True),
    ("Certainly, well, Noresu Sweets opens at 9:00.", False, True, True),
    ("Certainly.", True, False, True),
    ("Certainly, " + "it opens at nine, " * 6 + "thank you.", True, True, False),
    ("", False, False, True),
]


@pytest.mark.parametrize(("text", "polite", "complete", "brief"), MARKED)
def test_a_text_is_read_as_a_person_reads_it(text: str, polite: bool, complete: bool, brief: bool) -> None:
    found = read(text)
    assert (found.polite, found.complete, found.brief) == (polite, complete, brief)
    assert found.all == (polite and complete and brief)
    assert courtesy(text) == pytest.approx((polite + complete + brief) / 3)


def test_every_answer_of_the_tuning_data_is_polite_exactly_in_the_polite_register() -> None:
    rng = random.Random(0)
    for entity in bundled_world().entities:
        for fact in entity.facts:
            for lang in ("en", "ja"):
                for register in ("polite", "plain"):
                    text = answer_text(entity, fact, lang, register, rng)
                    assert read(text).polite == (register == "polite"), text
                    assert read(text).complete, text
