"""Small against large: several models on the same held-out data, on the same machine, each in a process of its own.
No torch to import."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tomoni.errors import ConfigError, ModelError, RunError, UserError, did_you_mean
from tomoni.evaluate.cases import Cases, check_prompt, is_right
from tomoni.evaluate.contestant import CLASSICAL, Job, Outcome
from tomoni.evaluate.metrics import Interval, mcnemar, most_frequent, paired_bootstrap, wilson

SURE = 0.05
LAST_LINES = 6  # of what a process that failed said


@dataclass(frozen=True, slots=True)
class Terms:
    """How contestants are measured. `price` of an hour of this machine, `repeats` turns (A B A B)."""

    single: int = 50
    repeats: int = 1
    prompt: str | None = None
    examples: int = 0
    max_new_tokens: int | None = None
    device: str = "auto"
    weights: str = "float32"
    threads: int | None = None
    price: float = 0.10
    currency: str = "USD"

    def __post_init__(self) -> None:
        if self.prompt is not None:
            check_prompt(self.prompt)
        if not self.price >= 0 or self.price == float("inf"):
            raise ConfigError(f"--price-per-hour {self.price} is no price", next_step="e.g. 0.10")


@dataclass(frozen=True)
class Contestant:
    """`outcome` is None of the most frequent answer, which costs nothing."""

    name: str
    model: str
    marks: tuple[bool, ...]
    answers: tuple[str, ...]
    outcome: Outcome | None = None
    fit_seconds: float | None = None

    @cached_property
    def accuracy(self) -> Interval:
        return wilson(sum(self.marks), len(self.marks))

    @property
    def measured(self) -> Outcome:
        if self.outcome is None:
            raise ValueError(f"{self.name} is no model: nothing of it is measured but its answers")
        return self.outcome

    @property
    def p50(self) -> float:
        return float(np.quantile(self.measured.latencies, 0.5))

    @property
    def p95(self) -> float:
        return float(np.quantile(self.measured.latencies, 0.95))

    @property
    def per_second(self) -> float:
        return len(self.marks) / self.measured.seconds


@dataclass(frozen=True, slots=True)
class Against:
    """`name` beside `base` on the same items: the difference of their accuracies (paired bootstrap), McNemar's exact p,
    and that p after Holm's correction (1979) for all the others that are set beside the base."""

    base: str
    name: str
    difference: Interval
    p: float
    adjusted_p: float


@dataclass(frozen=True)
class Comparison:
    data: Cases
    contestants: tuple[Contestant, ...]
    against: tuple[Against, ...]
    terms: Terms
    machine: Mapping[str, Any]
    failed: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> list[Contestant]:
        return [one for one in self.contestants if one.outcome is not None]

    def named(self, name: str) -> Contestant:
        return next(one for one in self.contestants if one.name == name)

    def cost(self, one: Contestant) -> float:
        """Of 1,000 items, asked all together."""
        return 1000 / one.per_second / 3600 * self.terms.price

    @property
    def front(self) -> list[str]:
        """Those that no other beats in quality and in speed at one item (Pareto)."""
        return [
            one.name
            for one in self.measured
            if not any(
                other.accuracy.value >= one.accuracy.value
                and other.p50 <= one.p50
                and (other.accuracy.value, -other.p50) != (one.accuracy.value, -one.p50)
                for other in self.measured
            )
        ]

    @property
    def best(self) -> Contestant:
        return max(self.measured, key=lambda one: (one.accuracy.value, -one.p50))

    @property
    def enough(self) -> Contestant:
        """The quickest of those that these items cannot tell from the best (McNemar)."""
        alike = [one for one in self.measured if mcnemar(self.best.marks, one.marks) >= SURE]
        return min(alike, key=lambda one: one.p50)


