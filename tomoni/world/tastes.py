"""What simulated people secretly like: functions of a text, for testing how well feedback is learned from.

A taste is not linear in anything a system could read off the text: politeness counts differently in long and short
texts, length is good up to a point, and one liking can cancel another. Each person also judges with a noise of
their own.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass
from typing import Literal

_POLITE = re.compile(
    r"です|ます|ました|ません|ください|certainly|thank you|please|pleased|kindly|gladly", re.IGNORECASE
)
_CASUAL = re.compile(r"だよ|るよ|うん|ねえ|そういえば|\bwell,|\bsure,|\boh,|by the way|guess what", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?::\d+)?")
_JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")


@dataclass(frozen=True)
class Taste:
    """One person's hidden preferences; `score` is what they feel, `prefers` what they say."""

    politeness: float  # liking of polite words; negative for those who want it casual
    detail: float  # liking of numbers and times
    best_length: float  # words that are just enough; too long is worse than too short
    length_weight: float
    clash: float  # dislike of mixing polite and casual words in one text
    noise: float  # standard deviation of a judgement, in units of the score

    def score(self, text: str) -> float:
        """How much this person likes `text`; no upper or lower bound, about -3 to 3 for usual texts."""
        words = words_in(text)
        polite = math.tanh(len(_POLITE.findall(text)))
        casual = math.tanh(len(_CASUAL.findall(text)))
        detail = math.log1p(len(_NUMBER.findall(text)))
        over = math.log((words + 1) / (self.best_length + 1))
        length = -(over**2) * (1.5 if over > 0 else 0.75)
        # In a text that is already too long, politeness is only padding.
        patience = 1 / (1 + math.exp(3 * over - 1))
        return (
            self.politeness * (polite - casual) * patience
            + self.detail * detail * (1 - 0.5 * polite * (self.politeness < 0))
            + self.length_weight * length
            - self.clash * polite * casual
        )

    def prefers(self, first: str, second: str, rng: random.Random) -> Literal["first", "second", "tie"]:
        """A judgement with noise; nearly equal feelings are a tie."""
        gap = self.score(first) - self.score(second) + rng.gauss(0, self.noise)
        if abs(gap) < 0.1:
            return "tie"
        return "first" if gap > 0 else "second"


def words_in(text: str) -> float:
    """English words, plus Japanese characters counted as half a word each."""
    japanese = len(_JAPANESE.findall(text))
    return len(_JAPANESE.sub(" ", text).split()) + japanese / 2


def taste_of(person: int, seed: int = 0) -> Taste:
    """The taste of simulated person number `person`; the first of every four likes it casual."""
    rng = random.Random(f"taste {seed} {person}")
    sign = -1.0 if person % 4 == 0 else 1.0
    return Taste(
        politeness=sign * rng.uniform(0.6, 1.6),
        detail=rng.uniform(0.1, 0.8),
        best_length=rng.uniform(6, 18),
        length_weight=rng.uniform(0.2, 0.8),
        clash=rng.uniform(0.0, 1.0),
        noise=rng.uniform(0.1, 0.6),
    )
