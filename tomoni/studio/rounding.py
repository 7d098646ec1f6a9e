"""Rounds from the studio: one is begun by a button or when it is time, goes on as people judge, and is read from its folder.

A round is a process of its own (`tomoni round`); it ends when it needs people, and is started again when they have judged.
No torch.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from tomoni import locking
from tomoni.durable import read_object
from tomoni.feedback.roundfolders import FOLDER, LOCK, at_random, close, ended, for_everybody, is_open, rounds
from tomoni.records import Kind
from tomoni.studio.faults import Fault
from tomoni.studio.processes import Processes, last_words
from tomoni.studio.teaching import ENOUGH, Gathered, gathered_after
from tomoni.studio.words import LANGS

if TYPE_CHECKING:
    from sqlalchemy import Connection

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
STATES = ("starting", "running", "waiting", "failed", "stopped")  # that a folder can say of itself
ENDED = ("promoted", "kept", "closed")


@dataclass(frozen=True, slots=True)
class Seen:
    """A round as its folder tells. `state`: starting, running, waiting (for people), looking (at what they said, while
    they go on), promoted, kept, closed, failed, stopped, killed. `report`: whole, or empty."""

    number: str
    state: str
    stage: str = ""
    error: str = ""
    judged: int = 0
    left: int = 0
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def going(self) -> bool:
        return self.state in ("starting", "running", "looking")

    @property
    def asks(self) -> bool:
        return self.state in ("waiting", "looking")

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def versions(self) -> str:
        return f"{self.report['base']} → {self.report['candidate']}" if self.report else ""

    @property
    def decision(self) -> Mapping[str, Any]:
        return dict(self.report.get("decision") or {})

    @property
    def pairs(self) -> int:
        """Those that the win rate is of: drawn for all prompts, not for single topics."""
        drawn = at_random(self.decision.get("reasons") or [])
        return int(self.decision.get("counted") or 0) if drawn is None else drawn

    @property
    def evidence(self) -> float:
        """How far the evidence has come to what is needed, on its logarithmic scale: 0 to 1."""
        decision = self.decision
        if not decision:
            return 0.0
        return min(max(float(decision["log_e"]) / max(float(decision["needed"]), 1e-9), 0.0), 1.0)


@dataclass
class Rounds:
    workspace: Path
    store: Store
    registry: Registry
    processes: Processes = field(default_factory=Processes)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _pid: int | None = None
    # judgements of a round, and pairs left, when it was last gone on with
    _looked: dict[str, tuple[int, int]] = field(default_factory=dict)
    _since: str | None = None  # the newest round when the last process was started
    _had: int = 0  # comparisons to learn from, then
    _known: tuple[str, int, tuple[int, int]] = ("", -1, (0, 0))  # of a round, at a number of events: what was counted

    @property
    def log(self) -> Path:
        return self.workspace / FOLDER / "round.log"

    # -- looking -------------------------------------------------------------------------------------------------------

    def under_judgement(self) -> str | None:
        """The candidate whose answers are before people now: who could ask it by name would know it when judging."""
        newest = self.latest()
        return str(newest.report["candidate"]) if newest is not None and newest.asks and newest.report else None

    def all(self) -> list[Seen]:
        """Newest first."""
        folders = rounds(self.workspace)
        return [self._seen(folder, newest=folder == folders[-1]) for folder in reversed(folders)]

    def latest(self) -> Seen | None:
        """The newest, or the one that is being begun."""
        folders = rounds(self.workspace)
        newest = folders[-1].name if folders else None
        if self._alive() and newest == self._since and (newest is None or not is_open(folders[-1])):
            return Seen("", "starting")
        return self._seen(folders[-1], newest=True) if folders else None

    def get(self, number: str) -> Seen:
        """Fault 404 where there is none."""
        folders = rounds(self.workspace)
        for folder in folders:
            if folder.name == number:
                return self._seen(folder, newest=folder == folders[-1])
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

    def page(self, number: str, *, owner: bool) -> str:
        """The report, a page of its own in both languages; what it says of single people is for owners."""
        try:
            page = (self.workspace / FOLDER / self.get(number).number / "report.html").read_bytes()
        except FileNotFoundError:
            raise Fault("no_round", 404) from None
        text = page.decode("utf-8", "replace")
        return text if owner else for_everybody(text)

    def reasons(self, seen: Seen, lang: Lang, *, of_topics: bool = False) -> list[tuple[str, str]]:
        """(status, what it says). `of_topics`: those that say of a topic that nothing is wrong with it; else all others."""
        return [
            (str(one["status"]), str(one["text"][lang]))
            for one in seen.decision.get("reasons") or []
            if (one["key"] == "topic_holds") is of_topics
        ]

    def _alive(self) -> bool:
        return self.processes.alive(self._pid)

    def _plays(self) -> bool:
        """Whether a round is being played here, whoever started it. Not by the process id that a folder names: that may be
        another program's by now."""
        return self._alive() or locking.is_held(self.workspace / FOLDER / LOCK)

    def _seen(self, folder: Path, *, newest: bool) -> Seen:
        status, report = read_object(folder / "status.json"), _whole(read_object(folder / "report.json"))
        state = ended(folder) or self._state(str(status.get("state", "starting")), newest and self._plays())
        error = (
            str(status.get("error") or "") if state == "failed" else last_words(self.log) if state == "killed" else ""
        )
        judged, left = (0, 0) if state in ENDED else self._counted(folder.name)
        return Seen(folder.name, state, str(status.get("stage") or "").split("-")[0], error, judged, left, report)

    def _state(self, said: str, plays: bool) -> str:
        """Of an open round: what its folder says, and what is so."""
        if plays:
            return {"waiting": "looking", "starting": "starting"}.get(said, "running")
        return "killed" if said in ("running", "starting") or said not in STATES else said

    def _counted(self, number: str) -> tuple[int, int]:
        """Judgements of a round's pairs, and pairs that nobody has judged: asked of the store where something was said."""
        sequence = self.store.sequence
        if self._known[:2] != (number, sequence):
            self._known = (number, sequence, self.store.look(lambda connection: _count(connection, f"r{number}-")))
        return self._known[2]

    # -- playing -------------------------------------------------------------------------------------------------------

    def gathered(self) -> Gathered:
        """What people said since the last round began."""
        folders = rounds(self.workspace)
        begun = read_object(folders[-1] / "round.json") if folders else {}
        return gathered_after(self.store, _int(begun.get("sequence")))

    def start(self) -> None:
        """Begin a round, or go on with one that was stopped. Fault where one goes on, waits for people, or too little was
        said since the last."""
        with self._lock:
            latest = self.latest()
            if latest is not None and latest.going:
                raise Fault("round_already", 409)
            if latest is not None and latest.asks and latest.left:
                raise Fault("round_waits", 409, n=latest.left)
            if (latest is None or latest.ended) and not self.gathered().enough:
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
            if not self.going():
                raise Fault("nothing_runs", 409)
            pid = self._pid if self._alive() else self._held_by()
            if pid is None:
                raise Fault("nothing_runs", 409)
            self.processes.stop(pid)

    def _held_by(self) -> int | None:
        """The process that plays, where this studio did not start it."""
        holder = locking.holder_of(self.workspace / FOLDER / LOCK)
        return None if holder is None or holder.host != socket.gethostname() else holder.pid

    def _play(self) -> None:
        folders = rounds(self.workspace)
        self._since = folders[-1].name if folders else None
        self._had = self.gathered().comparisons
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
                if self._said_enough(latest):
                    self._looked[latest.number] = (latest.judged, latest.left)
                    self._play()
            elif self._due(latest):
                self._play()

    def _said_enough(self, latest: Seen) -> bool:
        """Ten more, or as many as there were: also where people passed over the last ones. Once for what was said."""
        before = self._looked.setdefault(latest.number, (_int(latest.decision.get("said")), -1))
        return latest.judged - before[0] >= LOOK_AFTER or (not latest.left and (latest.judged, 0) != before)

    def _due(self, latest: Seen | None) -> bool:
        when = self.when
        if when == "never" or (latest is not None and not latest.ended):
            return False
        gathered = self.gathered()
        if not gathered.enough or self.registry.current() is None:
            return False
        if self.failed_to_start() and gathered.comparisons - self._had < ENOUGH:
            return False  # it would fail again; when more was said, perhaps not
        if when == "judgements":
            return gathered.comparisons + gathered.corrections + gathered.thumbs >= MANY
        if latest is None:
            return True
        begun = _time(read_object(self.workspace / FOLDER / latest.number / "round.json").get("created"))
        return begun is None or datetime.now(UTC) - begun >= AGES[when]


