"""Worlds with a hidden taste, and simulated people who answer by it. Numpy; the text world reads tomoni.world.

A bank holds the answers to some prompts: what the system may see of them (features, lengths), and the gold reward that it
never sees. Three worlds:

    linear   gold is a straight line in the system's own space: theory holds exactly
    curved   gold is additive values, two interactions and a length that is good up to a point; the system sees tanh
             projections of what gold is made of, with noise: no straight line in them is gold
    texts    answers are texts of the invented world, gold is a taste of tomoni.world.tastes, features are hashed
             character n-grams: gold is read off the text

Gold is scaled until two people without any lapse, who say what s(gap) makes them say, agree as often as the protocol asks.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from tomoni.feedback.arrays import Float
from tomoni.feedback.channel import Channel
from tomoni.feedback.space import Space
from tomoni.world import bundled_world
from tomoni.world.ask import answer_text
from tomoni.world.names import Lang
from tomoni.world.tastes import taste_of
from tomoni.world.tell import join
from tomoni.world.wording import REGISTERS

Kind = Literal["linear", "curved", "texts"]
Whole = NDArray[np.int64]

ATTRIBUTES = 8
TOPICS = 4
HASHES = 256
SEEN = 64  # features of the curved world
SEEN_NOISE = 0.15


@dataclass(frozen=True, slots=True)
class Bank:
    """`phi_AD` in the system's space, `gold_A` scaled to gaps in logits, `log_length_A`; prompts number 0 to Q - 1, of
    which those from `held_out` on are never asked about. `topic_Q`: one of four."""

    phi_AD: Float
    gold_A: Float
    log_length_A: Float
    prompt_A: Whole
    topic_Q: Whole
    held_out: int
    length: int  # the space's column of the log length

    @property
    def prompts(self) -> int:
        return len(self.topic_Q)

    def answers_of(self, prompt: int) -> Whole:
        """Numbers of the answers to a prompt; every prompt has as many."""
        each = len(self.prompt_A) // self.prompts
        return np.arange(prompt * each, (prompt + 1) * each)

    def some_pairs(self, n: int, rng: np.random.Generator, *, held_out: bool = False) -> tuple[Whole, Whole]:
        """n random pairs of different answers to one prompt each."""
        each = len(self.prompt_A) // self.prompts
        span = (self.held_out, self.prompts) if held_out else (0, self.held_out)
        prompt_N = rng.integers(*span, n)
        first_N = rng.integers(0, each, n)
        second_N = (first_N + rng.integers(1, each, n)) % each
        return prompt_N * each + first_N, prompt_N * each + second_N


def bank(
    kind: Kind, seed: int, *, prompts: int, answers: int, held_out: int, agreement: float, components: int
) -> Bank:
    """`held_out` prompts of `prompts` are kept apart. `agreement`: of two people without lapses, on random pairs."""
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
    prompt_A = np.repeat(np.arange(prompts), answers)
    features_AF, length_A, gold_A = _texts(prompts, answers, seed) if kind == "texts" else _curved(prompt_A, rng)
    space = Space.fit(features_AF, length_A, prompts=prompt_A.tolist(), components=components)
    phi_AD = space(features_AF, length_A)
    if kind == "linear":
        gold_A = phi_AD @ rng.normal(size=phi_AD.shape[1])
    topic_Q = np.arange(prompts) % TOPICS
    unscaled = Bank(phi_AD, gold_A, np.log1p(length_A), prompt_A, topic_Q, prompts - held_out, space.length)
    first_N, second_N = unscaled.some_pairs(4000, np.random.default_rng([seed, 1]))
    gap_N = gold_A[first_N] - gold_A[second_N]
    return Bank(
        phi_AD,
        gold_A * scale_of(gap_N, agreement),
        unscaled.log_length_A,
        prompt_A,
        topic_Q,
        unscaled.held_out,
        space.length,
    )


def scale_of(gap_N: Float, agreement: float) -> float:
    """By bisection: agreement grows with the scale."""
    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = (low * high) ** 0.5
        p_N = expit(middle * gap_N)
        low, high = (middle, high) if float((p_N**2 + (1 - p_N) ** 2).mean()) < agreement else (low, middle)
    return low


def _curved(prompt_A: Whole, rng: np.random.Generator) -> tuple[Float, Float, Float]:
    n, q = len(prompt_A), int(prompt_A.max()) + 1
    z_AJ = rng.normal(size=(n, ATTRIBUTES)) + 0.5 * rng.normal(size=(q, ATTRIBUTES))[prompt_A]
    length_A = np.asarray(np.round(np.exp(rng.normal(3.0, 0.5, n) + 0.2 * z_AJ[:, 0])) + 1, dtype=np.float64)
    values_J = rng.normal(size=ATTRIBUTES)
    gold_A = curved_gold(z_AJ, length_A, values_J)
    topic_AJ = rng.normal(size=(q, ATTRIBUTES))[prompt_A]
    mixing = rng.normal(size=(2 * ATTRIBUTES, SEEN)) / np.sqrt(ATTRIBUTES)
    return curved_features(z_AJ, topic_AJ, mixing, rng), length_A, gold_A


def curved_gold(z_AJ: Float, length_A: Float, values_J: Float) -> Float:
    over_A = np.log(length_A) - 3.2  # the length that is just right
    return np.asarray(
        np.tanh(z_AJ) @ values_J
        + 0.7 * z_AJ[:, 1] * z_AJ[:, 2]
        - 0.7 * np.maximum(z_AJ[:, 3], 0) * z_AJ[:, 4]
        - over_A**2 * np.where(over_A > 0, 1.5, 0.75)
    )


def curved_features(z_AJ: Float, topic_AJ: Float, mixing: Float, rng: np.random.Generator) -> Float:
    noise_AF = rng.normal(size=(len(z_AJ), SEEN))
    return np.asarray(np.tanh(np.hstack([z_AJ, topic_AJ]) @ mixing) + SEEN_NOISE * noise_AF)


def _texts(prompts: int, answers: int, seed: int) -> tuple[Float, Float, Float]:
    rng = random.Random(f"rehearsal {seed}")
    entities = bundled_world().entities
    taste = taste_of(1 + seed, seed)
    texts = []
    for number in range(prompts):
        lang: Lang = "ja" if number % 2 else "en"
        entity = entities[(7 * number + 13 * seed) % len(entities)]
        for _ in range(answers):
            register = rng.choice(REGISTERS)
            parts = []
            for fact in rng.sample(entity.facts, min(rng.choice((1, 1, 2, 2, 3, 4)), len(entity.facts))):
                register = rng.choice(REGISTERS) if rng.random() < 0.2 else register  # some mix their manners
                parts.append(answer_text(entity, fact, lang, register, rng))
            texts.append(join(parts, lang))
    features_AF = np.stack([_hashed(text) for text in texts])
    length_A = np.array([len(text) for text in texts], dtype=np.float64)
    return features_AF, length_A, np.array([taste.score(text) for text in texts])


def _hashed(text: str) -> Float:
    """Counts of character 2-, 3- and 4-grams in buckets, as log(1 + count)."""
    count_F = np.zeros(HASHES)
    for size in (2, 3, 4):
        for start in range(len(text) - size + 1):
            count_F[zlib.crc32(text[start : start + size].encode()) % HASHES] += 1
    return np.log1p(count_F)


# people

PersonKind = Literal["trained", "crowd", "random", "position", "reversed", "topic", "drifting"]


class Asked(NamedTuple):
    """What a person sees of a pair: gold gap and log length ratio of the first over the second, the side of the first
    (1 left), the prompt's topic, and how many answers this person has given before."""

    gap: float
    length: float
    side: int
    topic: int
    number: int


