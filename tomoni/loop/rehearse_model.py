"""The rehearsal of rounds with a language model of the package: real workspaces, the store, `loop.round` itself.

The bundled small model is tuned on questions about the invented world, as the demo tunes it. People share one hidden
taste (`tomoni.world.tastes`, not linear in anything the system sees), each label is flipped now and then, and in some rounds
everybody answers by coin. They judge what the product asks (`ask.choose` on the served model's answers), then the gate's
pairs as they come. The truth is computed from texts: the share of held-out questions to which the candidate's answer has
the higher score.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tomoni.errors import RunError
from tomoni.feedback.arrays import Float
from tomoni.feedback.ask import Candidates, choose
from tomoni.feedback.entries import NewPrompt
from tomoni.feedback.head import Head
from tomoni.feedback.resolve import resolve
from tomoni.feedback.store import Store
from tomoni.loop import asked as asking
from tomoni.loop import practice
from tomoni.loop.measures import distinct
from tomoni.loop.rehearse_caution import best_of_weights
from tomoni.loop.rehearse_figures import Figure, mean
from tomoni.loop.rehearse_model_loop import e1
from tomoni.loop.rehearse_people_of_model import Person, open_model, preferred, prompts_of
from tomoni.loop.rehearse_ten import Course, Fault, Turn, figures
from tomoni.loop.round import Played, Wanted, play
from tomoni.loop.roundfolder import take_in
from tomoni.loop.taste import Prompt, Reader, understand
from tomoni.records import Judgement, Kind
from tomoni.registry import Registry, Version
from tomoni.world import bundled_world, held_out_questions, taste_of, tuning_questions

if TYPE_CHECKING:
    from tomoni.evaluate.subject import Subject

Form = Mapping[str, Any]
OFFERED: Final = 4  # answers to a prompt, of which two are asked about
MOST_BATCHES: Final = 40


def rehearse_model(form: Form, seeds: range, only: Sequence[str]) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="tomoni-rehearsal-") as folder:
        tuned = _tuned(form["model"], Path(folder))
        if not only or "E1" in only:
            yield from e1(form, tuned, Path(folder), seeds)
        if not only or "E5" in only:
            yield from _e5(form, tuned, seeds)
        if not only or "E8" in only:
            courses = []
            for seed in seeds:
                match = Match(form["model"], tuned, Path(folder) / f"w{seed}", seed)
                for number, turn in enumerate(match.turns(), 1):
                    outcome = f"{'promoted' if turn.promoted else 'kept'} after {turn.judged} judgements"
                    name = (
                        f"model, seed {seed}, round {number} ({turn.fault}): {outcome}; true win rate of the candidate"
                    )
                    yield Figure("E8", name, turn.truth, float("nan"), float("nan"))
                courses.append(match.course())
            yield from figures(courses, form["e8"]["criteria"], int(form["resamples"]))


def _tuned(part: Form, folder: Path) -> Path:
    """The demo's model."""
    from tomoni.run import start
    from tomoni.settings.sft import Config

    rows = tuning_questions(bundled_world(), int(part["tuning"]["questions"]), int(part["tuning"]["seed"]))
    file = folder / "tuning.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    cfg = Config(
        model_name_or_path=part["name"],
        train_file=(str(file),),
        output_dir=str(folder / "tuned"),
        **part["tuning"]["how"],
    )
    if (result := start(cfg)).status != "finished":
        raise RunError(f"the tuning was stopped at step {result.step}", next_step="start the rehearsal again")
    return folder / "tuned"