def _count(connection: Connection, begins: str) -> tuple[int, int]:
    """Comparisons of the round's pairs, and its pairs that nobody has compared or passed over. By the index of judgements
    on pairs, so that it takes as long as the gates' pairs are many, however much was said besides."""
    from sqlalchemy import and_, case, func, or_, select

    from tomoni.feedback.judging import IS_LIVE
    from tomoni.feedback.schema import judgements, pairs

    said, asked = judgements.c, pairs.c
    compared = said.kind == Kind.COMPARISON.value
    judged = pairs.outerjoin(judgements, and_(said.pair == asked.id, IS_LIVE, or_(compared, said.skipped)))
    numbers = (
        func.sum(case((compared, 1), else_=0)),
        func.sum(case((said.id.is_(None), 1), else_=0)),  # nothing was joined to the pair
    )
    here = (asked.purpose == "gate", asked.id.startswith(begins, autoescape=True))
    row = connection.execute(select(*numbers).select_from(judged).where(*here)).one()
    return int(row[0] or 0), int(row[1] or 0)


def _whole(report: dict[str, Any]) -> dict[str, Any]:
    """The report, where all that is shown of it is there; a file that was damaged or is of another make shows nothing."""
    try:
        decision = report["decision"]
        _ = str(report["base"]), str(report["candidate"]), float(decision["log_e"]), float(decision["needed"])
        rates = [float(rate) for rate in decision["win_rate"]]
        texts = [str(one["text"][lang]) + str(one["status"]) for one in decision["reasons"] for lang in LANGS]
        whole = len(rates) == 3 and {"more", "said", "counted"} <= decision.keys() and all(texts)
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    return report if whole else {}


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


def _time(said: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(said))
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
