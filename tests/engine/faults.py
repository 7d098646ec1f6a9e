"""A stand-in for the `os` module that fails, or ends the process, at the n-th operation that changes the disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from tomoni import durable
from tomoni.engine import checkpoint

OPERATIONS = ("open", "write", "fsync", "rename", "replace", "mkdir")


class Killed(BaseException):
    """Stands for kill -9: no `except Exception` sees it, so nothing is tidied up."""


class FaultyOs:
    """Counts operations; before the one numbered `at` (from 0) it calls `fault`. `at` None only counts."""

    def __init__(self, at: int | None = None, fault: Callable[[str], None] = lambda operation: None) -> None:
        self.at = at
        self.fault = fault
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in OPERATIONS:
            return real

        def operation(*arguments: Any, **options: Any) -> Any:
            self.mark(name)
            return real(*arguments, **options)

        return operation

    def mark(self, operation: str) -> None:
        """One more operation; calls the fault where it is the chosen one."""
        self.count += 1
        if self.count - 1 == self.at:
            self.fault(operation)


def put(patch: pytest.MonkeyPatch, stand_in: Any) -> None:
    """Let the modules that make files durable see `stand_in` instead of `os`."""
    for module in (durable, checkpoint):
        patch.setattr(module, "os", stand_in)


class RecordingOs:
    """Writes down, in order, which paths were brought to the disk and which were renamed to what."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str, str]] = []
        self.paths: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, *arguments: Any, **options: Any) -> int:
        handle = os.open(path, *arguments, **options)
        self.paths[handle] = str(path)
        return handle

    def fsync(self, handle: int) -> None:
        os.fsync(handle)
        self.log.append(("fsync", self.paths[handle], ""))

    def rename(self, old: Any, new: Any) -> None:
        os.rename(old, new)
        self.log.append(("rename", str(old), str(new)))

    def replace(self, old: Any, new: Any) -> None:
        os.replace(old, new)
        self.log.append(("rename", str(old), str(new)))
