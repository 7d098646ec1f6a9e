"""Simulated people answer: sessions as the product would run them, and how good a head is by the gold that it never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import expit, kl_div

from tomoni.feedback.channel import Channel
from tomoni.feedback.head import Head
from tomoni.feedback.people import Judged
from tomoni.feedback.weave import purpose_of
from tomoni.loop.rehearse_world import Asked, Bank, Person, PersonKind


@dataclass(frozen=True, slots=True)
class Session:
    """Answers in the order in which they were given, in turns of all people, with what an oracle would know."""

    judged: list[Judged]
    channel: Channel
    people: Mapping[str, Person]
    pairs: list[tuple[int, int]]

    def first(self, n: int) -> tuple[list[Judged], Channel]:
        return self.judged[:n], self.channel[:n]


def answer(bank: Bank, name: str, person: Person, pair: tuple[int, int], side: int, number: int, rng: Any) -> Judged:
    first, second = pair
    topic = int(bank.topic_Q[bank.prompt_A[first]])
    length = float(bank.log_length_A[first] - bank.log_length_A[second])
    gap = float(bank.gold_A[first] - bank.gold_A[second])
    p = person.first_wins(Asked(gap, length, side, topic, number))
    return Judged(
        name,
        bank.phi_AD[first] - bank.phi_AD[second],
        float(rng.random() < p),
        side,
        item=f"{first} {second}",
        length=length,
        topic=f"topic {topic}",
    )


def session(
    bank: Bank, pool: Mapping[PersonKind, int], each: int, manners: Any, *, gold_gap: float, seed: int
) -> Session:
    """Every person of the pool answers `each` times: new random pairs, woven with gold, overlap and own repeats."""
    rng = np.random.default_rng([seed, 4])
    kinds = [kind for kind, count in pool.items() for _ in range(count)]
    people = {f"{k:02} {kind}": manners.person(kind, rng) for k, kind in enumerate(kinds)}
    golden = _golden(bank, gold_gap, rng)
    judged: list[Judged] = []
    pairs: list[tuple[int, int]] = []
    channels: list[Channel] = []
    for number in range(each):
        for name, person in people.items():
            pair, side, expected = _due(bank, name, number, judged, pairs, golden, seed, rng)
            one = answer(bank, name, person, pair, side, number, rng)
            judged.append(replace(one, expected=expected))
            pairs.append(pair)
            channels.append(person.channel(side))
    parts = [
        np.concatenate([getattr(one, part) for one in channels])
        for part in ("attends_N", "reverses_N", "base_N", "offset_N")
    ]
    return Session(judged, Channel(*parts), people, pairs)


def _golden(bank: Bank, gold_gap: float, rng: Any) -> list[tuple[int, int]]:
    """Clear pairs, of which the longer answer is worse in every second, as far as there are such."""
    first_N, second_N = bank.some_pairs(4000, rng)
    gap_N = bank.gold_A[first_N] - bank.gold_A[second_N]
    longer_N = (bank.log_length_A[first_N] - bank.log_length_A[second_N]) * gap_N < 0
    clear_N = np.abs(gap_N) >= gold_gap
    half = min(int((clear_N & longer_N).sum()), int((clear_N & ~longer_N).sum()), 100)
    at = np.concatenate([np.flatnonzero(clear_N & kind)[:half] for kind in (longer_N, ~longer_N)])
    return [(int(first_N[i]), int(second_N[i])) for i in at]


def _due(
    bank: Bank,
    name: str,
    number: int,
    judged: Sequence[Judged],
    pairs: Sequence[tuple[int, int]],
    golden: Sequence[tuple[int, int]],
    seed: int,
    rng: Any,
) -> tuple[tuple[int, int], int, float | None]:
    """The pair, the side of its first answer, and what is expected of a gold one."""
    side = int(rng.choice([-1, 1]))
    match purpose_of(number, name, seed=seed):
        case "gold" if golden:
            pair = golden[rng.integers(len(golden))]
            return pair, side, float(bank.gold_A[pair[0]] > bank.gold_A[pair[1]])
        case "repeat":
            own = [i for i, one in enumerate(judged) if one.person == name and not one.gold]
            again = own[rng.integers(max(len(own) - 10, 1))]
            return pairs[again], -judged[again].side, None
        case "overlap":
            others = [i for i, one in enumerate(judged[-200:]) if one.person != name and not one.gold]
            if others:
                return pairs[max(len(judged) - 200, 0) + others[rng.integers(len(others))]], side, None
    first, second = bank.some_pairs(1, rng)
    return (int(first[0]), int(second[0])), side, None


def stream(bank: Bank, person: Person, n: int, rng: Any, *, gold_gap: float | None = None) -> list[Judged]:
    """n answers of one person to new pairs; with `gold_gap`, gold ones among them as for a newcomer."""
    golden = _golden(bank, gold_gap, rng) if gold_gap else []
    found: list[Judged] = []
    for number in range(n):
        side, expected = int(rng.choice([-1, 1])), None
        if golden and purpose_of(number, "", seed=int(rng.integers(2**31))) == "gold":
            pair = golden[rng.integers(len(golden))]
            expected = float(bank.gold_A[pair[0]] > bank.gold_A[pair[1]])
        else:
            first, second = bank.some_pairs(1, rng)
            pair = (int(first[0]), int(second[0]))
        found.append(replace(answer(bank, "", person, pair, side, number, rng), expected=expected))
    return found


# how good is a head


def accuracy(head: Head, bank: Bank, seed: int) -> float:
    """Share of held-out pairs whose better answer, by gold, the head prefers."""
    first_N, second_N = bank.some_pairs(4000, np.random.default_rng([seed, 9]), held_out=True)
    gap_N = bank.gold_A[first_N] - bank.gold_A[second_N]
    return float(np.mean((head.mean(bank.phi_AD[first_N] - bank.phi_AD[second_N]) > 0) == (gap_N > 0)))


def excess(head: Head, bank: Bank, seed: int) -> float:
    """Nats a label that the head loses on held-out pairs to one who knows the gaps."""
    first_N, second_N = bank.some_pairs(4000, np.random.default_rng([seed, 9]), held_out=True)
    p_N = expit(bank.gold_A[first_N] - bank.gold_A[second_N])
    q_N = head.probability(bank.phi_AD[first_N] - bank.phi_AD[second_N])
    return float((kl_div(p_N, q_N) + kl_div(1 - p_N, 1 - q_N)).mean())


def win_rate(head: Head, bank: Bank) -> float:
    """Of the answer that the head likes best, over another answer to the same held-out prompt, by gold."""
    wins = []
    for prompt in range(bank.held_out, bank.prompts):
        at = bank.answers_of(prompt)
        gold_A = bank.gold_A[at]
        best = int(head.mean(bank.phi_AD[at]).argmax())
        others_A = np.delete(gold_A, best)
        wins.append(float((gold_A[best] > others_A).mean() + 0.5 * (gold_A[best] == others_A).mean()))
    return float(np.mean(wins))
