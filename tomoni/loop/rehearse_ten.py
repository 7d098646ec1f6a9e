"""E8: ten rounds, as `tomoni round` plays them, in the world of `rehearse_policy`.

A mixed crowd judges the served policy's answers, asked by the product's rule; how good each person is, the head, the
practice, the gate's pairs, the head as a control variate and the decision are the product's own code. Some rounds go wrong
on purpose: everybody answers by coin, the training learns the reverse, or it practises far too long by one head. What a
candidate is truly worth is computed from gold that nobody saw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import numpy as np

from tomoni.evaluate.metrics import wilson
from tomoni.feedback import people as reliability
from tomoni.feedback.arrays import Float
from tomoni.feedback.ask import Candidates, choose
from tomoni.feedback.head import Head
from tomoni.feedback.people import Judged
from tomoni.feedback.weights import Weight
from tomoni.loop import asked as asking
from tomoni.loop.crowd import Crowd, weighed
from tomoni.loop.evidence import Evidence, Said
from tomoni.loop.foresee import OTHERS, Foresight
from tomoni.loop.gate import Settings, decide
from tomoni.loop.rehearse_figures import Figure, bootstrap, mean
from tomoni.loop.rehearse_loop import Form, draws, land_of, practised
from tomoni.loop.rehearse_policy import Answers, Land, Policy, Seen, compared, joined, snapshot
from tomoni.loop.rehearse_world import Asked, Manners, Person, PersonKind
from tomoni.loop.taste import understand

Fault = Literal["none", "coins", "reversed", "too_far"]
LOOK = 10  # judgements between two looks of the gate


@dataclass(frozen=True, slots=True)
class Turn:
    """One round. `truth`: how often the candidate's answer truly beats the served one's; `worst`: the least that the version
    served after it wins against any served before."""

    fault: Fault
    promoted: bool
    truth: float
    asked: int  # training labels
    judged: int  # by the gate
    worst: float


@dataclass(frozen=True, slots=True)
class Course:
    """`reached`: win rate of the last served over the first; `diversity`: its, over the first's."""

    turns: list[Turn]
    reached: float
    diversity: float


@dataclass(frozen=True, slots=True)
class Label:
    """Answers by their number among the kept ones."""

    person: str
    first: int
    second: int
    y: float
    side: int
    topic: str


@dataclass(slots=True)
class Table:
    """What a workspace holds."""

    kept: Answers
    labels: list[Label] = field(default_factory=list)
    sequence: int = 0
    used: Counter[str] = field(default_factory=Counter)


def play(form: Form, seed: int) -> Course:
    part, land, rng = form["e8"], land_of(form, seed), np.random.default_rng([seed, 88])
    pool = _pool(form, rng)
    served = [land.start()]
    table = Table(land.answers(served[0], np.zeros(0, dtype=np.int64), rng))
    turns: list[Turn] = []
    for number in range(1, int(part["rounds"]) + 1):
        fault = _fault(part["faults"], rng)
        seen, crowd = _asked(form, land, served[-1], table, pool, fault, seed * 100 + number, rng)
        head = _head(seen, crowd, table)
        untrue = replace(head, w_D=-head.w_D) if fault == "reversed" else head
        practice = part | {"steps": part["steps"] * (part["too_far"] if fault == "too_far" else 1)}
        candidate = practised(form, land, served[-1], seen, untrue, practice, rng)
        gate = Gate(
            form, land, (served[-1], candidate), Foresight(seen, head), crowd, pool, table, number, f"{seed} {number}"
        )
        promoted, judged = gate.decided(rng)
        measured = int(part["measured"])
        truth = land.better(candidate, served[-1], rng, each=measured)
        if promoted:
            served.append(candidate)
        worst = min((land.better(served[-1], other, rng, each=measured) for other in served[:-1]), default=1.0)
        turns.append(Turn(fault, promoted, truth, int(part["labels"]), judged, worst))
    reached = land.better(served[-1], served[0], rng, each=measured)
    last, first = (land.diversity(policy, rng, each=measured) for policy in (served[-1], served[0]))
    return Course(turns, reached, last / first)


def _pool(form: Form, rng: Any) -> dict[str, Person]:
    manners = Manners(**form["people"]["manners"])
    kinds = [cast(PersonKind, kind) for kind, count in form["people"]["pool"].items() for _ in range(count)]
    return {f"{k:02} {kind}": manners.person(kind, rng) for k, kind in enumerate(kinds)}


def _fault(shares: Form, rng: Any) -> Fault:
    names = list(shares)
    left = 1 - sum(shares.values())
    return cast(Fault, str(rng.choice([*names, "none"], p=[*shares.values(), left])))


# -- what people say of the served model's answers -------------------------------------------------------------------


