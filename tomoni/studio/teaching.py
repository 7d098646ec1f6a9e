"""Learn: what people said becomes a new version, and whether it is better is for people to say, blind.

One press is a process, `tomoni learn`, and a folder W/learn/NNNN. The studio starts the one, reads the other, puts the
answers before and after to prompts that were never trained on before people as pairs, and counts what they say. No torch.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoni.durable import read_object
from tomoni.evaluate.metrics import Interval
from tomoni.feedback.entries import Answer, NewPrompt, Pair, Purpose
from tomoni.feedback.workspace import machine
from tomoni.records import Kind, Message, Verdict
from tomoni.studio.asking import plain
from tomoni.studio.faults import Fault
from tomoni.studio.processes import Processes, last_words

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tomoni.feedback.store import Store
    from tomoni.registry import Registry

ENOUGH = 10  # comparisons that a press of Learn wants
ENOUGH_CORRECTIONS = 3  # or so many corrected answers
TAUGHT_BY: tuple[Purpose, ...] = ("train", "overlap", "repeat", "gold")  # not "gate", which measures
LEARNT = "studio.learnt"  # the setting: the number of the last event that a finished press has learnt from
STAGES = ("reading", "sampling", "fitting", "imitating", "training", "answering")
NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Gathered:
    """What people said since the last press of Learn."""

    comparisons: int
    corrections: int
    thumbs: int

    @property
    def share(self) -> float:
        """Of what is needed; 1 is enough."""
        return min(1.0, self.comparisons / ENOUGH + self.corrections / ENOUGH_CORRECTIONS)

    @property
    def enough(self) -> bool:
        return self.share >= 1 - 1e-9


@dataclass(frozen=True, slots=True)
class Press:
    """One press of Learn, as its folder tells. `state` adds "starting" and "killed" to those of the folder."""

    number: str
    state: str
    stage: str = ""
    done: float = 0.0
    seconds: float = 0.0
    left: float | None = None  # seconds, where there is something to tell them by
    stages: tuple[str, ...] = ()  # that it goes through
    error: str = ""
    result: dict[str, Any] | None = None

    @property
    def going(self) -> bool:
        return self.state in ("starting", "running")

    @property
    def trials(self) -> list[dict[str, Any]]:
        return list((self.result or {}).get("trials") or [])


@dataclass(frozen=True, slots=True)
class Tally:
    """What people said of a press's trials: the new answer won, lost, or neither. Answers that did not change are ties
    that nobody need look at."""

    won: int
    lost: int
    tied: int
    unchanged: int

    @property
    def told(self) -> str:
        """better, worse or unsure, by the interval as it is shown, in whole per cent."""
        rate = self.win_rate
        if rate is None:
            return "unsure"
        return "better" if round(100 * rate.low) > 50 else "worse" if round(100 * rate.high) < 50 else "unsure"

    @property
    def total(self) -> int:
        return self.won + self.lost + self.tied + self.unchanged

    @property
    def win_rate(self) -> Interval | None:
        """Ties count half; the interval is that of Beta(1 + wins + ties/2, 1 + losses + ties/2)."""
        if not self.won + self.lost + self.tied:
            return None
        from scipy.special import betaincinv

        half = (self.tied + self.unchanged) / 2
        a, b = 1 + self.won + half, 1 + self.lost + half
        low, high = (float(betaincinv(a, b, tail)) for tail in (0.025, 0.975))
        return Interval((self.won + half) / self.total, low, high)


@dataclass
class Teaching:
    workspace: Path
    store: Store
    registry: Registry
    processes: Processes = field(default_factory=Processes)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _pid: int | None = None
    _since: set[str] = field(default_factory=set)  # folders there were when it was started
    _entered: set[str] = field(default_factory=set)  # presses whose pairs are in the store
    _settled: set[str] = field(default_factory=set)  # presses that have ended and were looked at

    @property
    def folder(self) -> Path:
        return self.workspace / "learn"

    # -- pressing ------------------------------------------------------------------------------------------------------

    def gathered(self) -> Gathered:
        self.settle()
        return gathered_after(self.store, None)

    def start(self) -> None:
        """Fault where one is going on, or too little was said."""
        with self._lock:
            if self.going() is not None:
                raise Fault("learning_already", 409)
            if not self.gathered().enough:
                raise Fault("too_little_said", 409, n=ENOUGH, corrections=ENOUGH_CORRECTIONS)
            if self.registry.current() is None:
                raise Fault("no_model", 409)
            self._since = set(self._numbers())
            self.store.set("studio.pressed", self.store.sequence)
            self._pid = self.processes.start(["learn", str(self.workspace)], self.folder / "learn.log")

    def stop(self) -> None:
        with self._lock:
            going = self.going()
            pid = self._pid if self._pid is not None else self._pid_of(going.number if going else "")
            if going is None or pid is None:
                raise Fault("nothing_runs", 409)
            self.processes.stop(pid)

    def going(self) -> Press | None:
        """The press that is going on; of one that has no folder yet the number is empty."""
        newest = self.latest()
        if newest is not None and newest.going:
            return newest
        nameless = newest is None or newest.number in self._since
        if nameless and self._pid is not None and self.processes.alive(self._pid):
            return Press("", "starting")
        return None

    def failed_to_start(self) -> str:
        """What the last one said that ended without a folder; empty where there is none."""
        if self._pid is None or self.processes.alive(self._pid):
            return ""
        if set(self._numbers()) - self._since:
            return ""
        return last_words(self.folder / "learn.log")

    # -- looking -------------------------------------------------------------------------------------------------------

    def _numbers(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        found = [path.name for path in self.folder.iterdir() if NUMBER.fullmatch(path.name) and path.is_dir()]
        return sorted(found, key=int)

    def latest(self) -> Press | None:
        numbers = self._numbers()
        return self.press(numbers[-1]) if numbers else None

    def settle(self) -> None:
        """Presses that have ended, also those of the command line, count whether a page looked at them or not."""
        for number in self._numbers():
            if number not in self._settled and not self.press(number).going:
                self._settled.add(number)

    def usual_seconds(self) -> float | None:
        """What the last press took that ended well on this machine; None where none has."""
        for number in reversed(self._numbers()):
            status = read_object(self.folder / number / "status.json")
            if status.get("state") == "finished" and status.get("machine") == machine():
                return float(status.get("seconds") or 0.0)
        return None

    def presses(self) -> list[Press]:
        """Newest first."""
        return [self.press(number) for number in reversed(self._numbers())]

    def press(self, number: str) -> Press:
        """Fault 404 where there is none."""
        if not NUMBER.fullmatch(number) or number not in self._numbers():
            raise Fault("no_press", 404)
        status = read_object(self.folder / number / "status.json")
        state = str(status.get("state", "starting"))
        if state in ("running", "starting") and not self._lives(number, status):
            state = "killed"
        result = read_object(self.folder / number / "result.json") if state == "finished" else None
        error = str(status.get("error") or "")
        if state == "killed":
            error = last_words(self.folder / "learn.log")
        press = Press(
            number,
            state,
            str(status.get("stage", "")),
            float(status.get("done") or 0.0),
            float(status.get("seconds") or 0.0),
            None if status.get("left") is None else float(status["left"]),
            tuple(name for name in status.get("stages") or () if name in STAGES),
            error,
            result or None,
        )
        if press.result is not None:
            self._enter(press)
        return press

    def _lives(self, number: str, status: dict[str, Any]) -> bool:
        pid = status.get("pid")
        if isinstance(pid, int):
            return self.processes.alive(pid)
        return self._pid is not None and number not in self._since and self.processes.alive(self._pid)

    def _pid_of(self, number: str) -> int | None:
        pid = read_object(self.folder / number / "status.json").get("pid") if number else None
        return pid if isinstance(pid, int) else None

    # -- trials --------------------------------------------------------------------------------------------------------

    def _enter(self, press: Press) -> None:
        """Its trials as pairs in the store, once; and that it has learnt from what was said until it was pressed."""
        with self._lock:
            if press.number in self._entered:
                return
            result = press.result or {}
            known = int(self.store.get(LEARNT, 0))
            newest = press.number == self._numbers()[-1]
            pressed = int(result.get("sequence") or (self.store.get("studio.pressed", 0) if newest else 0))
            if pressed > known:
                self.store.set(LEARNT, pressed)
            before, after = str(result.get("base") or ""), str(result.get("version") or "")
            hashes = {version.id: version.hash for version in self.registry.versions()}
            for place, trial in enumerate(press.trials):
                messages = tuple(Message(m["role"], m["content"]) for m in trial["prompt"])
                prompt = self.store.add_prompts(
                    [NewPrompt(messages, "import", topic=str(trial.get("topic", "")), held_out=True)]
                )[0]
                if plain(trial["before"]) == plain(trial["after"]):
                    continue
                name = f"learn-{press.number}-{place}"
                self.store.add_answers(
                    [
                        Answer(f"{name}-before", prompt.id, before, hashes.get(before, ""), trial["before"]),
                        Answer(f"{name}-after", prompt.id, after, hashes.get(after, ""), trial["after"]),
                    ]
                )
                self.store.add_pairs([Pair(name, prompt.id, f"{name}-before", f"{name}-after", "gate", "trial")])
            self._entered.add(press.number)

    def pairs(self, number: str) -> list[Pair]:
        self.press(number)
        return [pair for pair in self.store.pairs(purpose="gate") if _number_of(pair) == number]

    def left(self, number: str, person: str, *, without: Sequence[str] = ()) -> list[Pair]:
        """What this person has not judged yet."""
        self.press(number)
        pairs = self.store.pairs(purpose="gate", judged=False, person=person)
        return [pair for pair in pairs if _number_of(pair) == number and pair.id not in set(without)]

    def trial_of(self, pair: Pair) -> str | None:
        return _number_of(pair)

    def verdicts(self, number: str, person: str | None = None) -> dict[str, list[Verdict]]:
        """By pair: what was said of it; FIRST is the answer before, SECOND the one after."""
        found: dict[str, list[Verdict]] = {}
        for stored in self.store.judgements(purpose="gate", kinds=[Kind.COMPARISON], person=person):
            pair = str(stored.judgement.extra.get("pair") or "")
            if pair.startswith(f"learn-{number}-"):
                found.setdefault(pair, []).append(Verdict(stored.judgement.value["verdict"]))
        return found

    def tally(self, press: Press) -> Tally:
        by_pair = self.verdicts(press.number)
        said = [verdict for verdicts in by_pair.values() for verdict in verdicts]
        won, lost = said.count(Verdict.SECOND), said.count(Verdict.FIRST)
        unchanged = sum(plain(trial["before"]) == plain(trial["after"]) for trial in press.trials)
        judges = max((len(verdicts) for verdicts in by_pair.values()), default=1)  # each would have said "equal"
        return Tally(won, lost, len(said) - won - lost, unchanged * judges)


def gathered_after(store: Store, after: int | None) -> Gathered:
    """What people said to teach, after the event of that number; None: that no press has learnt from."""
    counts = store.look(lambda connection: _counted(connection, after))
    return Gathered(*(counts.get(kind.value, 0) for kind in (Kind.COMPARISON, Kind.CORRECTION, Kind.THUMB)))


def _counted(connection: Connection, after: int | None) -> dict[str, int]:
    """Judgements that count now, by kind; asked at every click, so all at once."""
    from sqlalchemy import func, select

    from tomoni.feedback.guideline import get_setting
    from tomoni.feedback.judging import LIVE
    from tomoni.feedback.schema import judgements

    columns = judgements.c
    after = int(get_setting(connection, LEARNT, 0)) if after is None else after
    chosen = (columns.sequence > after, columns.state == LIVE, columns.purpose.in_(TAUGHT_BY))
    rows = connection.execute(select(columns.kind, func.count()).where(*chosen).group_by(columns.kind))
    return {str(row[0]): int(row[1]) for row in rows}


def _number_of(pair: Pair) -> str | None:
    found = re.fullmatch(r"learn-([0-9]+)-[0-9]+", pair.id)
    return found[1] if found else None
