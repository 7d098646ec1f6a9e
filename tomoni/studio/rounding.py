"""Rounds from the studio: one is begun by a button or when it is time, goes on as people judge, and is read from its folder.

A round is a process of its own (`tomoni round`); it ends when it needs people, and is started again when they have judged.
No torch.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from tomoni.feedback.roundfolders import FOLDER, close, is_closed, is_open, rounds
from tomoni.records import Kind
from tomoni.studio.faults import Fault
from tomoni.studio.processes import Processes, last_words
from tomoni.studio.teaching import ENOUGH, Gathered, gathered_after

if TYPE_CHECKING:
    from tomoni.feedback.store import Store
    from tomoni.registry import Registry
    from tomoni.studio.words import Lang

LOOK_AFTER = 10  # judgements, after which the evidence is looked at again
WHEN = "studio.rounds.when"  # the setting
When = Literal["never", "judgements", "day", "week"]
WHENS: tuple[When, ...] = get_args(When)
MANY = 60  # judgements that begin a round, where that is wished for
AGES: Mapping[When, timedelta] = {"day": timedelta(days=1), "week": timedelta(days=7)}
STAGES = ("prompts", "people", "snapshot", "checks", "train", "probes", "answers", "asking")


@dataclass(frozen=True, slots=True)
class Seen:
    """A round as its folder tells. `state`: starting, running, waiting, promoted, kept, closed, failed, stopped, killed."""

    number: str
    state: str
    stage: str = ""
    error: str = ""
    judged: int = 0
    left: int = 0
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def going(self) -> bool:
        return self.state in ("starting", "running")

    @property
    def decision(self) -> Mapping[str, Any]:
        return dict(self.report.get("decision") or {})

    @property
    def evidence(self) -> float:
        """How far the evidence has come to what is needed, on its logarithmic scale: 0 to 1."""
        decision = self.decision
        if not decision:
            return 0.0
        return min(max(float(decision["log_e"]) / float(decision["needed"]), 0.0), 1.0)

    @property
    def needed(self) -> float:
        return math.exp(float(self.decision.get("needed", 0.0)))


@dataclass
class Rounds:
    workspace: Path
    store: Store
    registry: Registry
    processes: Processes = field(default_factory=Processes)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _pid: int | None = None
    _looked: dict[str, int] = field(default_factory=dict)  # judgements of a round when it was last gone on with
    _since: str | None = None  # the newest round when the last process was started

    @property
    def log(self) -> Path:
        return self.workspace / FOLDER / "round.log"

    # -- looking -------------------------------------------------------------------------------------------------------

    def all(self) -> list[Seen]:
        """Newest first."""
        return [self._seen(folder) for folder in reversed(rounds(self.workspace))]

    def latest(self) -> Seen | None:
        """The newest, or the one that is being begun."""
        folders = rounds(self.workspace)
        newest = folders[-1].name if folders else None
        if self._alive() and newest == self._since and (newest is None or not is_open(folders[-1])):
            return Seen("", "starting")
        return self._seen(folders[-1]) if folders else None

    def get(self, number: str) -> Seen:
        """Fault 404 where there is none."""
        for folder in rounds(self.workspace):
            if folder.name == number:
                return self._seen(folder)
        raise Fault("no_round", 404)

    def going(self) -> bool:
        latest = self.latest()
        return latest is not None and latest.going

    def failed_to_start(self) -> str:
        """What the last process said that ended before there was a round."""
        folders = rounds(self.workspace)
        newest = folders[-1].name if folders else None
        if self._pid is None or self._alive() or newest != self._since or (folders and is_open(folders[-1])):
            return ""
        return last_words(self.log)

    def page(self, number: str) -> bytes:
        """The report, a page of its own in both languages."""
        try:
            return (self.workspace / FOLDER / self.get(number).number / "report.html").read_bytes()
        except FileNotFoundError:
            raise Fault("no_round", 404) from None

    def reasons(self, seen: Seen, lang: Lang) -> list[tuple[str, str]]:
        """(status, what it says)."""
        return [(str(one["status"]), str(one["text"][lang])) for one in seen.decision.get("reasons") or []]

    def _alive(self) -> bool:
        return self.processes.alive(self._pid)

    def _seen(self, folder: Path) -> Seen:
        status, report = _read(folder / "status.json"), _read(folder / "report.json")
        state = str(status.get("state", "starting"))
        pid = status.get("pid")
        if state in ("running", "starting") and not (
            self.processes.alive(pid if isinstance(pid, int) else None) or self._alive()
        ):
            state = "killed"
        if state == "waiting" and self._alive():
            state = "running"  # it has been started again, and has not said so yet
        error = str(status.get("error") or "") or (last_words(self.log) if state == "killed" else "")
        if not is_open(folder):
            state = str(report.get("state", "closed")) if not is_closed(folder) else "closed"
        judged, left = self._counted(folder.name)
        return Seen(folder.name, state, str(status.get("stage") or "").split("-")[0], error, judged, left, report)

    def _counted(self, number: str) -> tuple[int, int]:
        """Judgements of a round's pairs, and pairs that nobody has judged."""
        begins = f"r{number}-"
        judged = sum(
            str(one.judgement.extra.get("pair") or "").startswith(begins)
            for one in self.store.judgements(purpose="gate", kinds=[Kind.COMPARISON])
        )
        left = sum(pair.id.startswith(begins) for pair in self.store.pairs(purpose="gate", judged=False))
        return judged, left

    # -- playing -------------------------------------------------------------------------------------------------------

    def gathered(self) -> Gathered:
        """What people said since the last round began."""
        folders = rounds(self.workspace)
        begun = _read(folders[-1] / "round.json") if folders else {}
        return gathered_after(self.store, int(begun.get("sequence") or 0))

    def start(self) -> None:
        """Begin a round, or go on with one that was stopped. Fault where one goes on, waits for people, or too little was
        said since the last."""
        with self._lock:
            latest = self.latest()
            if latest is not None and latest.going:
                raise Fault("round_already", 409)
            if latest is not None and latest.state == "waiting":
                raise Fault("round_waits", 409, n=latest.left)
            ended = latest is None or latest.state in ("promoted", "kept", "closed")
            if ended and not self.gathered().enough:
                raise Fault("too_little_for_round", 409, n=ENOUGH)
            if self.registry.current() is None:
                raise Fault("no_model", 409)
            self._play()

    def close(self) -> None:
        """Give an undecided round up: what is served stays. Fault where there is none."""
        with self._lock:
            latest = self.latest()
            if latest is None or latest.state not in ("waiting", "failed", "stopped", "killed"):
                raise Fault("no_round", 404)
            close(self.workspace / FOLDER / latest.number, "given up in the studio")

    def stop(self) -> None:
        with self._lock:
            latest = self.latest()
            pid = self._pid if self._alive() else None
            if pid is None and latest is not None:
                pid = _read(self.workspace / FOLDER / latest.number / "status.json").get("pid")
            if latest is None or not latest.going or not isinstance(pid, int):
                raise Fault("nothing_runs", 409)
            self.processes.stop(pid)

    def _play(self) -> None:
        folders = rounds(self.workspace)
        self._since = folders[-1].name if folders else None
        self._pid = self.processes.start(["round", str(self.workspace)], self.log)

    # -- by itself -----------------------------------------------------------------------------------------------------

    @property
    def when(self) -> When:
        found = self.store.get(WHEN, "never")
        return found if found in WHENS else "never"

    def set_when(self, when: When) -> None:
        self.store.set(WHEN, when)

    def settle(self, *, busy: bool) -> None:
        """Go on with a round that people have judged more of; begin one where it is time. `busy`: something else trains."""
        with self._lock:
            latest = self.latest()
            if busy or (latest is not None and latest.going):
                return
            if latest is not None and latest.state == "waiting":
                before = self._looked.setdefault(latest.number, int(latest.decision.get("said") or 0))
                if latest.judged - before >= LOOK_AFTER or (latest.judged > before and not latest.left):
                    self._looked[latest.number] = latest.judged
                    self._play()
            elif self._due(latest):
                self._play()

    def _due(self, latest: Seen | None) -> bool:
        when = self.when
        if when == "never" or (latest is not None and latest.state not in ("promoted", "kept", "closed")):
            return False
        gathered = self.gathered()
        if not gathered.enough or self.registry.current() is None or self.failed_to_start():
            return False
        if when == "judgements":
            return gathered.comparisons + gathered.corrections + gathered.thumbs >= MANY
        if latest is None:
            return True
        begun = _read(self.workspace / FOLDER / latest.number / "round.json").get("created")
        return begun is None or datetime.now(UTC) - datetime.fromisoformat(str(begun)) >= AGES[when]


def _read(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}