@dataclass(frozen=True, slots=True)
class Person:
    """P(left) = a s(gap + lean by side + lean by length) with `flips`; see `first_wins` for the kinds that do not read.

    `lasts`: answers after which one who drifts only guesses.
    """

    kind: PersonKind
    flips: float
    side_lean: float
    length_lean: float
    clicks_left: float
    lasts: int

    def first_wins(self, asked: Asked) -> float:
        if self.kind == "random":
            return 0.5
        if self.kind == "position":
            return self.clicks_left if asked.side > 0 else 1 - self.clicks_left
        p = float(expit(asked.gap + self.side_lean * asked.side + self.length_lean * asked.length))
        flips = self.flips
        if self.kind == "drifting":
            flips += (0.5 - flips) * min(asked.number / self.lasts, 1.0)
        if self.kind == "reversed" or (self.kind == "topic" and asked.topic == 0):
            flips = 1 - flips
        return flips + (1 - 2 * flips) * p

    @property
    def reliability(self) -> float:
        """A - F, where it is one number."""
        return {"random": 0.0, "position": 0.0, "reversed": -1 + 2 * self.flips}.get(self.kind, 1 - 2 * self.flips)

    def channel(self, side: int) -> Channel:
        """The true one, as an oracle would have it."""
        reads = self.kind not in ("random", "position")
        base = 0.0 if reads else self.first_wins(Asked(0.0, 0.0, side, 0, 0))
        flips = 1 - self.flips if self.kind == "reversed" else self.flips
        parts = (float(reads) * (1 - flips), float(reads) * flips, base, self.side_lean * side if reads else 0.0)
        return Channel(*(np.array([part]) for part in parts))


@dataclass(frozen=True, slots=True)
class Manners:
    """Of the protocol: flip rates, the spread of leans, and what those do who do not read."""

    trained: float
    crowd: float
    side_lean: float
    length_lean: float
    clicks_left: float
    lasts: int

    def person(self, kind: PersonKind, rng: np.random.Generator) -> Person:
        flips = self.trained if kind in ("trained", "reversed", "drifting") else self.crowd
        leans = rng.normal(0, (self.side_lean, self.length_lean))
        return Person(kind, flips, float(leans[0]), float(leans[1]), self.clicks_left, self.lasts)