def compare(
    names: Sequence[str],
    data: Cases,
    train: Cases | None,
    terms: Terms,
    *,
    tell: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Measure every contestant (`NAME` or `LABEL=NAME`; "tfidf" is fitted on `train`); the first one is what the others are
    set beside. One that fails is named in `failed` and the others go on; RunError where none is left.

    Raises ConfigError and ModelError for names that are wrong, before anything is measured."""
    entries = _entries(names, train)
    with tempfile.TemporaryDirectory(prefix="tomoni-compare-") as scratch:
        field = _Field(Path(scratch), data, train, terms)
        fits: dict[str, float] = {}
        models = dict(entries)
        failed: dict[str, str] = {}
        for name, model in entries.items():
            if model == CLASSICAL:
                tell(f"{name}: fitting on {len(train or ())} texts")
                models[name], fits[name] = field.fitted()
        outcomes: dict[str, list[Outcome]] = {}
        for turn in range(terms.repeats):
            for name in entries:
                if name not in failed:
                    tell(f"{name}: {'measuring' if terms.repeats == 1 else f'turn {turn + 1} of {terms.repeats}'}")
                    try:
                        outcomes.setdefault(name, []).append(field.measured(models[name]))
                    except UserError as error:
                        failed[name] = error.text()
                        tell(f"{name} failed: {error.what}")
    found = [
        _contestant(name, entries[name], data, _together(outcomes[name]), fits.get(name))
        for name in entries
        if name not in failed
    ]
    if not found:
        raise RunError("no contestant could be measured: " + "; ".join(failed.values()), next_step="mend one of them")
    notes = tuple(f"{one.name}: {note}" for one in found for note in one.measured.notes)
    everyone = (*found, _frequent(data, train))
    return Comparison(data, everyone, _against(everyone), terms, about_machine(terms), failed, notes)


def _entries(names: Sequence[str], train: Cases | None) -> dict[str, str]:
    """Shown name -> model, each looked for."""
    from tomoni.hub import locate, result_of

    found: dict[str, str] = {}
    for word in names:
        label, equals, model = word.partition("=")
        if not equals or "/" in label or Path(word).expanduser().exists():
            label, model = _short(word), word
        if label in found:
            raise ConfigError(f"two contestants are called {label!r}", next_step="name one of them: LABEL=MODEL")
        if model == CLASSICAL and train is None:
            raise ConfigError(f"{CLASSICAL} learns from a file, and none is named", next_step="add --train-file FILE")
        if model != CLASSICAL:
            try:
                locate(result_of(model))
            except ModelError as error:
                hint = did_you_mean(model, (CLASSICAL,))
                raise ModelError(error.what + hint, choices=error.choices, next_step=error.next_step) from error
        found[label] = model
    return found


def _short(name: str) -> str:
    """The last two parts of a path tell runs apart, and fit a column."""
    parts = Path(name).parts
    return name if len(name) <= 24 else "/".join(parts[-2:])[-24:]


class _Field:
    """Where contestants are started, one after the other."""

    def __init__(self, scratch: Path, data: Cases, train: Cases | None, terms: Terms) -> None:
        self.scratch = scratch
        self.files = {"cases": scratch / "cases.json", "train": scratch / "train.json"}
        data.save(self.files["cases"])
        if train is not None:
            train.save(self.files["train"])
        given = asdict(terms)
        self.shared = {
            key: given[key] for key in ("single", "examples", "max_new_tokens", "device", "weights", "threads")
        }
        self.shared |= {"prompt": terms.prompt} if terms.prompt else {}
        self.shared |= {"cases": str(self.files["cases"]), "train": str(self.files["train"]) if train else None}

    def fitted(self) -> tuple[str, float]:
        folder = self.scratch / CLASSICAL
        body = self._run(Job(name=CLASSICAL, fit_to=str(folder), **self.shared))
        return str(folder), float(body["fit_seconds"])

    def measured(self, model: str) -> Outcome:
        body = self._run(Job(name=model, **self.shared))
        listed = {key: tuple(body[key]) for key in ("answers", "latencies", "notes")}
        return Outcome(**{**body, **listed})

    def _run(self, job: Job) -> dict[str, Any]:
        paths = self.scratch / "job.json", self.scratch / "outcome.json"
        paths[0].write_text(json.dumps(asdict(job), ensure_ascii=False), encoding="utf-8")
        paths[1].unlink(missing_ok=True)
        environment = dict(os.environ)
        if job.threads is not None:
            environment |= {
                name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
            }
        command = [sys.executable, "-m", "tomoni.evaluate.contestant", *map(str, paths)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
        if ended.returncode != 0 or not paths[1].is_file():
            said = "\n".join(ended.stderr.strip().splitlines()[-LAST_LINES:])
            raise RunError(
                f"{job.name}: its process ended with {ended.returncode}: {said}",
                next_step="out of memory (-9)? Take a smaller model, fewer rows, or --weights int8",
            )
        body: dict[str, Any] = json.loads(paths[1].read_text(encoding="utf-8"))
        if "error" in body:
            wrong = body["error"]
            raise UserError(wrong["what"], choices=wrong["choices"], next_step=wrong["next_step"])
        return body


def _together(turns: Sequence[Outcome]) -> Outcome:
    """Medians of the turns' times, all their latencies, the most memory."""
    return replace(
        turns[0],
        latencies=tuple(seconds for turn in turns for seconds in turn.latencies),
        seconds=median(turn.seconds for turn in turns),
        cpu_seconds=median(turn.cpu_seconds for turn in turns),
        load_seconds=median(turn.load_seconds for turn in turns),
        peak_bytes=max(turn.peak_bytes for turn in turns),
    )


def _contestant(name: str, model: str, data: Cases, outcome: Outcome, fit_seconds: float | None) -> Contestant:
    marks = tuple(is_right(case, answer) for case, answer in zip(data.cases, outcome.answers, strict=True))
    return Contestant(name, model, marks, outcome.answers, outcome, fit_seconds)


def _frequent(data: Cases, train: Cases | None) -> Contestant:
    answer = most_frequent([case.desired for case in (train or data).cases])
    where = "of training" if train else "of this data"
    marks = tuple(is_right(case, answer) for case in data.cases)
    return Contestant(f"most frequent answer {where}", "", marks, (answer,) * len(data))


def _against(everyone: Sequence[Contestant]) -> tuple[Against, ...]:
    base, *others = everyone
    ps = [mcnemar(base.marks, other.marks) for other in others]
    return tuple(
        Against(base.name, other.name, paired_bootstrap(base.marks, other.marks), p, adjusted)
        for other, p, adjusted in zip(others, ps, holm(ps), strict=True)
    )


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p-values of several tests (Holm 1979): the smallest times their number, the next times one less …"""
    order = sorted(range(len(ps)), key=lambda index: ps[index])
    adjusted = [0.0] * len(ps)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = largest
    return adjusted


def about_machine(terms: Terms) -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": terms.threads or int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
