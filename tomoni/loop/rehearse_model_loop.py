"""E1 with a language model of the package: the loop against offline training at equal win rates.

Both arms practise as the product does: the best of eight of the policy's own answers to each prompt, learnt by a small
adapter (`taste.best_of`, `practice.Trainer`). Offline, all pairs are of the starting model's answers, drawn at random; the
head is fitted once, and the policy practises by it as many steps as are best. In the loop the pairs are the current
policy's, chosen by the product's rule, the head is fitted anew as the starting model sees them, and one step is made. Each
label is flipped with a probability that both arms are told; what is measured is the hidden taste's own verdict on texts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tomoni.feedback.ask import Candidates, choose
from tomoni.feedback.head import Head
from tomoni.loop import practice
from tomoni.loop.rehearse_figures import Figure, mean, needed
from tomoni.loop.rehearse_people_of_model import Person, open_model, preferred, prompts_of
from tomoni.loop.taste import PREFERRED, Drawn, Prompt, Reader, agreements, best_of
from tomoni.records import Verdict
from tomoni.world import bundled_world, held_out_questions, taste_of, tuning_questions

if TYPE_CHECKING:
    from tomoni.evaluate.subject import Subject

Form = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Label:
    """`y`: 1 where the first of the texts was preferred, 0 the second, .5 neither."""

    prompt: Prompt
    texts: tuple[str, str]
    y: float


def e1(form: Form, tuned: Path, folder: Path, seeds: range) -> Iterator[Figure]:
    part, resamples = form["model"]["e1"], int(form["resamples"])
    sizes, batch = [int(size) for size in part["offline"]["sizes"]], int(part["loop"]["batch"])
    offline_SN, loop_SN = [], []
    for seed in seeds:
        arms = Arms(form, tuned, folder / f"e1-{seed}", seed)
        offline_SN.append([arms.offline(size) for size in sizes])
        loop_SN.append(arms.loop())
    at_N = batch * np.arange(1, len(loop_SN[0]) + 1, dtype=np.float64)
    for name, at, curve_SN in (("offline", sizes, offline_SN), ("loop", at_N.astype(int).tolist(), loop_SN)):
        for place, labels in enumerate(at):
            rates = [curve[place] for curve in curve_SN]
            yield mean(
                "E1", f"model, {name}: win rate over the start after {labels} labels", rates, resamples=resamples
            )
    best = float(np.max(np.mean(offline_SN, axis=0)))
    ratio = sizes[-1] / needed(np.mean(loop_SN, axis=0), at_N, best)
    wanted = float(form["e1"]["criteria"]["ratio"])
    name = f"model, labels of offline training at {sizes[-1]} over those of the loop that wins as often as its best"
    yield Figure("E1", name, ratio, float("nan"), float("nan"), f"at least {wanted:g} (aim 20)", ratio >= wanted)


@dataclass(slots=True)
class Arms:
    """Both arms of one seed: the same taste, prompts and start."""

    form: Form
    tuned: Path
    folder: Path
    seed: int
    rng: random.Random = field(init=False)
    start: Subject = field(init=False)
    pool: list[Prompt] = field(init=False)
    measured: list[Prompt] = field(init=False)
    _runs: int = 0

    def __post_init__(self) -> None:
        part, world = self.form["model"], bundled_world()
        self.folder.mkdir()
        self.rng, self.start = random.Random(f"loop with a model {self.seed}"), open_model(self.tuned)
        self.pool = prompts_of(tuning_questions(world, int(part["prompts"]), 1000 + self.seed, conversations=0))
        self.measured = prompts_of(held_out_questions(world, int(part["e1"]["measured"]), 2000 + self.seed))

    @property
    def flips(self) -> float:
        return float(self.form["people"]["flips"])

    def person(self) -> Person:
        return Person("", taste_of(1 + self.seed, self.seed), self.flips, self.rng)

    # -- the arms ------------------------------------------------------------------------------------------------------

    def offline(self, labels: int) -> float:
        """Win rate over the start, of the best of so many steps."""
        part, person = self.form["model"]["e1"], self.person()
        pool = practice.draw(self.start, self.pool, practice.ANSWERS, seed=self.seed)
        pairs = [(one.prompt, pair) for one in pool for pair in _pairs(one.texts)]
        said = [self._said(person, *self.rng.choice(pairs)) for _ in range(labels)]
        reader = Reader(self.start, pool)
        head = self._head(reader, said)
        drawn, path, rates = self._some(pool), self.tuned, []
        for step in range(int(part["offline"]["steps"])):
            if step:
                drawn = self._draw(open_model(path), seed=step)
            path = self._practised(path, reader, head, drawn)
            rates.append(self.better(open_model(path)))
        return max(rates)

    def loop(self) -> list[float]:
        """Win rate over the start after each batch of labels and the step that follows."""
        part, person = self.form["model"]["e1"]["loop"], self.person()
        path, policy, said, rates = self.tuned, self.start, list[Label](), []
        for number in range(int(part["labels"]) // int(part["batch"])):
            drawn = self._draw(policy, seed=1000 + number)
            reader = practice.eyes_of_first(self.start, drawn)
            asked = self._asked(reader, drawn, self._head(reader, said), number)
            said += [self._said(person, *one) for one in asked]
            path = self._practised(path, reader, self._head(reader, said), drawn)
            policy = open_model(path)
            rates.append(self.better(policy))
        return rates

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _some(self, drawn: Sequence[Drawn]) -> list[Drawn]:
        return self.rng.sample(list(drawn), min(int(self.form["model"]["e1"]["practise"]), len(drawn)))

    def _draw(self, policy: Subject, *, seed: int) -> list[Drawn]:
        prompts = self.rng.sample(self.pool, min(int(self.form["model"]["e1"]["practise"]), len(self.pool)))
        return practice.draw(policy, prompts, practice.ANSWERS, seed=self.seed * 100_000 + seed)

    def _asked(
        self, reader: Reader, drawn: Sequence[Drawn], head: Head, number: int
    ) -> list[tuple[Prompt, tuple[str, str]]]:
        part = self.form["model"]["e1"]["loop"]
        offered = [
            (place, text) for place, one in enumerate(drawn) for text in dict.fromkeys(one.texts[: part["offered"]])
        ]
        phi_AD = np.array(
            [known.phi_D for known in reader.read([(drawn[place].prompt, text) for place, text in offered])]
        )
        names = [str(at) for at in range(len(offered))]
        candidates = Candidates.of(names, [f"{place:04}" for place, _ in offered], phi_AD)
        chosen = choose(candidates, head, n=int(part["batch"]), seed=self.seed * 100 + number, rule=part["rule"])
        found = []
        for one in chosen:
            (place, first), (_, second) = offered[int(one.first)], offered[int(one.second)]
            found.append((drawn[place].prompt, (first, second)))
        return found

    def _said(self, person: Person, prompt: Prompt, texts: tuple[str, str]) -> Label:
        return Label(prompt, texts, PREFERRED[Verdict(person.verdict(*texts))])

    def _head(self, reader: Reader, said: Sequence[Label]) -> Head:
        if not said:
            return Head.blank(reader.space.dimensions, length=reader.space.length)
        both = reader.read([(one.prompt, text) for one in said for text in one.texts])
        deltas_ND = np.array([first.phi_D - second.phi_D for first, second in zip(both[::2], both[1::2], strict=True)])
        y_N = np.array([one.y for one in said])
        return Head.fit(deltas_ND, y_N, noise_N=np.full(len(said), self.flips), length=reader.space.length)

    def _practised(self, path: Path, reader: Reader, head: Head, drawn: Sequence[Drawn]) -> Path:
        self._runs += 1
        place = self.folder / f"{self._runs:03}"
        place.mkdir()
        weights, width = self.start.weights, int(self.start.model.config.get_text_config().hidden_size)
        trainer = practice.Trainer(str(path), place, weights, width, path != self.tuned, threads=1)
        agreed = zip(drawn, agreements(drawn), strict=True)
        chosen = [(one.prompt, one.texts[best_of(reader, head, one, agreed_N)[0]]) for one, agreed_N in agreed]
        trainer.practise(practice.rows_of_own(chosen), far=False, on_event=lambda _: None)
        return place / "run"

    def better(self, policy: Subject) -> float:
        """How often the policy's answer has more of the taste than the start's; ties half."""
        return preferred(self.person().taste, policy, self.start, self.measured)


def _pairs(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    known = list(dict.fromkeys(texts))
    return ((one, other) for place, one in enumerate(known) for other in known[place + 1 :])
