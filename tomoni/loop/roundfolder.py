"""What a round's folder holds, who plays, and how pairs reach the store. No torch."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoni import locking
from tomoni.durable import naming_disk, write_object
from tomoni.errors import DataError, RegistryError, RunError, UserError
from tomoni.feedback.checks import purpose_of
from tomoni.feedback.entries import Stored
from tomoni.feedback.roundfolders import FOLDER, LOCK, close, is_open, rounds
from tomoni.feedback.store import Store
from tomoni.registry import Registry, Version

if TYPE_CHECKING:
    from tomoni.loop.round import Wanted

TAKE_IN = 10.0  # seconds to wait for a studio to take the pairs in


@dataclass(frozen=True, slots=True)
class Begun:
    """round.json. `sequence`: of the last judgement that it learns from."""

    number: int
    base: str
    base_hash: str
    sequence: int
    method: str
    pairs: int
    settings: Mapping[str, Any]
    created: str
    replay: float = 0.0  # share of the training that is what was learnt before


@dataclass(slots=True)
class Status:
    """status.json, for whoever looks at the folder."""

    folder: Path
    stage: str = ""

    def begins(self, stage: str) -> None:
        self.stage = stage
        self.say("running")

    def say(self, state: str, **more: Any) -> None:
        body = {"state": state, "stage": self.stage, "pid": os.getpid(), "error": None} | more
        write_object(self.folder / "status.json", body, indent=None)


def open_round(wanted: Wanted, registry: Registry, new: bool) -> Path:
    """The folder of the open round, or of a new one, whose round.json says what it learns from."""
    known = rounds(wanted.workspace)
    if known and is_open(known[-1]):
        if not new:
            return known[-1]
        close(known[-1], "another round was begun")
    base = registry.current()
    if base is None:
        raise RegistryError(
            f"no version is served in {wanted.workspace} yet", next_step=f"tomoni promote {wanted.workspace} MODEL"
        )
    with Store.read(wanted.workspace) as store:
        sequence = store.sequence
        said = store.judgements(live=False)
    if known and not new:
        require_news(known[-1], base, [one for one in said if purpose_of(one.judgement) != "gate"])
    number = int(known[-1].name) + 1 if known else 1
    folder = wanted.workspace / FOLDER / f"{number:04}"
    folder.mkdir(parents=True, exist_ok=True)
    created = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    how = (wanted.method, wanted.pairs, asdict(wanted.settings), created, wanted.replay)
    begun = Begun(number, base.id, base.hash, sequence, *how)
    write_object(folder / "round.json", asdict(begun))
    return folder


def require_news(last: Path, base: Version, taught: list[Stored]) -> None:
    begun = Begun(**json.loads((last / "round.json").read_text(encoding="utf-8")))
    if begun.base_hash == base.hash and not any(one.sequence > begun.sequence for one in taught):
        raise DataError(
            f"nothing was said since round {begun.number} began, and its base is served still",
            next_step="judge or correct more in the studio; --new plays a round on the same judgements again",
        )


def take_in(workspace: Path, wait_for: set[str] | None = None) -> bool:
    """Bring the inbox into the store: by ourselves, or, where a studio holds it, by waiting until it has done so."""
    with contextlib.suppress(UserError), Store.open(workspace) as store:
        store.take_in()
        return True
    end = time.monotonic() + (TAKE_IN if wait_for else 0.0)
    while True:
        with Store.read(workspace) as store:
            there = {pair.id for pair in store.pairs(purpose="gate")}
        if wait_for is None or wait_for <= there:
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.2)


@contextlib.contextmanager
def alone(workspace: Path) -> Iterator[None]:
    """One round at a time in a workspace, and none while Learn is pressed."""
    root = workspace / FOLDER
    with naming_disk(root, 0):
        root.mkdir(parents=True, exist_ok=True)
    try:
        lock = locking.take(root / LOCK)
    except locking.Taken as taken:
        raise RunError(
            f"a round is being played in {workspace} ({taken.by})",
            next_step="wait for it to end, or look at rounds/report.html",
        ) from taken
    with lock:
        yield