def _asked(
    form: Form, land: Land, policy: Policy, table: Table, pool: dict[str, Person], fault: Fault, seed: int, rng: Any
) -> tuple[Seen, Crowd]:
    """One round's pairs, asked and answered, and what is then thought of the people."""
    part, each = form["e8"], int(form["practice"]["answers"])
    own = draws(form, land, policy, rng)
    before = Seen(joined(table.kept, own), ground=len(table.kept.prompt_A))
    head = Head.blank(before.space.dimensions, length=before.space.length)
    if table.labels:
        head = _head(before, weighed(_judged(before, table), _fit(before, table), 0), table)
    offered = np.flatnonzero(np.arange(len(own.prompt_A)) % each < int(part["offered"]))
    candidates = Candidates.of(
        [str(place) for place in offered],
        [f"{prompt:04}" for prompt in own.prompt_A[offered]],
        before.phi(offered + len(table.kept.prompt_A)),
    )
    chosen = choose(candidates, head, n=int(part["labels"]), seed=seed, rule=part["rule"])
    first = len(table.kept.prompt_A)
    table.kept = joined(table.kept, own[np.array([int(name) for one in chosen for name in (one.first, one.second)])])
    names = list(pool)
    for number in range(len(chosen)):
        name, side, at = names[number % len(names)], int(rng.choice([-1, 1])), first + 2 * number
        y = _says(pool[name], table.kept, at, at + 1, side, rng)
        if fault == "coins":
            y = float(rng.random() < 0.5)
        topic = f"topic {int(table.kept.prompt_A[at]) % 4}"
        table.labels.append(Label(name, at, at + 1, y, side, topic))
        table.sequence += 1
    seen = Seen(joined(table.kept, own), ground=len(table.kept.prompt_A), space=before.space)
    return seen, weighed(_judged(seen, table), _fit(seen, table), table.sequence)


def _says(person: Person, answers: Answers, first: int, second: int, side: int, rng: Any) -> float:
    gap = float(answers.gold_A[first] - answers.gold_A[second])
    length = float(np.log(answers.length_A[first] / answers.length_A[second]))
    return float(rng.random() < person.first_wins(Asked(gap, length, side, 1, 0)))


def _judged(seen: Seen, table: Table) -> list[Judged]:
    phi_ND = seen.phi(np.arange(len(table.kept.prompt_A)))
    length_N = np.log(table.kept.length_A)
    return [
        Judged(
            one.person, phi_ND[one.first] - phi_ND[one.second], one.y, one.side, item=str(place),
            length=float(length_N[one.first] - length_N[one.second]), topic=one.topic,
        )
        for place, one in enumerate(table.labels)
    ]  # fmt: skip


def _fit(seen: Seen, table: Table) -> reliability.People:
    return reliability.fit(_judged(seen, table))


def _head(seen: Seen, crowd: Crowd, table: Table) -> Head:
    """As a snapshot gives it: each person's comparisons with their weight and noise."""
    weights, known = crowd.weights(), Weight()
    said = [
        compared(place, int(table.kept.prompt_A[one.first]), one.first, one.second, one.y == 1, weights.get(one.person, known))
        for place, one in enumerate(table.labels)
    ]  # fmt: skip
    return understand(seen, snapshot(said), [])


# -- the gate --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gate:
    """As a round plays it. `versions`: the served one and the candidate."""

    form: Form
    land: Land
    versions: tuple[Policy, Policy]
    foresight: Foresight
    crowd: Crowd
    pool: dict[str, Person]
    table: Table
    round: int
    key: str

    def decided(self, rng: Any) -> tuple[bool, int]:
        """Whether the candidate is promoted, and after how many judgements."""
        rows = [self.land.row(prompt) for prompt in range(self.land.held_out, self.land.prompts)]
        slices = asking.slices_of(rows, Settings().slice_share)
        contested = frozenset(slices[topic] for topic in self.crowd.contested if topic in slices)
        said: list[Said] = []
        unsure: frozenset[str] | None = None
        for batch in range(1, 100):
            for one in self._judgements(rows, slices, unsure, batch, rng):
                self.table.sequence += 1
                said.append(replace(one, sequence=self.table.sequence))
                if len(said) % LOOK == 0:
                    decision = decide(Evidence(said, self.crowd.judges(), self.round, contested=contested))
                    unsure = decision.unsure
                    if decision.outcome != "undecided":
                        return decision.outcome == "promote", len(said)
        raise AssertionError("the gate gives up after so many pairs")

    def _judgements(self, rows: Any, slices: Any, unsure: Any, batch: int, rng: Any) -> Iterator[Said]:
        pairs_, key = int(self.form["e8"]["pairs"]), f"{self.key} {batch}"
        chosen = asking.drawn(rows, pairs_, used=self.table.used, key=key, slices=slices, again=True, unsure=unsure)
        others = asking.others(rows, OTHERS * pairs_, key=key)
        seen, texts = self._answers([row.messages for row, _ in chosen] + others, rng)
        pairs, _ = asking.pairs_of(self.round, chosen, texts[: len(chosen)], key=key, slices=slices)
        shown = [(prompt, *both) for prompt, both in zip(others, texts[len(chosen) :], strict=True)]
        pairs = Foresight(seen, self.foresight.head).on(pairs, shown)
        names = list(self.pool)
        queue = [(one, one.id) for one in pairs] + [(one, one.id + asking.AGAIN) for one in pairs if one.both]
        for place in rng.permutation(len(queue)):
            one, id = queue[place]
            name = names[rng.integers(len(names))]
            side = int(rng.choice([-1, 1]))
            x = _says(self.pool[name], seen.answers, int(one.new), int(one.old), side, rng)
            yield Said(
                0, id, name, x, one.slice, both=one.both, dlen=_dlen(seen.answers, one), selected_by=one.selected_by,
                expected=one.expected, elsewhere=one.elsewhere,
            )  # fmt: skip

    def _answers(self, prompts: Sequence[asking.Prompt], rng: Any) -> tuple[Seen, list[tuple[str, str]]]:
        """Both versions' answers to each, the served one's first; their texts are their numbers."""
        prompt_N = np.array([int(prompt[0].content.split()[1]) for prompt in prompts])
        both = [self.land.answers(policy, prompt_N, rng) for policy in self.versions]
        seen = Seen(joined(*both), space=cast(Seen, self.foresight.reader).space)
        return seen, [(str(place), str(place + len(prompts))) for place in range(len(prompts))]


