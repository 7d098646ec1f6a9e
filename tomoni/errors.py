"""What can go wrong, as a tree.

UserError                 something the person at the keyboard can mend; the command line prints it and exits with 2
├── ConfigError           a config file or an option: unknown key, wrong value; all mistakes at once
├── DataError             a data file or its rows; each bad row with file, line and reason
├── ModelError            a model folder or hub name: missing, damaged, refused, mismatched
├── CheckpointError       a saved state that does not match its manifest
├── RunError              a run folder: in use, finished, of another config
├── RegistryError         a workspace's model versions: unknown, changed, damaged
├── DiskError             no space, no permission, read-only
└── Diverged              a loss or gradient is not finite and the policy is "stop"

Programmers' mistakes are `assert`s and ordinary exceptions; they are never part of this tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


class UserError(Exception):
    """What happened, and what to do next.

    `what` names the thing and its value; `choices` lists what would have been accepted; `next_step` is one sentence
    that says what the person can do now.
    """

    def __init__(self, what: str, *, choices: Sequence[str] = (), next_step: str = "") -> None:
        self.what = what
        self.choices = tuple(choices)
        self.next_step = next_step
        super().__init__(self.text())

    def text(self) -> str:
        lines = [self.what]
        if self.choices:
            lines.append("  possible: " + ", ".join(self.choices))
        if self.next_step:
            lines.append("  next: " + self.next_step)
        return "\n".join(lines)


class ConfigError(UserError):
    pass


class DataError(UserError):
    pass


class ModelError(UserError):
    pass


class CheckpointError(UserError):
    pass


class RunError(UserError):
    pass


class RegistryError(UserError):
    pass


class DiskError(UserError):
    pass


class Diverged(UserError):
    """`record_ids` names the records whose loss or gradient was not finite."""

    def __init__(self, what: str, *, record_ids: Sequence[str], next_step: str = "") -> None:
        self.record_ids = tuple(record_ids)
        super().__init__(what, next_step=next_step)


def counted(number: int, noun: str) -> str:
    """`"1 row"`, `"1,200 rows"`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`' (did you mean "epochs"?)'`, or nothing when no known word is near."""
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f' (did you mean "{near[0]}"?)' if near else ""
