"""The folder of a run: who holds it, what it was started with, how it stands. No torch.

config.yaml          what the run was started with, all defaults filled in
inputs.json          which model and which data exactly, by SHA-256
lock                 held (flock) by the process that trains; names it
status.json          state (running, stopped, finished, failed), step, pid, host, start
metrics.jsonl        one line per logged step and per evaluation
ledger.jsonl         one line per step: the ids of the items it trained on
completions.jsonl    one line per sampled completion with its scores, where the method samples
before.json          loss and answers before the first step
checkpoints/         step-000123/ and so on; best.json names the best
model/ or adapter/   the result, in Hugging Face's or PEFT's form
report.json, report.md, overoptimisation.svg
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from tomoni import config, durable, locking
from tomoni.engine import checkpoint
from tomoni.errors import DiskError, RunError
from tomoni.settings.common import TrainingSettings

OURS = (
    "lock",
    "inputs.json",
    "status.json",
    "quarantine.jsonl",
    "quarantine-replay.jsonl",
)  # what may stand in a folder before its run has begun
State = Literal["running", "stopped", "finished", "failed"]

# keys that change neither weights nor what is measured; a run may be taken up with other values of them
FREE = (
    "output_dir", "logging_steps", "eval_steps", "save_steps", "save_total_limit", "report_to", "sample_prompts",
    "load_best_model_at_end", "on_nonfinite", "on_overoptimization", "max_kl",
)  # fmt: skip
# keys whose change keeps the result up to rounding (and to which numbers dropout draws), but not bit for bit
ROUNDING = ("device", "threads", "tokens_per_microbatch", "gradient_checkpointing")


class RunFolder:
    """A run folder held by this process; `close` lets go of it. Made by `hold`."""

    def __init__(self, root: Path, lock: locking.Lock) -> None:
        self.root = root
        self.checkpoints = root / "checkpoints"
        self.metrics = root / "metrics.jsonl"
        self.ledger = root / "ledger.jsonl"
        self.completions = root / "completions.jsonl"
        self.holder = lock.holder
        self._lock = lock

    @classmethod
    def hold(cls, path: str | Path) -> RunFolder:
        """Make the folder where it is missing and lock it; RunError where another process trains in it, or where it
        holds files that are no run's."""
        root = Path(path).expanduser()
        if root.exists() and not root.is_dir():
            raise DiskError(f"output_dir {root} is a file", next_step="choose a new or empty folder as output_dir")
        with durable.naming_disk(root, 0), _naming_parent(root):
            root.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(root)
        try:
            lock = locking.take(root / "lock")
        except locking.Taken as taken:
            raise RunError(
                f"{root} is in use by {taken.by}",
                next_step="wait for it to end, stop it, or choose another output_dir",
            ) from taken
        try:
            checkpoint.recover(root)
        except BaseException:
            lock.close()
            raise
        return cls(root, lock)

    def close(self) -> None:
        self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- config and inputs -------------------------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether a run has been started here; before that nothing of it is left behind."""
        return (self.root / "config.yaml").exists()

    def compare(self, cfg: TrainingSettings) -> list[str]:
        """Compare with the config that the run here was started with, if it has a checkpoint to go on from. Returns
        notices; RunError where a key that matters has changed or the run is finished."""
        if not self.begun:
            return []
        finished = (read_status(self.root) or {}).get("state") == "finished"
        if not finished and not checkpoint.step_folders(self.checkpoints):
            return []
        changed = changed_keys(_read_yaml(self.root / "config.yaml"), cfg.model_dump(mode="json"))
        if finished:
            told = {key: text for key, text in changed.items() if key not in FREE}
            others = told.get("method") or "; ".join(told.values())  # another method has other keys
            raise RunError(
                f"the run in {self.root} is finished" + (f", and was of another config: {others}" if others else ""),
                next_step=f"look at {self.root / 'report.md'}; to train anew, choose another output_dir",
            )
        refused = [text for key, text in changed.items() if key not in FREE + ROUNDING]
        refused = [changed["method"]] if "method" in changed else refused
        if refused:
            raise RunError(
                f"{self.root} holds a run of another config: " + "; ".join(refused),
                next_step="set these keys back to go on with it, or choose another output_dir to begin anew",
            )
        return [
            f"{text}: the result stays the same up to rounding (with dropout: up to its draws), no longer bit for bit"
            for key, text in changed.items()
            if key in ROUNDING
        ]

    def accept(self, cfg: TrainingSettings, inputs: Mapping[str, Any]) -> None:
        """Write down what the run is started with; `inputs` name the content of model and data. RunError where a run
        with checkpoints began with other content."""
        text = json.dumps(inputs, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        known = self.read_json("inputs.json")
        if not checkpoint.step_folders(self.checkpoints):
            (self.root / "before.json").unlink(missing_ok=True)
        elif known is not None and (changed := changed_keys(known, json.loads(text))):
            raise RunError(
                f"the files of the run in {self.root} have changed since it began: " + "; ".join(changed.values()),
                next_step="restore them to go on with it, or choose another output_dir to begin anew",
            )
        durable.atomic_write(self.root / "inputs.json", text)
        durable.atomic_write(self.root / "config.yaml", config.dump(cfg))

    def withdraw(self) -> None:
        """Leave no trace of a run that could not begin; a folder made for it goes too."""
        with contextlib.suppress(OSError):
            for name in OURS:
                (self.root / name).unlink(missing_ok=True)
            self.root.rmdir()

    # -- status ------------------------------------------------------------------------------------------------------

    def set_status(
        self, state: State, *, step: int | None = None, steps: int | None = None, error: str | None = None
    ) -> None:
        body = {
            "state": state, "pid": self.holder.pid, "host": self.holder.host, "start": self.holder.start,
            "step": step, "steps": steps, "error": error, "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        durable.write_object(self.root / "status.json", body)

    def write_json(self, name: str, body: Mapping[str, Any]) -> None:
        durable.write_object(self.root / name, body)

    def read_json(self, name: str) -> dict[str, Any] | None:
        path = self.root / name
        if not path.exists():
            return None
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(
                f"{path} is damaged: {error}",
                next_step="restore it from a copy, or choose another output_dir to begin anew",
            ) from error


def read_status(root: Path) -> dict[str, Any] | None:
    """status.json, for anyone who looks; None where there is none that can be read. A run that says "running" and whose folder nobody
    holds was killed: its state is then given as "killed"."""
    try:
        status = dict(json.loads((root / "status.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    if status.get("state") == "running" and not is_held(root):
        status["state"] = "killed"
    return status


def is_held(root: Path) -> bool:
    """Whether a process on this machine trains in the folder; asks without taking the lock for longer than an instant."""
    return locking.is_held(root / "lock")


@contextlib.contextmanager
def _naming_parent(root: Path) -> Iterator[None]:
    """Some file systems (/proc) say "no such file" where nothing may be made."""
    try:
        yield
    except FileNotFoundError as error:
        raise DiskError(
            f"{root} cannot be made in {root.parent}: {error.strerror}",
            next_step="choose an output_dir that you may write to",
        ) from error


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Each key whose value differs, with a text that names both values."""
    return {
        key: f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
        return dict(body)
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read: {error}", next_step="restore it, or choose another output_dir to begin anew"
        ) from error


def _refuse_foreign(root: Path) -> None:
    names = [path.name for path in root.iterdir()]
    foreign = [name for name in names if name not in OURS and not name.startswith(durable.STAGING)]
    if foreign and "config.yaml" not in names:
        raise RunError(
            f"{root} holds files that are no run's: {', '.join(sorted(foreign)[:5])}",
            next_step="choose a new or empty folder as output_dir",
        )
