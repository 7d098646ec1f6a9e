"""Fine-tuning from the studio: a run is a process and a folder of its own; this starts it and reads the folder. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from tomoni.durable import read_object
from tomoni.run.folder import read_status
from tomoni.studio.faults import Fault
from tomoni.studio.processes import Processes, last_words

if TYPE_CHECKING:
    from tomoni.registry import Registry

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
Amount = Literal["all", "part"]
Effort = Literal["short", "usual", "long"]
EPOCHS: Mapping[str, Mapping[Effort, float]] = {
    "sft": {"short": 1, "usual": 3, "long": 6},
    "dpo": {"short": 1, "usual": 1, "long": 2},
    "kto": {"short": 1, "usual": 1, "long": 2},
}
METHOD_OF = {
    "messages": "sft", "prompt_completion": "sft", "alpaca": "sft", "sharegpt": "sft", "text": "sft",
    "preference": "dpo", "unpaired": "kto",
}  # fmt: skip
SMALL = 50_000_000  # bytes of weights under which a model takes a higher rate
MOST_POINTS = 2_000  # lines of metrics.jsonl that are read, from its end


@dataclass(frozen=True, slots=True)
class Run:
    """One training, as its folder tells."""

    name: str
    state: str
    method: str
    step: int = 0
    steps: int = 0
    error: str = ""
    losses: tuple[tuple[int, float], ...] = ()
    held_out: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    report: Mapping[str, Any] = field(default_factory=dict)
    started: str = ""
    version: str | None = None

    @property
    def going(self) -> bool:
        return self.state in ("starting", "running")

    @property
    def done(self) -> float:
        return 1.0 if self.state == "finished" else self.step / self.steps if self.steps else 0.0


@dataclass
class Training:
    workspace: Path
    registry: Registry
    processes: Processes = field(default_factory=Processes)
    _started: dict[str, int] = field(default_factory=dict)  # name: process

    @property
    def folder(self) -> Path:
        return self.workspace / "runs"

    def names(self) -> list[str]:
        """Newest first."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if path.is_dir() and NAME.fullmatch(path.name)]
        started = [name for name in self._started if not (self.folder / name).is_dir()]
        return [*started, *(path.name for path in sorted(found, key=lambda path: -path.stat().st_mtime))]

    def going(self) -> bool:
        return any(self._state(name) in ("starting", "running") for name in self.names())

    def _state(self, name: str) -> str:
        status = read_status(self.folder / name)
        alive = self.processes.alive(self._started.get(name))
        if status is None:
            return "starting" if alive else "failed"
        return str(status.get("state"))

    def runs(self) -> list[Run]:
        return [self.run(name, brief=True) for name in self.names()]

    def run(self, name: str, *, brief: bool = False) -> Run:
        """Fault 404 where there is none. `brief`: without the curves and the report."""
        if not NAME.fullmatch(name) or name not in self.names():
            raise Fault("no_run", 404)
        folder = self.folder / name
        status = read_status(folder) or {}
        state = self._state(name)
        error = str(status.get("error") or "")
        if not error and state in ("failed", "killed"):
            error = last_words(self.log(name))
        config = _yaml(folder / "config.yaml") or _yaml(self.config(name))
        losses, held_out, seconds = ((), (), 0.0) if brief else curves(folder / "metrics.jsonl")
        return Run(
            name=name,
            state=state,
            method=str(config.get("method", "")),
            step=int(status.get("step") or 0),
            steps=int(status.get("steps") or 0),
            error=error,
            losses=losses,
            held_out=held_out,
            seconds=seconds,
            report={} if brief else read_object(folder / "report.json"),
            started=str(status.get("start") or ""),
            version=next((v.id for v in self.registry.versions() if v.run and Path(v.run) == folder), None),
        )

    def config(self, name: str) -> Path:
        return self.folder / f"{name}.yaml"

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def start(self, name: str, *, version: str, file: Path, form: str, amount: Amount, effort: Effort) -> None:
        """Fault where the name is taken or something trains already; what is wrong with the data the run itself says."""
        if not NAME.fullmatch(name):
            raise Fault("bad_name", 400)
        if name in self.names() or self.config(name).exists():
            raise Fault("name_used", 409, name=name)
        if self.going():
            raise Fault("training_already", 409)
        body = settings(self.registry.get(version).model, file, form, amount, effort)
        self.folder.mkdir(parents=True, exist_ok=True)
        body["output_dir"] = str(self.folder / name)
        self.config(name).write_text(yaml.safe_dump(body, allow_unicode=True, sort_keys=False), encoding="utf-8")
        self._started[name] = self.processes.start(["train", str(self.config(name))], self.log(name))

    def again(self, name: str) -> None:
        """Take up a run that was stopped or killed."""
        run = self.run(name, brief=True)
        if run.going or run.state == "finished":
            raise Fault("cannot_go_on", 409)
        if self.going():
            raise Fault("training_already", 409)
        config = self.config(name)
        words = ["train", str(config if config.exists() else self.folder / name / "config.yaml")]
        self._started[name] = self.processes.start(words, self.log(name))

    def stop(self, name: str) -> None:
        run = self.run(name, brief=True)
        pid = (read_status(self.folder / name) or {}).get("pid") or self._started.get(name)
        if not run.going or not isinstance(pid, int):
            raise Fault("nothing_runs", 409)
        self.processes.stop(pid)


def settings(model: str, file: Path, form: str, amount: Amount, effort: Effort) -> dict[str, Any]:
    """A config that does well without being looked at: by the kind of data, the size of the model and the patience."""
    method = METHOD_OF.get(form)
    if method is None:
        raise Fault("form_not_trained", 400, form=form)
    small = _weights(model) < SMALL
    part = "lora" if amount == "part" or not small else "all"
    rates = {
        "sft": {"all": 4e-4 if small else 1e-5, "lora": 1e-3 if small else 2e-4},
        "dpo": {"all": 2e-5, "lora": 5e-4 if small else 5e-5},
        "kto": {"all": 2e-5, "lora": 5e-4 if small else 5e-5},
    }
    body: dict[str, Any] = {
        "method": method,
        "model_name_or_path": model,
        "train_file": [str(file)],
        "validation_share": 0.1,
        "train": part,
        "num_train_epochs": EPOCHS[method][effort],
        "batch_size": 4 if small and method == "sft" else 16,
        "learning_rate": rates[method][part],
        "lr_scheduler_type": "linear",
        "warmup_ratio": 0.05,
        "max_length": 512,
        "on_long_rows": "truncate",
        "eval_steps": 50,
        "load_best_model_at_end": True,
        "sample_prompts": 6,
    }
    if part == "lora":
        body |= {"lora_r": 8 if small else 16}
    return body


def _weights(model: str) -> int:
    if model.startswith("bundled:"):
        return 0
    folder = Path(model)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else SMALL


def curves(path: Path) -> tuple[tuple[tuple[int, float], ...], tuple[tuple[int, float], ...], float]:
    """(step, loss) of training and of what was held out, and the seconds so far."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[-MOST_POINTS:]
    except FileNotFoundError:
        return (), (), 0.0
    losses, held_out, seconds = [], [], 0.0
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a line that is being written
        step = int(row.get("step", 0))
        if isinstance(row.get("loss"), int | float):
            losses.append((step, float(row["loss"])))
        if isinstance(row.get("eval_loss"), int | float):
            held_out.append((step, float(row["eval_loss"])))
        seconds = float(row.get("seconds") or seconds)
    return tuple(losses), tuple(held_out), seconds


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
