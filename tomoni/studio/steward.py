"""What has to be done whether anybody looks or not: the server's inbox taken in, finished runs made versions, rounds gone
on with as people judge. No torch."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tomoni.errors import UserError
from tomoni.studio.faults import Fault

if TYPE_CHECKING:
    from tomoni.feedback.store import Store
    from tomoni.registry import Registry
    from tomoni.studio.answering import Answering
    from tomoni.studio.rounding import Rounds
    from tomoni.studio.teaching import Teaching
    from tomoni.studio.training import Training

log = logging.getLogger("tomoni.studio")

AWAITED = "studio.runs"  # the setting: runs that are waited for: {name: {"base", "use"}}
EVERY = 1.5  # seconds


@dataclass
class Steward:
    store: Store
    registry: Registry
    training: Training
    teaching: Teaching
    rounds: Rounds
    answering: Answering
    _ended: threading.Event = field(default_factory=threading.Event)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _thread: threading.Thread | None = None
    _served: str | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="tomoni-steward", daemon=True)
            self._thread.start()

    def close(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _loop(self) -> None:
        while not self._ended.wait(EVERY):
            try:
                self.store.take_in()
                self.settle()
                self.rounds.settle(busy=self.teaching.going() is not None or self.training.going())
                self._notice()
            except (UserError, Fault) as error:  # a full disk, a run that went wrong: told where people look
                log.warning("steward: %s", type(error).__name__)
            except (
                Exception
            ) as error:  # goes on: a thread that ends tells nobody, and nothing would be taken in any more
                log.error("steward: unexpected %s", type(error).__name__)

    def _notice(self) -> None:
        """A round, or the command line, has moved what is served: the pages say so at once."""
        current = self.registry.current()
        served = current.id if current else None
        before, self._served = self._served, served
        if before is not None and served != before:
            self.answering.look()

    # -- runs ----------------------------------------------------------------------------------------------------------

    def await_run(self, name: str, *, base: str, use: bool) -> None:
        with self._lock:
            self.store.set(AWAITED, {**self.store.get(AWAITED, {}), name: {"base": base, "use": use}})

    def settle(self) -> None:
        """Runs that have finished become versions; those that were wanted for use are served."""
        with self._lock:
            awaited = dict(self.store.get(AWAITED, {}))
            for name, wanted in list(awaited.items()):
                try:
                    run = self.training.run(name, brief=True)
                except Fault:  # its folder was removed
                    del awaited[name]
                    self.store.set(AWAITED, awaited)
                    continue
                if run.state == "finished":
                    version = self.register(name)
                    del awaited[name]
                    self.store.set(AWAITED, awaited)
                    if wanted.get("use"):
                        self.registry.promote(version, reason=f"run {name}")
                        self.answering.start()
                        self.answering.look()

    def register(self, name: str) -> str:
        """The version that a finished run is; made where it is none yet."""
        with self._lock:
            run = self.training.run(name)
            if run.state != "finished":
                raise Fault("not_finished", 409)
            if run.version is not None:
                return run.version
            wanted = self.store.get(AWAITED, {}).get(name, {})
            folder = self.training.folder / name
            version = self.registry.register(
                folder,
                base=wanted.get("base"),
                method=run.method,
                run=folder,
                cost={"seconds": run.report.get("seconds")},
                note="",
            )
            return version.id
