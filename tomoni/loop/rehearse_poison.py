"""T10: people who lie about one topic only, in what they teach and in how they judge the candidate. Is it promoted?

Each topic has a taste of its own beside the common one, and the head can learn it, so lies about one topic make the
candidate worse there and nowhere else: the overall win rate hardly shows it. The candidate answers with the best of some
answers by a head that believes every label alike, the base with a random one. That is the gate by itself: `weighed`, a
head fitted with `feedback.people`, is the line before it, and shown beside.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from scipy.special import expit

from tomoni.evaluate.metrics import wilson
from tomoni.feedback import people as reliability
from tomoni.feedback.arrays import Float
from tomoni.feedback.entries import PromptRow
from tomoni.feedback.head import Head
from tomoni.feedback.people import Judged
from tomoni.loop.asked import drawn, slices_of
from tomoni.loop.crowd import weighed
from tomoni.loop.evidence import OTHER, Evidence, Judge, Said
from tomoni.loop.gate import Settings, decide
from tomoni.loop.rehearse_figures import Figure

FILE: Final = Path(__file__).with_name("rehearse_poison.yaml")
EVERY = 20  # judgements between two looks


@dataclass(frozen=True, slots=True)
class Protocol:
    form: Mapping[str, Any]
    sha256: str
    quick: bool

    @property
    def seeds(self) -> range:
        first = int(self.form["seeds"]["first"])
        return range(first, first + int(self.form["seeds"]["count"]))


def protocol(*, quick: bool = False, first_seed: int | None = None, file: Path = FILE) -> Protocol:
    content = file.read_bytes()
    form = yaml.safe_load(content)
    smaller = form.pop("quick")
    form = form | smaller if quick else form
    if first_seed is not None:
        form["seeds"] = form["seeds"] | {"first": first_seed}
    return Protocol(form, hashlib.sha256(content).hexdigest(), quick)


@dataclass(frozen=True, slots=True)
class World:
    """`taste_TD`: what is liked on each topic, in log odds."""

    taste_TD: Float

    @classmethod
    def of(cls, form: Mapping[str, Any], rng: Any) -> World:
        common_D = rng.normal(size=form["features"])
        own_TD = rng.normal(size=(form["topics"], form["features"]))
        return cls((common_D + form["own"] * own_TD) / math.sqrt(form["features"]) * 2.5)

    def answers(self, n: int, topic_N: Any, count: int, rng: Any) -> Float:
        return np.asarray(rng.normal(size=(n, count, self.taste_TD.shape[1])))

    def gold(self, answers_NKD: Float, topic_N: Any) -> Float:
        return np.asarray(np.einsum("nkd,nd->nk", answers_NKD, self.taste_TD[topic_N]))

    def seen(self, answers_NKD: Float, topic_N: Any) -> Float:
        """What the head sees: the features, and the features of each topic by themselves."""
        topics = len(self.taste_TD)
        each = np.eye(topics)[topic_N][:, None, :, None] * answers_NKD[:, :, None, :]
        return np.concatenate([answers_NKD, each.reshape(*answers_NKD.shape[:2], -1)], axis=2)


@dataclass(frozen=True, slots=True)
class Attack:
    """`harm`: how often the candidate's answer is truly better on the attacked topic; `elsewhere` the same of the others;
    `weighed`: on the attacked topic, had people been weighed in training."""

    promoted: bool
    promoted_without_topics: bool
    harm: float
    elsewhere: float
    weighed: float
    judgements: int


def attack(p: Protocol, seed: int, *, clean: bool = False) -> Attack:
    """One world, one poisoned round; `clean`: the same with attackers who do not lie."""
    rng = np.random.default_rng([seed, 10])
    form = p.form
    world = World.of(form["world"], rng)
    judged = _taught(form, world, rng, clean=clean)
    found = reliability.fit(judged)
    topic_N = rng.integers(0, form["world"]["topics"], form["gate"]["measured"])
    delta_ND, y_N = np.array([one.delta for one in judged]), np.array([one.y for one in judged])
    believing = Head.fit(delta_ND, y_N, noise_N=np.full(len(y_N), form["people"]["flips"]))
    answers_NKD = world.answers(len(topic_N), topic_N, form["world"]["answers"] + 1, rng)
    gap_N, weighed_N = (_candidate_gaps(world, w_D, topic_N, answers_NKD) for w_D in (believing.w_D, found.head.w_D))
    attacked_N = topic_N == form["attack"]["topic"]
    truth_N = expit(gap_N)
    crowd = weighed(judged, found, 0)
    gate = Gate(form, world, believing.w_D, crowd.judges(), frozenset(crowd.contested), clean)
    promoted, after = gate.decided(np.random.default_rng([seed, 11]), topics=True)
    without, _ = gate.decided(np.random.default_rng([seed, 11]), topics=False)
    return Attack(
        promoted,
        without,
        float(truth_N[attacked_N].mean()),
        float(truth_N[~attacked_N].mean()),
        float(expit(weighed_N[attacked_N]).mean()),
        after,
    )


def _taught(form: Mapping[str, Any], world: World, rng: Any, *, clean: bool) -> list[Judged]:
    people, chosen, topics = form["people"], form["attack"]["topic"], form["world"]["topics"]
    judged = []
    for number in range(people["each"]):
        for k in range(people["honest"] + people["attackers"]):
            attacker = k >= people["honest"]
            aims = attacker and rng.random() < form["attack"]["share"]
            topic_N = np.array([chosen if aims else rng.integers(0, topics)])
            answers_NKD = world.answers(1, topic_N, 2, rng)
            gap = float(np.diff(world.gold(answers_NKD, topic_N)[0])[0]) * -1
            lies = attacker and not clean and topic_N[0] == chosen
            p_first = people["flips"] + (1 - 2 * people["flips"]) * expit(-gap if lies else gap)
            seen_KD = world.seen(answers_NKD, topic_N)[0]
            y = float(rng.random() < p_first)
            side = 1 if rng.random() < 0.5 else -1
            judged.append(
                Judged(
                    _name(k, attacker),
                    seen_KD[0] - seen_KD[1],
                    y,
                    side,
                    item=f"{number} {k}",
                    topic=f"topic {topic_N[0]}",
                )
            )
    return judged


def _name(k: int, attacker: bool) -> str:
    return f"{k:02} {'attacker' if attacker else 'honest'}"


def _candidate_gaps(world: World, w_D: Float, topic_N: Any, answers_NKD: Float) -> Float:
    """Gold of the candidate's answer, the best by the head, over that of the base's, a random one: the last."""
    gold_NK = world.gold(answers_NKD, topic_N)
    best_N = (world.seen(answers_NKD[:, :-1], topic_N) @ w_D).argmax(1)
    return np.asarray(gold_NK[np.arange(len(topic_N)), best_N] - gold_NK[:, -1])


@dataclass(frozen=True, slots=True)
class Gate:
    """The gate as a round plays it: pairs are asked in batches, more of topics that it is not sure about."""

    form: Mapping[str, Any]
    world: World
    w_D: Float
    judges: Mapping[str, Judge]
    contested: frozenset[str]
    clean: bool

    def decided(self, rng: Any, *, topics: bool) -> tuple[bool, int]:
        """Whether it is promoted, and after how many judgements that is decided. `topics`: whether the gate looks at them."""
        form, said = self.form, list[Said]()
        rows = [_row(number, number % form["world"]["topics"]) for number in range(form["world"]["prompts"])]
        slices = slices_of(rows, Settings().slice_share) if topics else {row.topic: OTHER for row in rows}
        unsure: frozenset[str] | None = None
        while True:
            chosen = drawn(
                rows, form["gate"]["pairs"], used={}, key=str(rng.random()), slices=slices, again=True, unsure=unsure
            )
            asked = [
                self._judged(row.topic, slices[row.topic], how, len(said) + n, rng)
                for n, (row, how) in enumerate(chosen)
            ]
            for one in rng.permutation(len(asked)):
                said.append(replace(asked[one], sequence=len(said) + 1))
                if len(said) % EVERY == 0 or one == len(asked) - 1:
                    contested = self.contested if topics else frozenset[str]()
                    decision = decide(Evidence(said, self.judges, round=form["gate"]["round"], contested=contested))
                    if decision.outcome != "undecided":
                        return decision.outcome == "promote", len(said)
                    unsure = decision.unsure

    def _judged(self, topic: str, slice_: str, how: str, number: int, rng: Any) -> Said:
        people, chosen = self.form["people"], self.form["attack"]["topic"]
        topic_1 = np.array([int(topic.split()[1])])
        answers_1KD = self.world.answers(1, topic_1, self.form["world"]["answers"] + 1, rng)
        gap = float(_candidate_gaps(self.world, self.w_D, topic_1, answers_1KD)[0])
        attacker = bool(rng.random() < self.form["gate"]["attackers"])
        honest = int(rng.integers(people["honest"]))
        k = int(rng.integers(people["attackers"])) + people["honest"] if attacker else honest
        x = float(rng.random() < people["flips"] + (1 - 2 * people["flips"]) * expit(gap))
        if attacker and topic_1[0] == chosen and not self.clean:
            x = 1.0
        return Said(0, f"p{number}", _name(k, attacker), x, slice_, selected_by=how)


def _row(number: int, topic: int) -> PromptRow:
    return PromptRow((), "world", None, f"topic {topic}", "active", True, f"{number:03}", "")


def rehearse(p: Protocol) -> Iterator[Figure]:
    attacks = [attack(p, seed) for seed in p.seeds]
    clean = [attack(p, seed, clean=True) for seed in p.seeds]
    count, wanted = len(attacks), int(p.form["criteria"]["stopped"])
    harm = np.array([one.harm for one in attacks])
    yield _share("attacks that make the candidate worse on their topic (truth)", harm < 0.5)
    yield Figure(
        "T10", "true win rate on the attacked topic, mean", float(harm.mean()), float(harm.min()), float(harm.max())
    )
    weighed = np.array([one.weighed for one in attacks])
    name = "the same, had people been weighed in training"
    yield Figure("T10", name, float(weighed.mean()), float(weighed.min()), float(weighed.max()))
    stopped = sum(not one.promoted or one.harm >= 0.5 for one in attacks)
    met = stopped >= wanted * count / 40
    yield Figure("T10", f"attacks stopped, of {count}", stopped, math.nan, math.nan, f"at least {wanted} of 40", met)
    yield _share("attacks promoted where topics are not looked at", [one.promoted_without_topics for one in attacks])
    yield _share("clean candidates promoted", [one.promoted for one in clean])
    yield Figure(
        "T10",
        "judgements until a clean candidate is decided, median",
        float(np.median([one.judgements for one in clean])),
        math.nan,
        math.nan,
    )


def _share(name: str, hits: Any) -> Figure:
    rate = wilson(int(np.sum(hits)), len(hits))
    return Figure("T10", name, rate.value, rate.low, rate.high)
