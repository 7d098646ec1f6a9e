"""Stages of a round: each a folder, done once, redone only where what goes into it has changed. No torch.

    W/rounds/NNNN/STAGE/stage.json    inputs (and their SHA-256), output, seconds; written last

A stage that was killed has no stage.json: what it left is thrown away, and it is done again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomoni.durable import naming_disk, write_object

RECORD = "stage.json"
Output = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stages:
    """Of one round. `listen` is told the name of a stage that begins."""

    folder: Path
    listen: Callable[[str], None]

    def run(self, name: str, inputs: Mapping[str, Any], work: Callable[[Path], Output]) -> Output:
        """The stage's output: as it was found, or by `work`, which is given an empty folder."""
        place, key = self.folder / name, hashed(inputs)
        if (known := self.known(name)) is not None and known.get("key") == key:
            return dict(known["output"])
        self.listen(name)
        with naming_disk(place, 0):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
        begin = time.monotonic()
        output = work(place)
        body = {"key": key, "inputs": dict(inputs), "seconds": round(time.monotonic() - begin, 3), "output": output}
        write_object(place / RECORD, body)
        return output

    def known(self, name: str) -> dict[str, Any] | None:
        """A finished stage's record; None where there is none, or where it is damaged."""
        try:
            body = json.loads((self.folder / name / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return body if isinstance(body, dict) and {"key", "output", "seconds"} <= body.keys() else None

    def output(self, name: str) -> Output | None:
        known = self.known(name)
        return None if known is None else dict(known["output"])

    def seconds(self, name: str) -> float:
        known = self.known(name)
        return 0.0 if known is None else float(known["seconds"])


def hashed(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
