"""What is trained on: rows of token ids, and the order in which both sides take them. numpy only: peers read it too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.lengths import LONGEST, stored

STRETCH = 50  # batches; transformers takes fewer where the data is small, which would group less and slow the peers
RESERVED = 259  # bytes and special tokens; the rows draw from the others


@dataclass(frozen=True, eq=False)
class Work:
    """`rows[i]` are token ids of which the first `prompts[i]` are not trained; `order` holds row numbers, step by step."""

    rows: list[NDArray[np.int32]]
    prompts: list[int]
    order: list[int]
    batch_size: int

    @property
    def steps(self) -> int:
        return len(self.order) // self.batch_size

    @property
    def tokens(self) -> int:
        """Real tokens of all steps."""
        return sum(len(self.rows[index]) for index in self.order)

    def step(self, number: int) -> list[int]:
        return self.order[number * self.batch_size : (number + 1) * self.batch_size]

    def counts(self, number: int) -> list[tuple[int, int]]:
        """(tokens, trained positions) of a step's rows."""
        return [(len(self.rows[index]), len(self.rows[index]) - self.prompts[index]) for index in self.step(number)]

    def save(self, path: Path) -> None:
        np.savez(
            path,
            tokens=np.concatenate(self.rows),
            ends=np.cumsum([len(row) for row in self.rows]),
            prompts=np.asarray(self.prompts),
            order=np.asarray(self.order),
            batch_size=self.batch_size,
        )

    @classmethod
    def load(cls, path: Path) -> Work:
        with np.load(path, allow_pickle=False) as file:
            rows = np.split(file["tokens"], file["ends"][:-1])
            return cls(rows, file["prompts"].tolist(), file["order"].tolist(), int(file["batch_size"]))


def _zipf(random: np.random.Generator, vocabulary: int) -> Callable[[int], NDArray[np.int32]]:
    usable = vocabulary - RESERVED
    chance = 1 / np.arange(1, usable + 1)
    chance /= chance.sum()
    return lambda size: (RESERVED - 3 + random.choice(usable, size=size, p=chance)).astype(np.int32)


def instructions(
    *, items: int, vocabulary: int, batch_size: int, epochs: int = 1, grouped: bool = False, seed: int = 0
) -> Work:
    """Rows with lengths of real instruction data. Tokens follow Zipf's law, so that there is something to learn."""
    random = np.random.default_rng(seed)
    pairs = stored()
    chosen = [pairs[index] for index in random.permutation(len(pairs))[:items]]
    if len(chosen) < items:
        raise ValueError(f"{items} items asked for, {len(pairs)} lengths are stored")
    draw = _zipf(random, vocabulary)
    rows = [draw(prompt + completion) for prompt, completion in chosen]
    lengths = [len(row) for row in rows]
    order: list[int] = []
    for _ in range(epochs):
        shuffled = random.permutation(items).tolist()
        order += group_by_length(shuffled, lengths, batch_size) if grouped else shuffled
    return Work(rows, [prompt for prompt, _ in chosen], order, batch_size)


def preferences(*, pairs: int, vocabulary: int, batch_size: int, grouped: bool = False, seed: int = 0) -> Work:
    """Pairs of rows that share a prompt, chosen before rejected; `batch_size` is of pairs. Grouped: by the longer row."""
    random = np.random.default_rng(seed)
    lengths = stored()
    chosen = [lengths[index] for index in random.permutation(len(lengths))[:pairs]]
    other = [lengths[index][1] for index in random.permutation(len(lengths))[:pairs]]
    draw = _zipf(random, vocabulary)
    rows, prompts = [], []
    for (prompt, first), second in zip(chosen, other, strict=True):
        asked = draw(prompt)
        for answer in (first, min(second, LONGEST - prompt)):
            rows.append(np.concatenate([asked, draw(answer)]))
            prompts.append(prompt)
    longer = [max(len(rows[2 * pair]), len(rows[2 * pair + 1])) for pair in range(pairs)]
    order = random.permutation(pairs).tolist()
    order = group_by_length(order, longer, batch_size) if grouped else order
    return Work(rows, prompts, [row for pair in order for row in (2 * pair, 2 * pair + 1)], 2 * batch_size)


def told(*, prompts: int, generations: int, vocabulary: int, batch_size: int, longest: int, seed: int = 0) -> Work:
    """Groups of completions that both sides are told instead of sampling them; `batch_size` is of prompts."""
    random = np.random.default_rng(seed)
    draw = _zipf(random, vocabulary)
    rows, sizes = [], []
    for size in random.integers(16, 65, size=prompts).tolist():
        asked = draw(size)
        for answer in random.integers(longest // 8, longest + 1, size=generations).tolist():
            rows.append(np.concatenate([asked, draw(answer)]))
            sizes.append(size)
    return Work(rows, sizes, list(range(len(rows))), batch_size * generations)


def reward_of(completion: Sequence[int]) -> float:
    """A reward that costs nothing and that both sides compute alike, 0 to 1."""
    return sum(int(token) * (place + 1) for place, token in enumerate(completion)) % 97 / 96


def group_by_length(order: Sequence[int], lengths: Sequence[int], batch_size: int) -> list[int]:
    """The order that transformers' `group_by_length` makes of a permutation in a large data set: stretches of 50
    batches, each sorted by length, longest first, the longest row of all in front."""
    stretch = STRETCH * batch_size
    parts = [
        sorted(order[start : start + stretch], key=lambda index: -lengths[index])
        for start in range(0, len(order), stretch)
    ]
    longest = max(range(len(parts)), key=lambda part: lengths[parts[part][0]])
    parts[0][0], parts[longest][0] = parts[longest][0], parts[0][0]
    return [index for part in parts for index in part]


@dataclass(frozen=True, eq=False)
class Prompts:
    """What is sampled: prompts, and after how many tokens each answer ends."""

    prompts: list[NDArray[np.int32]]
    answers: list[int]

    def save(self, path: Path) -> None:
        np.savez(
            path,
            tokens=np.concatenate(self.prompts),
            ends=np.cumsum([len(prompt) for prompt in self.prompts]),
            answers=np.asarray(self.answers),
        )

    @classmethod
    def load(cls, path: Path) -> Prompts:
        with np.load(path, allow_pickle=False) as file:
            return cls(np.split(file["tokens"], file["ends"][:-1]), file["answers"].tolist())


def prompts(*, count: int, vocabulary: int, prompt: tuple[int, int], answer: tuple[int, int], seed: int = 0) -> Prompts:
    """`prompt` and `answer` are the shortest and longest length, drawn uniformly."""
    random = np.random.default_rng(seed)
    sizes = random.integers(prompt[0], prompt[1] + 1, size=count)
    ends = random.integers(answer[0], answer[1] + 1, size=count)
    rows = [random.integers(0, vocabulary - 3, size=size).astype(np.int32) for size in sizes]
    return Prompts(rows, ends.tolist())
