"""Programs that go on when the studio or the browser is closed: started without a shell, in a session of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Processes:
    """Those that this studio started; kept so that their ends are noticed."""

    command: Sequence[str] = (sys.executable, "-m", "tomoni")
    _running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, words: Sequence[str], log: Path) -> int:
        """The process's id. What it says goes into `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            process = subprocess.Popen(  # noqa: S603
                [*self.command, *words], stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        self._running[process.pid] = process
        threading.Thread(target=process.wait, name=f"end-of-{process.pid}", daemon=True).start()  # no zombie is left
        return process.pid

    def alive(self, pid: int | None) -> bool:
        """Of one that an earlier studio started, too."""
        if pid is None:
            return False
        ours = self._running.get(pid)
        if ours is not None:
            return ours.poll() is None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def stop(self, pid: int) -> None:
        """Ask it to end; it saves what it has."""
        if self.alive(pid):
            os.kill(pid, signal.SIGTERM)


def last_words(log: Path, lines: int = 8) -> str:
    """The end of what a program said."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 6000))
            said = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(line[:400] for line in said[-lines:])
