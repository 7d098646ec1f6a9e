"""How much data is enough: the same training on 1/16, 1/8 … of the data, several times each. No torch to import.

    OUTPUT/curve.json            what it was begun with, and the SHA-256 of the data files
    OUTPUT/runs/1of16-r0/ …      a run's folder for every point
    OUTPUT/report.json, report.md, report.html, curve.svg     written anew after every point

A point is a run with `train_share` and `train_share_seed` set, so a curve that was stopped or killed goes on: finished
points are read, the one at hand goes on from its checkpoint. Within a repeat a smaller share is a part of a larger one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from tomoni import config, durable
from tomoni.errors import ConfigError, RunError
from tomoni.evaluate.powerlaw import Law, NoLaw, Point, fit
from tomoni.run.events import Listener, Notice
from tomoni.run.folder import FREE, changed_keys, read_status
from tomoni.settings.common import TrainingSettings

FILE = "curve.json"
FREE_HERE = (*FREE, "device", "threads", "tokens_per_microbatch", "gradient_checkpointing")
# which of a run's numbers is drawn: the first that it has
CHOSEN = ("f1", "answer_f1", "accuracy", "pearson", "rewards/accuracies", "reward", "loss")
LOWER_IS_BETTER = ("loss", "error", "perplexity", "brier")
SHARES = ("accuracy", "accuracies", "f1", "exact_match", "precision", "recall")  # between 0 and 1
FEWEST = 16  # records; a smaller share teaches nothing


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes 1/2^(points-1) … 1/2, 1; each `repeats` times. `equal_steps`: small shares are trained for as many steps as
    all of the data, instead of as many epochs. `metric`: a name in a run's report, or None for the method's own."""

    points: int = 5
    repeats: int = 3
    equal_steps: bool = False
    metric: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.points <= 12:
            raise ConfigError(f"--points {self.points} is out of range", next_step="choose 3 to 12; 5 begins with 1/16")
        if not 1 <= self.repeats <= 100:
            raise ConfigError(f"--repeats {self.repeats} is out of range", next_step="choose 1 to 100")

    @property
    def shares(self) -> list[Fraction]:
        return [Fraction(1, 2**power) for power in reversed(range(self.points))]


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished point. `seconds` of training; `held_out` items that it was measured on."""

    share: Fraction
    repeat: int
    items: int
    held_out: int
    value: float
    steps: int
    seconds: float
    folder: str


@dataclass(frozen=True)
class Curve:
    """All points so far, and the law through them."""

    method: str
    metric: str
    lower_is_better: bool
    is_share: bool
    trained: tuple[Trained, ...]
    law: Law | NoLaw
    of: int  # points that are planned
    equal_steps: bool
    notes: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        return len(self.trained) == self.of

    def at(self, share: Fraction) -> list[Trained]:
        return [one for one in self.trained if one.share == share]

    @property
    def shares(self) -> list[Fraction]:
        return sorted({one.share for one in self.trained})


def draw(cfg: TrainingSettings, plan: Plan, *, on_event: Listener | None = None) -> Curve | None:
    """Train what is not trained yet and report after each point; None where a signal stopped it (it goes on when called
    again). Raises ConfigError where nothing is held out or the data is too little, RunError where `output_dir` holds
    something else, and what a run raises."""
    from tomoni.run import curve_report, start

    if not (cfg.validation_file or cfg.validation_share):
        raise ConfigError(
            "a learning curve is measured on held-out data, and there is none",
            next_step="set validation_share: 0.1, or name a validation_file",
        )
    tell = on_event or (lambda event: None)
    root = Path(cfg.output_dir).expanduser()
    _begin(root, cfg)
    plan, notes = _large_enough(plan, cfg)
    todo = _order(plan)
    trained: list[Trained] = []
    curve: Curve | None = None
    for number, (share, repeat) in enumerate(todo, start=1):
        of_point = _config(cfg, root, share, repeat, plan, trained)
        folder = Path(of_point.output_dir)
        if (read_status(folder) or {}).get("state") == "finished":
            _require_same(folder, of_point)
        else:
            tell(Notice(f"point {number} of {len(todo)}: {_named(share)} of the data, repeat {repeat + 1}"))
            if start(of_point, on_event=on_event).status == "stopped":
                return None
        trained.append(_read(folder, share, repeat, plan.metric))
        curve = curve_of(cfg, plan, trained, of=len(todo), notes=notes)
        curve_report.write(root, curve)
        tell(Notice(curve_report.point_line(curve, trained[-1])))
    return curve


def curve_of(
    cfg: TrainingSettings, plan: Plan, trained: Sequence[Trained], *, of: int, notes: Sequence[str] = ()
) -> Curve:
    metric = _metric_name(Path(trained[0].folder), plan.metric)
    law = fit([Point(one.items, one.repeat, one.value) for one in _even(trained)])
    return Curve(
        method=str(getattr(cfg, "method", "training")),
        metric=metric,
        lower_is_better=any(word in metric for word in LOWER_IS_BETTER),
        is_share=metric.rpartition("/")[2] in SHARES or metric.endswith("f1"),
        trained=tuple(trained),
        law=law,
        of=of,
        equal_steps=plan.equal_steps,
        notes=tuple(notes),
    )


def _large_enough(plan: Plan, cfg: TrainingSettings) -> tuple[Plan, list[str]]:
    """Without shares of too few records; what is said of it."""
    from tomoni.run import datasets

    records = sum(
        not datasets.held_out(record, cfg.validation_share) for record in datasets.reading(cfg, cfg.train_file)
    )
    points = plan.points
    while points > 1 and records < FEWEST * 2 ** (points - 1):
        points -= 1
    if points == plan.points:
        return plan, []
    smallest = _named(Fraction(1, 2 ** (points - 1)))
    note = (
        f"the curve begins at {smallest} of the {records:,} records: smaller shares have fewer than {FEWEST}; "
        f"{plan.points} sizes need {FEWEST * 2 ** (plan.points - 1):,} records to learn from"
    )
    return replace(plan, points=points), [note]


def _even(trained: Sequence[Trained]) -> list[Trained]:
    """With the mean number of items of each share's repeats as its size: a hash draws a few more or fewer."""
    sizes: dict[Fraction, list[int]] = {}
    for one in trained:
        sizes.setdefault(one.share, []).append(one.items)
    return [replace(one, items=round(sum(sizes[one.share]) / len(sizes[one.share]))) for one in trained]


