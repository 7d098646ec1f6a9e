"""What to put before a person next: a new pair, a gold pair, one that another person has judged, one of his own again.

Of a hundred answers about 5 are to gold pairs (whose answer is known), 8 to pairs that one other person has judged, 4 to
pairs that the same person has judged before, now with sides swapped; the rest are new. Newcomers meet three gold pairs
more among their first twenty, for that is when least is known about them. Which is which is drawn, block by block, from
(seed, person, number of the answer): the shares hold in every block, and nobody can tell from the order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit

from tomoni.feedback.head import calibrated
from tomoni.feedback.people import GOLD_GAP, Judged, People

Purpose = Literal["train", "gold", "overlap", "repeat"]

BLOCK, SUBBLOCKS = 20, 5  # a hundred answers, in five parts with one gold pair each
OVERLAPS = (2, 2, 1, 2, 1)  # a hundred hold 8
REPEATS = (1, 1, 1, 1, 0)  # and 4
NEWCOMERS_GOLD = 3
FIRST_REPEAT = 12  # answers since a pair was last judged, before it comes again
LONGER_IS_WORSE = 0.5  # of gold pairs that a person has seen; agreement alone cannot tell who picks the longest
SURE_ENOUGH = 0.98  # of a pair's answer, before it can serve as gold


@dataclass(frozen=True, slots=True)
class Gold:
    """A pair whose better answer is known. `expected`: 1 or 0. `fresh`: larger for answers of newer models."""

    pair: str
    expected: float
    longer_is_worse: bool = False
    fresh: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer that this person has given. `side` as in Judged."""

    pair: str
    side: int


@dataclass(frozen=True, slots=True)
class Next:
    """`pair` is None for a new one: ask.choose finds it. `side`: 1, the stored first goes left; -1, right."""

    purpose: Purpose
    pair: str | None
    side: int


def next_for(
    person: str,
    seen: Sequence[Seen],
    *,
    gold: Sequence[Gold] = (),
    judged_by: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> Next:
    """The next thing for a person who has given the answers `seen`, in their order.

    `judged_by`: who has judged each pair of everybody's. Where nothing of the purpose is there, a new pair is due.
    """
    number = len(seen)
    rng = drawing(seed, person, "side", number)
    side = 1 if rng.random() < 0.5 else -1
    known = {one.pair for one in seen}
    match purpose_of(number, person, seed=seed):
        case "gold":
            one = _gold(gold, seen, known)
            return Next("gold", one.pair, side) if one else Next("train", None, side)
        case "repeat":
            again = _repeat(seen, {one.pair for one in gold}, rng)
            return Next("repeat", again.pair, -again.side) if again else Next("train", None, side)
        case "overlap":
            golden = {one.pair for one in gold}
            once = sorted(
                pair for pair, who in (judged_by or {}).items() if len(set(who)) == 1 and pair not in known | golden
            )
            return Next("overlap", once[rng.integers(len(once))], side) if once else Next("train", None, side)
        case _:
            return Next("train", None, side)


def purpose_of(number: int, person: str, *, seed: int = 0) -> Purpose:
    """Of a person's answer number `number`, from 0. Pure."""
    hundred, place = divmod(number, BLOCK * SUBBLOCKS)
    part, place = divmod(place, BLOCK)
    shares = drawing(seed, person, "shares", hundred)
    overlaps, repeats = int(shares.permutation(OVERLAPS)[part]), int(shares.permutation(REPEATS)[part])
    newcomer = number < BLOCK
    golden = 1 + NEWCOMERS_GOLD * newcomer
    repeats = 0 if newcomer else repeats
    order = drawing(seed, person, "places", hundred * SUBBLOCKS + part).permutation(BLOCK)
    rank = int(np.flatnonzero(order == place)[0])
    if rank < golden:
        return "gold"
    if rank < golden + overlaps:
        return "overlap"
    return "repeat" if rank < golden + overlaps + repeats else "train"


def drawing(seed: int, person: str, what: str, number: int) -> np.random.Generator:
    key = hashlib.sha256(f"{seed}\0{person}\0{what}\0{number}".encode()).digest()
    return np.random.default_rng(int.from_bytes(key[:8], "little"))


def _gold(gold: Sequence[Gold], seen: Sequence[Seen], known: set[str]) -> Gold | None:
    """One not seen yet, of the kind that is short so far, from the newest model."""
    kind = {one.pair: one.longer_is_worse for one in gold}
    met = Counter(kind[one.pair] for one in seen if one.pair in kind)
    wanted = met[True] < LONGER_IS_WORSE * (met[True] + met[False] + 1)
    new = [one for one in gold if one.pair not in known]
    return min(new, key=lambda one: (one.longer_is_worse != wanted, -one.fresh, one.pair), default=None)


def _repeat(seen: Sequence[Seen], golden: set[str], rng: np.random.Generator) -> Seen | None:
    """One answered once, long enough ago."""
    times = Counter(one.pair for one in seen)
    old = [one for one in seen[: max(len(seen) - FIRST_REPEAT, 0)] if times[one.pair] == 1 and one.pair not in golden]
    return old[rng.integers(len(old))] if old else None


@dataclass(frozen=True, slots=True)
class Certain:
    """A pair that could serve as gold. `probability` of `expected`, from the taste and from everybody who answered."""

    pair: str
    expected: float
    probability: float
    people: int
    longer_is_worse: bool


def could_be_gold(judged: Sequence[Judged], people: People, *, least: float = SURE_ENOUGH) -> list[Certain]:
    """Pairs that two people or more have answered, and of which the better answer is nearly certain; surest first.

    The chances are those of the head with the pair's own answers left out, and of each person's channel.
    """
    by_pair: dict[str, list[int]] = {}
    for number, one in enumerate(judged):
        if one.item and not one.gold:
            by_pair.setdefault(one.item, []).append(number)
    found = []
    for pair, at in by_pair.items():
        who = {judged[number].person for number in at}
        if len(who) < 2:
            continue
        mean = float(np.mean(people.gaps.mean_N[at]))
        chance = float(calibrated(np.array(mean), np.array(float(np.mean(people.gaps.variance_N[at])))))
        odds = float(np.log(chance / (1 - chance))) + sum(_says(judged[number], people) for number in at)
        first, length = odds > 0, judged[at[0]].length
        probability = float(expit(abs(odds)))
        if probability >= least:
            worse_is_longer = (length < 0) if first else (length > 0)
            found.append(Certain(pair, float(first), probability, len(who), worse_is_longer))
    return sorted(found, key=lambda one: (-one.probability, one.pair))


def _says(one: Judged, people: People) -> float:
    """Log odds for the first that one answer gives, if the gap is a clear one to either side."""
    q, _ = people.of(one.person).channel(one.side).first_wins(np.array([GOLD_GAP, -GOLD_GAP]))
    likely = one.y * np.log(q) + (1 - one.y) * np.log1p(-q)
    return float(likely[0] - likely[1])
