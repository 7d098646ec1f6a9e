"""How far a press of Learn is, and how long it still takes: by what the last one took on this machine, and by how this one
goes. No torch.

The bar moves as the work does. Each stage counts as many seconds as it took last time here, or, on a machine where none
has ended yet, as it takes on two cores (`USUAL`). When it turns out that more is to be done, what is left of the bar stands
for more; it never goes back. Seconds left are told only where they rest on something measured here.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from tomoni.durable import read_object, write_object
from tomoni.feedback.workspace import machine

if TYPE_CHECKING:
    from tomoni.run.events import Event

Stage = Literal["reading", "sampling", "fitting", "imitating", "training", "answering", "done"]
STAGES: tuple[Stage, ...] = get_args(Stage)
BY_PROMPT: frozenset[Stage] = frozenset(
    ("sampling", "fitting", "imitating", "training")
)  # take longer with more of them
USUAL_PROMPTS = 120
USUAL: Mapping[Stage, float] = {  # seconds for so many prompts; the demo's model, two quiet cores
    "reading": 4.0,
    "sampling": 5.0,
    "fitting": 3.5,
    "imitating": 8.0,
    "training": 5.5,
    "answering": 1.0,
    "done": 0.0,
}
TRUST = 3.0  # seconds of this press that weigh as much as the whole of the last one
SHOWN = 0.15  # of the work, before the pace of a machine's first press is told
TICK = 0.5  # seconds
BETWEEN = 0.2  # seconds between two writings of one stage


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds that each stage is expected to take, for `prompts` to practise on; `measured`: here, not elsewhere."""

    seconds: Mapping[Stage, float]
    prompts: int
    measured: bool = False

    @classmethod
    def usual(cls) -> Self:
        return cls(USUAL, USUAL_PROMPTS)

    @classmethod
    def of_last(cls, presses: Path) -> Self:
        """As the newest press in the folder W/learn that ended well on this machine went."""
        numbers = [path for path in presses.glob("*/status.json") if path.parent.name.isdigit()]
        for path in sorted(numbers, key=lambda path: int(path.parent.name), reverse=True):
            told = read_object(path)
            took = told.get("took")
            if told.get("state") == "finished" and told.get("machine") == machine() and isinstance(took, dict):
                known = {name: float(took[name]) for name in STAGES if isinstance(took.get(name), int | float)}
                return cls({**USUAL, **known}, max(int(told.get("prompts") or USUAL_PROMPTS), 1), measured=True)
        return cls.usual()

    def of(self, stage: Stage, prompts: int) -> float:
        share = prompts / self.prompts if stage in BY_PROMPT else 1.0
        return max(self.seconds[stage] * share, 0.05 if stage != "done" else 0.0)


@dataclass(slots=True)
class Progress:
    """status.json, written at most five times a second. Stages are told in the order of STAGES; one may be left out."""

    folder: Path
    pace: Pace = field(default_factory=Pace.usual)
    clock: Callable[[], float] = time.monotonic
    stage: Stage = "reading"
    part: float = 0.0
    took: dict[Stage, float] = field(default_factory=dict)
    prompts: int = USUAL_PROMPTS
    _begin: float = field(init=False)
    _since: float = field(init=False)  # when this stage began
    _written: float = float("-inf")
    _work: dict[Stage, float] = field(default_factory=dict)  # expected seconds of each stage of this press
    _mark: tuple[float, float] = (0.0, 0.0)  # what the bar showed, and the work left, when it was planned
    _planned: float = 0.0  # work of this press, as far as it was planned

    def __post_init__(self) -> None:
        self._begin = self._since = self.clock()
        self.plan(self.prompts, imitating=False)

    @property
    def seconds(self) -> float:
        return self.clock() - self._begin

    # -- what is ahead -------------------------------------------------------------------------------------------------

    def plan(self, prompts: int, *, imitating: bool) -> None:
        """So many prompts are practised on; whether corrections are imitated first."""
        before, self.prompts = self.done, prompts
        self._work = {stage: self.pace.of(stage, prompts) for stage in STAGES if imitating or stage != "imitating"}
        self._planned = sum(self._work.values())
        self._mark = before, self._left()

    def once_more(self, stage: Stage) -> None:
        """What this stage did has to be done again."""
        before, self.part = self.done, 0.0
        self._planned += self._work[stage]
        self._mark = before, self._left()

    def _left(self) -> float:
        """Seconds of work, as expected."""
        ahead = STAGES[STAGES.index(self.stage) + 1 :]
        return self._work.get(self.stage, 0.0) * (1 - self.part) + sum(self._work.get(stage, 0.0) for stage in ahead)

    @property
    def done(self) -> float:
        """0 to 1; in a press it never goes back."""
        shown, left = self._mark
        return 1.0 if self.stage == "done" else 1 - (1 - shown) * self._left() / left if left else shown

    @property
    def left(self) -> float | None:
        """Seconds until it is done; None while nothing that was measured here tells."""
        left = self._left()
        worked = max(self._planned - left, 0.0)
        if not self.pace.measured and worked < SHOWN * self._planned:
            return None
        trust = TRUST if self.pace.measured else 0.0
        return left * (self.seconds + trust) / (worked + trust)

    # -- telling -------------------------------------------------------------------------------------------------------

    def say(self, stage: Stage, part: float = 0.0, *, state: str = "running", error: str | None = None) -> None:
        """`part`: how much of the stage is done, 0 to 1."""
        now, part = self.clock(), min(max(part, 0.0), 1.0)
        if stage != self.stage:
            self.took[self.stage] = self.took.get(self.stage, 0.0) + now - self._since
            self.stage, self.part, self._since = stage, part, now
        else:
            self.part = max(self.part, part)
            if state == "running" and now - self._written < BETWEEN:
                return
        self._written = now
        left = self.left if state == "running" else None
        body: dict[str, Any] = {"state": state, "stage": stage, "done": round(self.done, 3)}
        body |= {"seconds": round(self.seconds, 1), "left": None if left is None else round(left, 1)}
        body |= {"stages": [name for name in self._work if name != "done"], "error": error, "pid": os.getpid()}
        if state == "finished":
            took = {name: round(seconds, 2) for name, seconds in self.took.items()}
            body |= {"took": took, "prompts": self.prompts, "machine": machine()}
        write_object(self.folder / "status.json", body, indent=None)

    @contextmanager
    def opaque(self, stage: Stage) -> Iterator[None]:
        """For work that cannot tell how far it is, as loading programs and models: every so often half of what is left of
        the time it is expected to take."""
        over = threading.Event()

        def tick() -> None:
            while not over.wait(TICK):
                self.say(stage, 1 - 0.5 ** ((self.clock() - self._since) / self._work[stage]))

        thread = threading.Thread(target=tick, name="tomoni-progress", daemon=True)
        self.say(stage)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def within(self, stage: Stage, begins: float = 0.0, ends: float = 1.0) -> Callable[[float], None]:
        """For work that tells how much of it is done, and is this part of the stage."""
        return lambda share: self.say(stage, begins + (ends - begins) * share)

    def steps(self, stage: Stage, begins: float = 0.0, ends: float = 1.0) -> Callable[[Event], None]:
        """A listener that shows a run's steps as this part of the stage."""
        tell = self.within(stage, begins, ends)

        def listen(event: Event) -> None:
            step, total = getattr(event, "step", None), getattr(event, "total", None)
            if isinstance(step, int) and isinstance(total, int) and total:
                tell(step / total)

        return listen
