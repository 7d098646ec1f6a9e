"""One turn of the loop: what people said becomes a candidate, people judge it blind, and the gate decides.

    W/rounds/NNNN/round.json     what the round started from: the version served, the judgements until then
                  prompts/ people/ snapshot/ checks/ train/ probes/ answers-N/ asking-N/    stages (`loop.stages`)
                  gate.json      the decision as far as people have judged
                  decision/ promotion/    once it is made
                  status.json    for whoever looks; report.html
    W/rounds/report.html         across rounds

`play` goes on with the round that is open, or begins one. Killed at any moment, it goes on where it was. It never writes
the store: the pairs go through the inbox, which the studio takes in, or `play` itself where no studio runs.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tomoni.durable import require_space, write_object
from tomoni.errors import DataError, RunError, UserError
from tomoni.feedback.checks import purpose_of
from tomoni.feedback.entries import PromptRow, Stored, prompt_id
from tomoni.feedback.inbox import Inbox
from tomoni.feedback.resolve import resolve
from tomoni.feedback.snapshot import Snapshot
from tomoni.feedback.store import Store
from tomoni.loop import asked as asking
from tomoni.loop import learn as learning
from tomoni.loop import measures, practice, since_first, taste_reward
from tomoni.loop.crowd import Crowd, Person, appraise
from tomoni.loop.evidence import Evidence, Probed
from tomoni.loop.foresee import OTHERS, foresight
from tomoni.loop.gate import Decision, Settings, decide, fewer
from tomoni.loop.learn import Plan
from tomoni.loop.methods import METHODS, REWARDED, Method, Trainer, methods_for
from tomoni.loop.probes import Probe, passed, probed, probes_of
from tomoni.loop.progress import Pace, Progress
from tomoni.loop.replay import TRAINED_AGAIN, Replayed, gather
from tomoni.loop.roundfolder import Begun, Status, alone, open_round, take_in
from tomoni.loop.stages import Output, Stages, hashed
from tomoni.loop.taste import understand
from tomoni.records import Kind
from tomoni.registry import Registry, Version

if TYPE_CHECKING:
    from tomoni.evaluate.subject import Subject

PAIRS = 60  # put before people at a time
FEW_LEFT = 6  # of them not judged yet: then come the next
FEWEST_HELD_OUT = 8
AGAINST_FORGETTING = 0.2  # share of replay, where a candidate has lost what it could do
SPACE = 64 << 20  # bytes that a round needs besides the model's own size
STAGES = ("prompts", "people", "snapshot", "checks", "train", "probes")
State = Literal["waiting", "promoted", "kept"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """`method`: auto chooses by what was said. `replay`: see `Plan`. `learning`: how `learn` practises."""

    workspace: Path
    method: Method = "auto"
    pairs: int = PAIRS
    price_per_hour: float = learning.PRICE_PER_HOUR
    threads: int | None = None
    prompts: int | None = None
    answers: int | None = None
    replay: float = learning.REPLAY
    settings: Settings = field(default_factory=Settings)

    @property
    def learning(self) -> Plan:
        plan = Plan(self.workspace, price_per_hour=self.price_per_hour, threads=self.threads)
        plan = plan if self.prompts is None else replace(plan, prompts=self.prompts)
        return plan if self.answers is None else replace(plan, answers=self.answers)


@dataclass(frozen=True, slots=True)
class Played:
    folder: Path
    begun: Begun
    candidate: Version
    decision: Decision
    state: State


def play(wanted: Wanted, *, new: bool = False) -> Played:
    """Go on with the open round, or begin one; `new` closes an open one undecided. UserErrors say what is missing."""
    registry = Registry.open(wanted.workspace)
    with alone(wanted.workspace), learning.alone(wanted.workspace), learning.stoppable():
        take_in(wanted.workspace)
        folder = open_round(wanted, registry, new)
        begun = Begun(**json.loads((folder / "round.json").read_text(encoding="utf-8")))
        status = Status(folder)
        try:
            played = Round(wanted, registry, folder, begun, status).go_on()
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            text = error.text() if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            status.say("stopped" if stopped else "failed", error=None if stopped else text)
            raise
        status.say("waiting" if played.state == "waiting" else "finished", more=played.decision.more)
    return played


class Round:
    """One round's stages, in order. Every model is loaded at most once."""

    def __init__(self, wanted: Wanted, registry: Registry, folder: Path, begun: Begun, status: Status) -> None:
        self.wanted, self.registry, self.folder, self.begun = wanted, registry, folder, begun
        self.stages = Stages(folder, status.begins)
        self.settings = Settings(**begun.settings)
        self.base = registry.get(begun.base)
        self._subjects: dict[str, Subject] = {}
        self._snapshot: Snapshot | None = None
        self._marks: dict[tuple[str, ...], list[list[bool] | None]] = {}

    def go_on(self) -> Played:
        outputs = self._through()
        candidate = self.registry.get(str(outputs["train"]["version"]))
        known = self.stages.output("decision")
        decision = self.decision(outputs)
        while known is None and decision.outcome == "undecided" and self._left() < FEW_LEFT:
            self._ask(outputs, len(self.batches()) + 1)
            decision = self.decision(outputs)
        write_object(self.folder / "gate.json", asdict(decision))
        if known is None and decision.outcome == "undecided":
            return self._report(outputs, candidate, decision, "waiting")
        final = self.stages.run("decision", {"candidate": candidate.hash}, lambda _: asdict(decision))
        moved = self.stages.run("promotion", {"decision": hashed(final)}, lambda _: self._promote(final, candidate))
        return self._report(outputs, candidate, decision, "promoted" if moved["promoted"] else "kept")

    def _through(self) -> dict[str, Output]:
        run, begun = self.stages.run, self.begun
        start = {"base": begun.base_hash, "sequence": begun.sequence}
        found = {"prompts": run("prompts", start, self._prompts)}
        found["people"] = run("people", start | {"said": self._said_hash()}, self._people)
        found["snapshot"] = run("snapshot", {"people": hashed(found["people"]), **start}, self._resolve)
        found["checks"] = run("checks", {"snapshot": found["snapshot"]["hash"]}, self._checks)
        how = {"method": begun.method} | ({"replay": begun.replay} if begun.replay else {})
        training = {"snapshot": found["snapshot"]["hash"], "base": begun.base_hash, **how}
        found["train"] = run("train", training, self._train)
        candidate = {"base": begun.base_hash, "candidate": found["train"]["hash"]}
        probes = probes_of(self.wanted.workspace)
        inputs = candidate | {"probes": probes.hash}
        found["probes"] = run("probes", inputs, lambda place: self._probes(found))
        if self.batches() or self.decision(found).outcome != "keep":  # else probes have decided: nobody need judge
            self._ask(found, 1)
        return found

    def _ask(self, found: Mapping[str, Output], batch: int) -> None:
        """Batch number `batch` of pairs, before people."""
        given = {"candidate": found["train"]["hash"], "pairs": self.begun.pairs, "batch": batch}
        answers = self.stages.run(f"answers-{batch}", given, lambda place: self._answers(place, found, batch))
        self.stages.run(f"asking-{batch}", {"answers": answers["hash"]}, lambda _: self._hand_over(found, batch))

    def batches(self) -> list[int]:
        """Those that are before people, or were."""
        numbers = range(1, self.settings.most + 2)
        return list(takewhile(lambda batch: self.stages.known(f"asking-{batch}") is not None, numbers))

    def pairs(self) -> list[asking.Asked]:
        return [one for batch in self.batches() for one in asking.read(self.place(batch))]

    def pairs_with_first(self) -> list[asking.Asked]:
        path = self.place(1).with_name(since_first.FILE)
        return asking.read(path) if path.exists() else []

    def place(self, batch: int) -> Path:
        return self.folder / f"answers-{batch}" / "pairs.jsonl"

    # -- reading -----------------------------------------------------------------------------------------------------

    def stored(self) -> list[Stored]:
        with Store.read(self.wanted.workspace) as store:
            everything = store.judgements(live=False)
        return [one for one in everything if one.sequence <= self.begun.sequence]

    def _said_hash(self) -> str:
        """Changes where somebody's data was erased."""
        return hashed([one.judgement.id for one in self.stored()])

    def _people(self, place: Path) -> Output:
        with Store.read(self.wanted.workspace) as store:
            gold = {pair.id: pair.expected for pair in store.pairs(purpose="gold") if pair.expected is not None}
            topics = {row.id: row.topic for row in store.prompts()}
        stored = self.stored()
        few = sum(one.judgement.kind is Kind.COMPARISON for one in stored) < practice.FEWEST_PROMPTS // 2
        none = Crowd({}, self.begun.sequence, None, 0.0)
        crowd = none if few else appraise(stored, self.subject(self.base), gold, topics)
        crowd = replace(crowd, until=self.begun.sequence)
        return {**asdict(crowd), "blind": list(crowd.blind), "value": crowd.value}

    def crowd(self, output: Output) -> Crowd:
        people = {name: Person(**person) for name, person in output["people"].items()}
        return Crowd(
            people, int(output["until"]), output["alpha"], float(output["signal"]), output.get("contested", {})
        )

    def _prompts(self, place: Path) -> Output:
        """Chosen once: what people add while the round goes on is for the next one."""
        with Store.read(self.wanted.workspace) as store:
            rows = store.prompts()
        told = [one.judgement for one in self.stored() if purpose_of(one.judgement) != "gate"]
        judged = {prompt_id(one.prompt) for one in told}
        held_out = [row.id for row in asking.held_out_of(rows, judged)]
        apart = set(held_out)
        practise = [row.id for row in rows if row.status == "active" and not row.held_out and row.id not in apart]
        return {"practise": practise, "held_out": held_out}

    def prompts(self) -> tuple[list[PromptRow], list[PromptRow]]:
        """Those to practise on, and those held out."""
        chosen = self.stages.output("prompts") or {}
        with Store.read(self.wanted.workspace) as store:
            rows = {row.id: row for row in store.prompts()}
        practise, held_out = ([rows[id] for id in chosen[which] if id in rows] for which in ("practise", "held_out"))
        return practise, held_out

    def snapshot(self) -> Snapshot:
        if self._snapshot is None:
            crowd = self.crowd(self.stages.output("people") or {})
            held_out = [row.id for row in self.prompts()[1]]
            self._snapshot = resolve(self.stored(), weights=crowd.weights(), held_out=held_out)
        return self._snapshot

    def _resolve(self, place: Path) -> Output:
        snapshot = self.snapshot()
        if snapshot.empty:
            why = "; ".join(f"{count} {reason}" for reason, count in snapshot.left_out.items())
            raise DataError(
                "nothing to learn from yet" + (f" ({why})" if why else ""),
                next_step="judge about ten pairs, or correct three answers, in the studio",
            )
        snapshot.write(self.wanted.workspace)
        counts = {"comparisons": len(snapshot.comparisons), "ties": snapshot.ties}
        counts |= {"corrections": len(snapshot.corrections), "thumbs": len(snapshot.thumbs)}
        seconds = [one.judgement.seconds for one in self.stored()]
        return {
            "hash": snapshot.hash,
            "counts": counts,
            "left_out": dict(snapshot.left_out),
            "people": list(snapshot.people),
            "judgements": snapshot.judgements,
            "seconds": sum(value for value in seconds if value is not None),
        }

    def _checks(self, place: Path) -> Output:
        """What would go wrong later is said now."""
        practise, held_out = self.prompts()
        if len(held_out) < FEWEST_HELD_OUT:
            raise DataError(
                f"{len(held_out)} prompts are held out from training, and a gate needs {FEWEST_HELD_OUT}",
                next_step="add prompts that people would ask (Prompts in the studio); they need no answers",
            )
        mixed = {row.id for row in practise} & {row.id for row in held_out}
        if mixed:
            raise AssertionError(f"prompts are both practised on and held out: {sorted(mixed)[:3]}")
        self.registry.verify(self.base)
        require_space(self.folder, SPACE)
        probes = probes_of(self.wanted.workspace)
        topics = Counter(row.topic for row in held_out)
        return {
            "practise": len(practise),
            "held_out": len(held_out),
            "topics": dict(topics),
            "safety_probes": len(probes.safety),
            "capability_probes": len(probes.capability),
        }

    # -- training ----------------------------------------------------------------------------------------------------

    def subject(self, version: Version) -> Subject:
        if version.id not in self._subjects:
            self._subjects[version.id] = learning.open_version(self.registry, version)
        return self._subjects[version.id]

    def _train(self, place: Path) -> Output:
        snapshot = self.snapshot()
        methods = methods_for(snapshot) if self.begun.method == "auto" else (self.begun.method,)
        tried = [self._by(method, snapshot, place / method) for method in methods]
        best = max(tried, key=lambda one: (one["expected"] or {"value": 0.5})["value"])
        if not self.begun.replay and self._forgets(best):
            again = self._by(best["method"], snapshot, place / f"{best['method']}-replay", AGAINST_FORGETTING)
            if again["replayed"]["rows"]:
                tried.append(again | {"notes": [*again["notes"], TRAINED_AGAIN]})
                best = again if (again["expected"] or {"value": 1.0})["value"] > 0.5 else best
        version = self.registry.register(
            best["run"],
            base=self.base.id,
            method=f"round ({best['method']})",
            config={"round": self.begun.number, "method": best["method"]},
            run=best["run"],
            snapshot=snapshot.hash,
            judgements=snapshot.judgements,
            people=snapshot.people,
            evaluation={} if best["expected"] is None else {"expected_win_rate": best["expected"]},
            cost={"seconds": round(sum(one["seconds"] for one in tried), 1)},
        )
        taken = next(place for place, one in enumerate(tried) if one["run"] == best["run"])
        tried = [one | {"run": str(Path(one["run"]).relative_to(self.folder))} for one in tried]
        return {"version": version.id, "hash": version.hash, "method": best["method"], "tried": tried, "taken": taken}

    def _forgets(self, trained: Mapping[str, Any]) -> bool:
        """Whether it can no longer do what the base, or the first version, could, by the workspace's tasks."""
        tasks = probes_of(self.wanted.workspace).capability
        if not tasks:
            return False
        from tomoni.evaluate.subject import open_subject

        new = passed(open_subject(trained["run"]), tasks)
        return any(fewer(new, marks) for marks in self._before(tasks) if marks is not None)

    def _before(self, some: Sequence[Probe]) -> list[list[bool] | None]:
        """What the base passes, and what the first version does where it is another; asked once."""
        key = tuple(one.id for one in some)
        if key not in self._marks:
            subjects = (self.subject(self.base), self._first())
            self._marks[key] = [None if one is None else passed(one, some) for one in subjects]
        return self._marks[key]

    def _by(self, method: str, snapshot: Snapshot, folder: Path, share: float | None = None) -> dict[str, Any]:
        share = self.begun.replay if share is None else share
        folder.mkdir(parents=True)
        begin = time.monotonic()
        progress = Progress(folder, Pace.of_last(self.wanted.workspace / "learn"))
        expected, notes = None, list[str]()
        if method == "learn":
            practise, held_out = self.prompts()
            plan = replace(self.wanted.learning, replay=share)
            material = learning.material_of(snapshot, self.begun.sequence, practise, held_out, plan)
            done = learning.practise(self.base, material, self.registry, plan, folder, progress)
            replayed, notes = done.replayed, done.notes
            expected = None if done.expected is None else asdict(done.expected)
        elif method in ("kto", "dpo"):
            replayed = (trainer := self._trainer(folder, share)).replay
            trainer.train("kto" if method == "kto" else "dpo", snapshot, folder / "run", progress.steps("training"))
            if method == "dpo":
                expected = self._expected(snapshot, folder / "run")
        elif method in REWARDED:
            replayed = self._raise("grpo" if method == "grpo" else "ppo", snapshot, folder, progress, share)
            expected = self._expected(snapshot, folder / "run")
        else:
            raise RunError(f"method {method!r}", choices=["auto", *METHODS])
        run, seconds = str(folder / "run"), round(time.monotonic() - begin, 1)
        told = {"run": run, "seconds": seconds, "expected": expected, "notes": notes, "replayed": replayed.as_json()}
        return {"method": method, **told}

    def _trainer(self, folder: Path, share: float) -> Trainer:
        replayed = gather(self.registry, self.base, share, folder, {row.id for row in self.prompts()[1]})
        return Trainer(self.wanted.workspace, self.base.model, self.wanted.threads, replay=replayed)

    def _raise(self, method: Method, snapshot: Snapshot, folder: Path, progress: Progress, share: float) -> Replayed:
        """Towards what the head likes, as far as it is sure of it."""
        practise, held_out = self.prompts()
        plan = self.wanted.learning
        material = learning.material_of(snapshot, self.begun.sequence, practise, held_out, plan, times=1)
        base = self.subject(self.base)
        drawn = learning.sample(base, material, plan, progress)
        reader = learning.reader_of(self._first(), base, drawn)
        reward = taste_reward.write(folder, reader, understand(reader, snapshot, drawn), drawn)
        trainer = self._trainer(folder, share)
        trainer.raise_reward(method, reward, material.practise, folder / "run", progress.steps("training"))
        return trainer.replay

    def _expected(self, snapshot: Snapshot, run: Path) -> dict[str, float] | None:
        """The win rate that the head expects, so that two methods can be compared before anybody judges."""
        from tomoni.evaluate.subject import open_subject

        return measures.expected(self._eyes(), self.subject(self.base), open_subject(run), snapshot, self.prompts()[1])

    # -- asking ------------------------------------------------------------------------------------------------------

    def candidate(self, found: Mapping[str, Output]) -> Version:
        return self.registry.get(str(found["train"]["version"]))

    def _left(self) -> int:
        """Pairs before people that nobody has judged or passed over."""
        with Store.read(self.wanted.workspace) as store:
            stored = store.judgements(purpose="gate", after=self.begun.sequence)
        judged = {one.pair.partition("~")[0] for one in asking.said_of(stored, self.pairs())}
        return sum(one.id not in judged for one in self.pairs())

    def _answers(self, place: Path, found: Mapping[str, Output], batch: int) -> Output:
        base, candidate = self.subject(self.base), self.subject(self.candidate(found))
        held_out, key = self.prompts()[1], f"{self.begun.number} {batch} {found['train']['hash']}"
        slices = asking.slices_of(held_out, self.settings.slice_share)
        with Store.read(self.wanted.workspace) as store:
            used = Counter(pair.prompt for pair in store.pairs(purpose="gate"))
        used.update(one.prompt for one in self.pairs())
        seen = foresight(self._eyes(), self.snapshot())
        unsure = None if batch == 1 else self.decision(found).unsure
        chosen = asking.drawn(
            held_out, self.begun.pairs, used=used, key=key, slices=slices, again=seen is not None, unsure=unsure
        )
        others = asking.others(held_out, 0 if seen is None else OTHERS * self.begun.pairs, key=key)
        seed, prompts = self.begun.number * 1000 + batch, [row.messages for row, _ in chosen]
        answers = asking.answered(base, candidate, [*prompts, *others], seed=seed)
        answers, more = answers[: len(chosen)], answers[len(chosen) :]
        pairs, alike = asking.pairs_of(self.begun.number, chosen, answers, key=key, slices=slices)
        if seen is not None:
            unjudged = zip(others, more, strict=True)
            pairs = seen.on(pairs, [(prompt, *both) for prompt, both in unjudged if asking.differ(*both)])
        asking.write(place / "pairs.jsonl", pairs)
        output: Output = {"asked": len(pairs), "alike": alike, "both": sum(one.both for one in pairs)}
        if batch == 1:
            first = self._first()
            output["drift"] = asdict(measures.drift(base, candidate, prompts, answers, first))
            if first is not None:
                more_pairs = since_first.ask(self.begun.number, first, candidate, held_out, key=key, seed=seed)
                asking.write(place / since_first.FILE, more_pairs)
        return output | {"hash": hashed([asdict(one) for one in pairs])}

    @property
    def first(self) -> Version:
        return since_first.first_of(self.registry, self.base)

    def _first(self) -> Subject | None:
        return learning.opened_first(self.registry, self.base, self.subject)

    def _eyes(self) -> Subject:
        """Who reads what is judged: see `practice.eyes_of_first`."""
        return self._first() or self.subject(self.base)

    def _probes(self, found: Mapping[str, Output]) -> Output:
        probes = probes_of(self.wanted.workspace)
        candidate = self.subject(self.candidate(found))
        output: Output = {}
        for kind in ("safety", "capability"):
            base, first = self._before(some) if (some := getattr(probes, kind)) else (None, None)
            known = probed(base or [], passed(candidate, some) if some else [], some, first)
            output[kind] = None if known is None else {**asdict(known), "hard": sorted(known.hard)}
        return output

    def _hand_over(self, found: Mapping[str, Output], batch: int) -> Output:
        candidate = self.candidate(found)
        events = list(asking.events_of(asking.read(self.place(batch)), self.base, candidate))
        if batch == 1:
            events = asking.spread(events, list(asking.events_of(self.pairs_with_first(), self.first, candidate)))
        box = Inbox(self.wanted.workspace)
        try:
            box.append(events)
        finally:
            box.close()
        taken = take_in(self.wanted.workspace, wait_for={event.id for event in events})
        return {"pairs": len(events), "taken_in": taken}

    # -- deciding ----------------------------------------------------------------------------------------------------

    def evidence(self, found: Mapping[str, Output]) -> Evidence:
        pairs = self.pairs()
        with Store.read(self.wanted.workspace) as store:
            stored = store.judgements(purpose="gate", after=self.begun.sequence)
        drawn = [self.stages.output(f"answers-{batch}") or {"alike": 0, "asked": 0} for batch in self.batches()]
        measured = {kind: _probed(found["probes"][kind]) for kind in ("safety", "capability")}
        crowd, slices = self.crowd(found["people"]), asking.slices_of(self.prompts()[1], self.settings.slice_share)
        return Evidence(
            asking.said_of(stored, pairs),
            crowd.judges(),
            self.begun.number,
            flagged=asking.flagged_of(stored, pairs),
            contested=frozenset(slices[topic] for topic in crowd.contested if topic in slices),
            alike=(sum(one["alike"] for one in drawn), sum(one["alike"] + one["asked"] for one in drawn)),
            **measured,
        )

    def decision(self, found: Mapping[str, Output]) -> Decision:
        return decide(self.evidence(found), self.settings)

    def _promote(self, final: Output, candidate: Version) -> Output:
        current = self.registry.current()
        if final["outcome"] != "promote":
            return {"promoted": False, "served": current.id if current else None}
        if current is None or current.id not in (self.base.id, candidate.id):
            return {"promoted": False, "served": current.id if current else None, "changed_meanwhile": True}
        self.registry.promote(candidate.id, reason=f"round {self.begun.number}: the gate", by="gate")
        return {"promoted": True, "served": candidate.id}

    def _report(self, found: dict[str, Output], candidate: Version, decision: Decision, state: State) -> Played:
        from tomoni.loop.report import write

        write(self, found, candidate, decision, state)
        return Played(self.folder, self.begun, candidate, decision, state)


def _probed(body: Mapping[str, Any] | None) -> Probed | None:
    return None if body is None else Probed(body["base"], body["candidate"], frozenset(body["hard"]), body.get("first"))