class Match:
    """One seed: a workspace, its people, and rounds until they are over."""

    def __init__(self, part: Form, tuned: Path, folder: Path, seed: int) -> None:
        self.part, self.folder, self.seed = part, folder, seed
        self.rng, self.taste = random.Random(f"rehearsal of rounds {seed}"), taste_of(1 + seed, seed)
        folder.mkdir()
        registry = Registry.open(folder)
        registry.promote(registry.register(tuned).id)
        world = bundled_world()
        practise = prompts_of(tuning_questions(world, int(part["prompts"]), 1000 + seed, conversations=0))
        held_out = prompts_of(held_out_questions(world, int(part["held_out"]), 1000 + seed))
        self.measured = prompts_of(held_out_questions(world, int(part["measured"]), 2000 + seed))
        with Store.open(folder) as store:
            ids = [store.add_person(f"person {k}", role="annotator").id for k in range(int(part["e8"]["people"]))]
            self.people = [Person(id, self.taste, float(part["e8"]["flips"]), self.rng) for id in ids]
            store.add_prompts([NewPrompt(one, "world", topic=_topic(one)) for one in practise])
            store.add_prompts([NewPrompt(one, "world", topic=_topic(one), held_out=True) for one in held_out])
        self.said = 0
        self.served: list[Version] = []
        self.played: list[Turn] = []

    def turns(self) -> Iterator[Turn]:
        """Each round as it ends."""
        registry = Registry.open(self.folder)
        self.served = [_current(registry)]
        for number in range(1, int(self.part["e8"]["rounds"]) + 1):
            fault: Fault = "coins" if self.rng.random() < float(self.part["e8"]["faults"]["coins"]) else "none"
            self._ask(registry, number, coin=fault == "coins")
            played, judged = self._play()
            promoted = played.state == "promoted"
            truth = self.better(played.candidate, self.served[-1])
            if promoted:
                self.served.append(played.candidate)
            worst = min((self.better(self.served[-1], other) for other in self.served[:-1]), default=1.0)
            self.played.append(Turn(fault, promoted, truth, int(self.part["e8"]["labels"]), judged, worst))
            yield self.played[-1]

    def course(self) -> Course:
        """Of the rounds that were played."""
        first, last = self.served[0], self.served[-1]
        reached = self.better(last, first) if last.id != first.id else 0.5
        return Course(self.played, reached, self._distinct(last) / self._distinct(first))

    # -- asking ------------------------------------------------------------------------------------------------------

    def _ask(self, registry: Registry, number: int, *, coin: bool) -> None:
        """So many pairs of the served model's answers, chosen by the product's rule, judged in turns."""
        subject = _subject(_current(registry))
        with Store.read(self.folder) as store:
            prompts = [row.messages for row in store.prompts(status="active", held_out=False)]
            snapshot = resolve(store.judgements(live=False))
        self.rng.shuffle(prompts)
        drawn = practice.draw(subject, prompts[: int(self.part["asked"])], OFFERED, seed=self.seed * 100 + number)
        drawn = [replace(one, texts=tuple(dict.fromkeys(one.texts))) for one in drawn]
        reader = Reader(subject, drawn)
        head = Head.blank(reader.space.dimensions, length=reader.space.length)
        if snapshot.comparisons:
            head = understand(reader, snapshot, drawn)
        names = [f"{place}/{n}" for place, one in enumerate(drawn) for n in range(len(one.texts))]
        wanted = [(one.prompt, text) for one in drawn for text in one.texts]
        phi_AD = np.array([known.phi_D for known in reader.read(wanted)])
        candidates = Candidates.of(names, [name.partition("/")[0].zfill(4) for name in names], phi_AD)
        chosen = choose(candidates, head, n=int(self.part["e8"]["labels"]), seed=self.seed * 100 + number)
        with Store.open(self.folder) as store:
            for turn, one in enumerate(chosen):
                place = int(one.first.partition("/")[0])
                texts = tuple(drawn[place].texts[int(name.partition("/")[2])] for name in (one.first, one.second))
                person = self.people[turn % len(self.people)]
                self._say(
                    store,
                    person,
                    drawn[place].prompt,
                    (texts[0], texts[1]),
                    coin,
                    {"purpose": "train", "selected_by": one.selected_by},
                )

    def _say(
        self, store: Store, person: Person, prompt: Prompt, texts: tuple[str, str], coin: bool, extra: dict[str, Any]
    ) -> None:
        self.said += 1
        verdict = person.verdict(*texts, coin=coin)
        order = (0, 1) if self.rng.random() < 0.5 else (1, 0)
        value = {"verdict": verdict, "strength": 0 if verdict == "tie" else 1}
        id = f"s{self.seed}-{self.said}"
        store.judge(
            Judgement(id, person.id, prompt, texts, order, Kind.COMPARISON, value, seconds=8.0, extra=extra), key=id
        )

    # -- the round ---------------------------------------------------------------------------------------------------

    def _play(self) -> tuple[Played, int]:
        """`tomoni round`, and people who judge what it asks, until it is decided."""
        wanted, judged = Wanted(self.folder, threads=1, **self.part["round"]), 0
        for _ in range(MOST_BATCHES):
            played = play(wanted)
            if played.state != "waiting":
                return played, judged
            judged += self._judge(played)
        raise AssertionError("a round that nobody can decide")

    def _judge(self, played: Played) -> int:
        by_id = {
            one.id: one for path in sorted(played.folder.glob("answers-*/pairs.jsonl")) for one in asking.read(path)
        }
        take_in(self.folder)
        done = 0
        with Store.open(self.folder) as store:
            store.take_in()
            for pair in store.pairs(purpose="gate", judged=False):
                one = by_id.get(pair.id.partition("~")[0])
                if one is not None:
                    person = self.rng.choice(self.people)
                    extra = {"purpose": "gate", "pair": pair.id, "prompt": one.prompt}
                    self._say(store, person, one.messages, one.texts, False, extra)
                    done += 1
        return done

    # -- the truth ---------------------------------------------------------------------------------------------------

    def better(self, version: Version, other: Version) -> float:
        return preferred(self.taste, _subject(version), _subject(other), self.measured)

    def _distinct(self, version: Version) -> float:
        """distinct-2 of four answers a prompt, mean over prompts."""
        drawn = practice.draw(_subject(version), self.measured[:100], OFFERED, seed=5)
        return float(np.mean([distinct(one.texts) for one in drawn]))


