"""Both sides in turn: A B A B …, each a process of its own; then medians, ratios and equality. No torch."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[1]
CLOSE = 1e-3  # losses of two sides at the same step may differ by this much
TIE = 1e-4  # two logits nearer than this are a tie: rounding decides

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """One process to be measured: a script of this package, or a whole command. `ours` runs in our environment."""

    name: str
    ours: bool
    script: str = ""
    job: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """Our side against a peer's: what is compared beyond time, and what is aimed at."""

    ours: str
    peer: str
    goal: float | None = None  # times as fast
    memory_goal: float | None = None  # of the peer's peak
    same: Literal["losses", "answers", "updates", ""] = ""


@dataclass(frozen=True)
class Pythons:
    ours: str
    peers: str

    def of(self, side: Side) -> str:
        return self.ours if side.ours else self.peers


class Failed(Exception):
    """A measured process did not end well."""


def once(side: Side, pythons: Pythons, folder: Path, *, threads: int) -> Outcome:
    """Run it in a new process with caches of its own, so that whatever is compiled is compiled again."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        job, outcome = scratch / "job.json", scratch / "outcome.json"
        job.write_text(json.dumps(dict(side.job)), encoding="utf-8")
        python = pythons.of(side)
        command = [python, "-m", f"bench.{side.script}", str(job), str(outcome)]
        if side.command:
            words = {"{python}": python, "{bin}": str(Path(python).parent), "{scratch}": str(scratch)}
            command = [_filled(word, words) for word in side.command]
        whole, found = _timed(command, {**_environment(scratch, threads), **side.environment})
        if outcome.exists():
            found |= json.loads(outcome.read_text(encoding="utf-8"))
        return {"whole_seconds": whole, **found}


def _filled(word: str, words: Mapping[str, str]) -> str:
    for key, value in words.items():
        word = word.replace(key, value)
    return word


def _environment(scratch: Path, threads: int) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(scratch / "hf"),
        "TOKENIZERS_PARALLELISM": "false",
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TOMONI_CACHE": str(scratch / "tomoni"),
        "XDG_CACHE_HOME": str(scratch / "cache"),
    }


def _timed(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, Outcome]:
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdout=said, stderr=said, stdin=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        whole = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise Failed(f"ended with {process.returncode}: {lines[-1] if lines else 'nothing said'}")
    # on Linux in KiB; the processes that it waited for are counted by their largest
    return whole, {"peak_bytes": usage.ru_maxrss * 1024, "cpu_seconds": usage.ru_utime + usage.ru_stime}


def in_turn(
    sides: Sequence[Side], run: Callable[[Side], Outcome], *, repeats: int, tell: Callable[[str], None] = print
) -> tuple[dict[str, list[Outcome]], dict[str, str]]:
    """Every side once, then every side again: a machine that becomes slower does so for all of them.

    Gives each side's outcomes, and why a side that did not end well was left out.
    """
    found: dict[str, list[Outcome]] = {}
    failed: dict[str, str] = {}
    for turn in range(repeats):
        for side in sides:
            if side.name in failed:
                continue
            try:
                outcome = run(side)
            except Failed as error:
                failed[side.name] = str(error)
                found.pop(side.name, None)
                tell(f"  {side.name} failed: {error}")
                continue
            found.setdefault(side.name, []).append(outcome)
            tell(f"  {turn + 1}/{repeats} {side.name}: {_seconds(outcome):.2f} s")
    return found, failed


# -- what came out ---------------------------------------------------------------------------------------------------


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Medians over the turns, with the fastest and slowest; tokens per second where tokens were counted."""
    names = ("seconds", "cpu_seconds", "whole_seconds", "before_bytes", "peak_bytes")
    given = {name: [outcome[name] for outcome in outcomes if name in outcome] for name in names}
    medians: dict[str, Any] = {name: statistics.median(values) for name, values in given.items() if values}
    taken = given["seconds"] or given["whole_seconds"]
    medians |= {"fastest": min(taken), "slowest": max(taken), "runs": len(outcomes)}
    if "tokens" in outcomes[0]:
        medians |= {
            "tokens": outcomes[0]["tokens"],
            "tokens_per_second": outcomes[0]["tokens"] / statistics.median(taken),
        }
    if "items" in outcomes[0]:
        # sampled answers differ from turn to turn and from side to side: their tokens do too, their number does not
        medians |= {
            "items": outcomes[0]["items"],
            "unit": outcomes[0]["unit"],
            "items_per_second": outcomes[0]["items"] / statistics.median(taken),
        }
    if outcomes[0].get("losses"):
        losses = outcomes[0]["losses"]
        medians |= {"steps": len(losses), "first_loss": losses[0], "last_loss": losses[-1]}
    return medians