def _dlen(answers: Answers, one: asking.Asked) -> float:
    return float(np.log((answers.length_A[int(one.new)] + 1) / (answers.length_A[int(one.old)] + 1)))


# -- figures ---------------------------------------------------------------------------------------------------------


def e8(form: Form, seeds: range) -> Iterator[Figure]:
    yield from figures([play(form, seed) for seed in seeds], form["e8"]["criteria"], int(form["resamples"]))


def figures(courses: Sequence[Course], criteria: Form, resamples: int) -> Iterator[Figure]:
    """Of any tier."""
    turns = [turn for course in courses for turn in course.turns]
    promoted = [turn for turn in turns if turn.promoted]
    better = wilson(sum(turn.truth > 0.5 for turn in promoted), max(len(promoted), 1))
    wanted = f"at least {criteria['better']:.0%} (aim 99%)"
    name = f"promotions that are truly better, of {len(promoted)}"
    yield Figure("E8", name, better.value, better.low, better.high, wanted, better.value >= criteria["better"])
    for fault in ("none", "coins", "reversed", "too_far"):
        some = [turn for turn in turns if turn.fault == fault]
        if some:
            rate = wilson(sum(turn.promoted for turn in some), len(some))
            yield Figure(
                "E8", f"candidates promoted, of {len(some)} rounds with fault: {fault}", rate.value, rate.low, rate.high
            )
    missed = sum(turn.worst < 0.5 for turn in turns)
    name = f"rounds of {len(turns)} that leave a version served which is truly worse than one served before"
    yield Figure("E8", name, missed, float("nan"), float("nan"), "0", missed == 0)
    worse = [turn for turn in turns if turn.truth < 0.5]
    held = wilson(sum(not turn.promoted for turn in worse), max(len(worse), 1))
    yield Figure("E8", f"truly worse candidates kept out, of {len(worse)}", held.value, held.low, held.high)
    kept = mean("E8", "diversity kept after the last round", [one.diversity for one in courses], resamples=resamples)
    yield replace(
        kept, criterion=f"at least {criteria['diversity']:.0%} (aim 95%)", met=kept.value >= criteria["diversity"]
    )
    yield mean(
        "E8", "win rate of the last served over the first", [one.reached for one in courses], resamples=resamples
    )
    yield mean(
        "E8",
        "promotions in a course",
        [float(sum(t.promoted for t in one.turns)) for one in courses],
        resamples=resamples,
    )
    for name, with_gate in (("training labels and the gate's judgements", True), ("training labels alone", False)):
        figure = _price(courses, f"{name}, per point of win rate", with_gate, resamples)
        most = float(criteria["labels_per_point"])
        yield (
            replace(figure, criterion=f"at most {most:g} (aim 46; AlpacaFarm 926)", met=figure.value <= most)
            if with_gate
            else figure
        )


def _price(courses: Sequence[Course], name: str, with_gate: bool, resamples: int) -> Figure:
    cost_S = np.array(
        [sum(turn.asked + turn.judged * with_gate for turn in one.turns) for one in courses], dtype=np.float64
    )
    points_S = np.array([100 * (one.reached - 0.5) for one in courses])

    def price(weight_S: Float) -> float:
        points = float(weight_S @ points_S)
        return float(weight_S @ cost_S) / points if points > 0 else float("inf")

    return Figure("E8", name, price(np.ones(len(courses))), *bootstrap(price, len(courses), resamples=resamples))