def _topic(prompt: Prompt) -> str:
    return "ja" if practice.in_japanese(prompt) else "en"


def _current(registry: Registry) -> Version:
    version = registry.current()
    if version is None:
        raise AssertionError("a version was promoted when the workspace was made")
    return version


def _subject(version: Version) -> Subject:
    return open_model(version.model)


# -- E5 --------------------------------------------------------------------------------------------------------------


def _e5(form: Form, tuned: Path, seeds: range) -> Iterator[Figure]:
    part, resamples, subject = form["model"]["e5"], int(form["resamples"]), open_model(tuned)
    gains = [
        _gained(form["model"], subject, seed, float(form["people"]["flips"]), float(form["e5"]["caution"]))
        for seed in seeds
    ]
    for way in ("cautious", "single"):
        curve_SN = np.array([one[way] for one in gains])
        kept_S = curve_SN[:, -1] / curve_SN.max(1)
        name = f"model, {part['labels']} labels, {way}: score of the best of {part['most']} over that at the peak"
        yield mean("E5", name, kept_S, resamples=resamples)
        yield mean(
            "E5",
            f"{name[: name.index(':')]}: score won by the best of {part['most']}",
            curve_SN[:, -1],
            resamples=resamples,
        )


def _gained(part: Form, subject: Subject, seed: int, flips: float, caution: float) -> Mapping[str, Float]:
    """Score over the mean of the best of 1, 2, 4 … answers, by way of scoring."""
    rng, taste, most = random.Random(f"caution {seed}"), taste_of(1 + seed, seed), int(part["e5"]["most"])
    world = bundled_world()
    asked = prompts_of(tuning_questions(world, int(part["e5"]["labels"]), 3000 + seed, conversations=0))
    pairs = [one for one in practice.draw(subject, asked, 2, seed=seed) if len(set(one.texts)) == 2]
    ground = practice.draw(subject, asked[:60], 8, seed=seed + 1)
    reader = Reader(subject, ground)
    deltas, labels = [], []
    person = Person("", taste, flips, rng)
    for one in pairs:
        first, second = reader.read([(one.prompt, text) for text in one.texts])
        deltas.append(first.phi_D - second.phi_D)
        labels.append({"first": 1.0, "second": 0.0}.get(person.verdict(*one.texts), 0.5))
    head = Head.fit(np.array(deltas), np.array(labels), noise_N=np.full(len(labels), flips), length=reader.space.length)
    weight_NM = best_of_weights(most, 2 ** np.arange(int(np.log2(most)) + 1))
    prompts = prompts_of(held_out_questions(world, int(part["e5"]["prompts"]), 3000 + seed))
    found: dict[str, Float] = {}
    scorers: dict[str, Callable[[Float], Float]] = {
        "cautious": lambda phi_MD: head.scores(phi_MD, reference_MD=phi_MD[:16], caution=caution),
        "single": lambda phi_MD: head.mean(phi_MD),
    }
    for prompt in prompts:
        drawn = practice.draw(subject, [prompt], most, seed=seed + 2)[0]
        texts = drawn.texts + drawn.texts[: most - len(drawn.texts)]
        phi_MD = np.array([known.phi_D for known in reader.read([(prompt, text) for text in texts])])
        gold_M = np.array([taste.score(text) for text in texts])
        for way, scores in scorers.items():
            gain_N = weight_NM @ (gold_M - gold_M.mean())[np.argsort(scores(phi_MD), kind="stable")]
            found[way] = found.get(way, np.zeros(len(gain_N))) + gain_N / len(prompts)
    return found