def _order(plan: Plan) -> list[tuple[Fraction, int]]:
    """A whole curve first, then its repeats; small sizes first, or last where their steps are those of the largest."""
    shares = plan.shares[::-1] if plan.equal_steps else plan.shares
    return [(share, repeat) for repeat in range(plan.repeats) for share in shares]


def _config(
    cfg: TrainingSettings, root: Path, share: Fraction, repeat: int, plan: Plan, trained: Sequence[Trained]
) -> TrainingSettings:
    changes: dict[str, Any] = {
        "output_dir": str(root / "runs" / f"1of{share.denominator}-r{repeat}"),
        "train_share": float(share),
        "train_share_seed": repeat,
        "seed": cfg.seed + repeat,
        "sample_prompts": 0,
        "report_to": "none",
    }
    if plan.equal_steps and share < 1:
        changes["max_steps"] = next(one.steps for one in trained if one.share == 1)
    return cfg.model_copy(update=changes)


def _begin(root: Path, cfg: TrainingSettings) -> None:
    """Write down what the curve is begun with, or compare with what it was begun with."""
    given = {key: value for key, value in cfg.model_dump(mode="json").items() if key not in FREE_HERE}
    body = {"config": given, "files": {file: _sha256(file) for file in (*cfg.train_file, *cfg.validation_file)}}
    path = root / FILE
    if path.is_file():
        try:
            known = dict(json.loads(path.read_text(encoding="utf-8")))
            changed = changed_keys(known["config"], given) | changed_keys(known["files"], body["files"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path} is damaged: {error}", next_step="choose another output_dir") from error
        if changed:
            raise RunError(
                f"{root} holds a curve of another config or other data: " + "; ".join(changed.values()),
                next_step="set these back to go on with it, or choose another output_dir to begin anew",
            )
        return
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise RunError(
            f"{root} holds files that are no curve's", next_step="choose a new or empty folder as output_dir"
        )
    with durable.naming_disk(root, 0):
        root.mkdir(parents=True, exist_ok=True)
    durable.write_object(path, body)


def _sha256(file: str) -> str:
    try:
        with Path(file).expanduser().open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError:
        return "unreadable"  # the run says what is wrong with it


def _require_same(folder: Path, cfg: TrainingSettings) -> None:
    """A finished point must be of this very config; only the number of steps stands in it as counted."""
    known = config.load(type(cfg), folder / "config.yaml", []).model_dump(mode="json")
    wanted = cfg.model_dump(mode="json")
    free = (*FREE_HERE, "max_steps") if cfg.max_steps < 0 else FREE_HERE
    changed = {key: text for key, text in changed_keys(known, wanted).items() if key not in free}
    if changed:
        raise RunError(
            f"{folder} was trained otherwise: " + "; ".join(changed.values()),
            next_step="set these back, or choose another output_dir to begin anew",
        )


def _read(folder: Path, share: Fraction, repeat: int, metric: str | None) -> Trained:
    body = _report(folder)
    name = _metric_name(folder, metric)
    value = body["after"][name]
    return Trained(
        share=share,
        repeat=repeat,
        items=_items(folder),
        held_out=int(body["after"]["items"]),
        value=math.nan if value is None else float(value),
        steps=int(body["step"]),
        seconds=float(body["seconds"]),
        folder=str(folder),
    )


def _metric_name(folder: Path, asked: str | None) -> str:
    after = _report(folder)["after"]
    numbers = [name for name, value in after.items() if isinstance(value, float)]
    if asked is None:
        return next(name for name in CHOSEN if name in after)
    if asked not in numbers:
        raise ConfigError(f"--metric {asked!r} is not measured", choices=[n for n in numbers if "parts/" not in n])
    return asked


def _report(folder: Path) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        _ = body["after"]["items"]
        return body
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"the report of {folder} cannot be read: {error}",
            next_step="delete this folder; the point is trained again",
        ) from error


def _items(folder: Path) -> int:
    """How many items were trained on; of `train: auto` as its first rung says."""
    paths = [folder / "inputs.json", *sorted((folder / "rungs").glob("*/inputs.json"))]
    path = next((path for path in paths if path.is_file()), paths[0])
    inputs: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return int(inputs["items"])


def _named(share: Fraction) -> str:
    return "all" if share == 1 else f"1/{share.denominator}"