def ratios(ours: Sequence[Outcome], peer: Sequence[Outcome]) -> dict[str, float]:
    """How many times as fast we are, turn by turn, and our share of the peer's peak memory."""
    times = [_rate(one) / _rate(other) for one, other in zip(ours, peer, strict=True)]
    memory = [one["peak_bytes"] / other["peak_bytes"] for one, other in zip(ours, peer, strict=True)]
    return {
        "speed": statistics.median(times),
        "speed_least": min(times),
        "speed_most": max(times),
        "memory": statistics.median(memory),
    }


def _rate(outcome: Outcome) -> float:
    """Items a second, else tokens a second; where none are counted, runs a second."""
    return float(outcome.get("items", outcome.get("tokens", 1)) / _seconds(outcome))


def _seconds(outcome: Outcome) -> float:
    return float(outcome["seconds"] if "seconds" in outcome else outcome["whole_seconds"])


@dataclass(frozen=True)
class Verdict:
    """Whether two sides computed the same; a row whose sides did not is not comparable."""

    equal: bool
    said: str


def same_losses(ours: Sequence[float], theirs: Sequence[float]) -> Verdict:
    if len(ours) != len(theirs) or not ours:
        return Verdict(False, f"{len(ours)} steps against {len(theirs)}")
    apart = [abs(one - other) for one, other in zip(ours, theirs, strict=True)]
    worst = max(apart, key=lambda gap: (gap != gap, gap))  # a loss that is no number is the worst
    return Verdict(worst <= CLOSE, f"largest difference of losses {worst:.1e} over {len(ours)} steps")


def same_updates(ours: Outcome, theirs: Outcome) -> Verdict:
    """Told the same completions, both sides have the same loss and the same length of the gradient at every step."""
    losses = same_losses(ours["losses"], theirs["losses"])
    apart = _relative(ours["grad_norms"], theirs["grad_norms"])
    said = f"told the same completions: {losses.said}, gradients' lengths differ by {apart:.1e} of the longest"
    return Verdict(losses.equal and apart <= CLOSE, said)


def _relative(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest difference as a share of the largest size; infinite where a number is missing or none."""
    if len(ours) != len(theirs) or not any(theirs) or not all(map(math.isfinite, (*ours, *theirs))):
        return math.inf
    return max(abs(one - other) for one, other in zip(ours, theirs, strict=True)) / max(map(abs, theirs))


def parted(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """(answer, place) where answers begin to differ; a place past an end where one is a part of the other."""
    found = []
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if list(one) != list(other):
            shared = min(len(one), len(other))
            place = next((place for place in range(shared) if one[place] != other[place]), shared)
            found.append((number, place))
    return found


def same_answers(
    ours: Sequence[Sequence[int]],
    theirs: Sequence[Sequence[int]],
    gaps: Callable[[list[tuple[int, int]]], list[float]],
) -> Verdict:
    """Equal token by token, or parting only where the model's two likeliest tokens tie (`gaps` of their logits)."""
    different = parted(ours, theirs)
    if not different:
        return Verdict(True, f"all {len(ours)} answers the same")
    if any(place >= min(len(ours[number]), len(theirs[number])) for number, place in different):
        return Verdict(False, "answers of different lengths")
    worst = max(gaps(different))
    said = f"{len(ours) - len(different)} of {len(ours)} answers the same, the others part at ties (gap {worst:.0e})"
    if worst > TIE:
        said = f"{len(different)} of {len(ours)} answers differ, by up to {worst:.1e} in the logits"
    return Verdict(worst <= TIE, said)
