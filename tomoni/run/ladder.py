"""`train: auto`: the head alone first, then more of the model, as long as what is held out says that it helps.

Each rung is a run of its own in the folder's `rungs`, so that it can be stopped and taken up again as any run: the head
(solved), the upper third of the layers, all weights. A rung is kept if its held-out loss is lower; the first that is not
ends the climb. The result is the best rung's model.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

from tomoni import config, durable
from tomoni.engine import checkpoint
from tomoni.errors import ConfigError, RunError
from tomoni.run.events import Listener, Notice
from tomoni.run.folder import RunFolder, read_status
from tomoni.run.outcome import Measured, Result
from tomoni.run.runner import run
from tomoni.settings.common import TrainingSettings

FILE = "ladder.json"


def climb(cfg: TrainingSettings, *, on_event: Listener | None = None) -> Result:
    """Raises ConfigError where nothing is held out to decide by, and what a run raises."""
    if not (cfg.validation_file or cfg.validation_share):
        raise ConfigError(
            "train: auto decides by held-out data, and there is none",
            next_step="set validation_share: 0.1, or name a validation_file",
        )
    tell = on_event or (lambda event: None)
    root = Path(cfg.output_dir).expanduser()
    with RunFolder.hold(root) as folder:
        for text in folder.compare(cfg):
            tell(Notice(text))
        durable.atomic_write(root / "config.yaml", config.dump(cfg))
        folder.set_status("running")
        best: Result | None = None
        untouched: Measured | None = None
        told = []
        parts, cfg = rungs(cfg), _one_pooling(cfg)
        for part in parts:
            tell(Notice(f"train: {part}"))
            changes = {"train": part, "output_dir": str(root / "rungs" / part.replace(":", ""))}
            result = _rung(cfg.model_copy(update=changes), on_event)
            if result.status == "stopped":
                folder.set_status("stopped")
                return replace(result, folder=root)
            untouched = untouched or result.before  # later rungs begin with the head of the one before
            told.append({"train": part, "loss": _loss(result), "seconds": result.seconds})
            if best is not None and not _loss(result) < _loss(best):
                tell(
                    Notice(
                        f"train: {part} is no better on what is held out: {_loss(result):.4f}, not below {_loss(best):.4f}"
                    )
                )
                break
            best = result
        if best is None or best.model is None:
            raise RunError("no rung came to its end", next_step="start it again: it goes on from there")
        taken = min(told, key=lambda one: float(str(one["loss"])))["train"]
        tell(Notice(f"the result is train: {taken}, which had the least held-out loss: {_loss(best):.4f}"))
        durable.atomic_write(root / FILE, json.dumps(told, indent=1) + "\n")
        _take(best, root)
        folder.set_status("finished", step=best.step, steps=best.steps)
    seconds = sum(float(str(one["seconds"])) for one in told)
    return replace(best, folder=root, model=root / "model", seconds=seconds, before=untouched, best=None)


def rungs(cfg: TrainingSettings) -> tuple[str, ...]:
    from tomoni.hub import locate, read_json, result_of

    settings = read_json(locate(result_of(str(getattr(cfg, "model_name_or_path", "")))).model.folder / "config.json")
    layers = int(settings.get("num_hidden_layers") or settings.get("n_layers") or 0)
    upper = (f"top:{layers // 3}",) if layers >= 6 else ()
    first = ("head",) if getattr(cfg, "method", "") in ("classify", "regress") else ()
    return (*first, *upper, "all")


def _one_pooling(cfg: TrainingSettings) -> TrainingSettings:
    """All rungs read the states in one way, so that each begins with the head of the one before."""
    from tomoni.engine import scoring
    from tomoni.engine.taskmodels import own_pooling
    from tomoni.hub import locate, result_of

    if getattr(cfg, "pool", "none") is not None:
        return cfg
    located = locate(result_of(str(getattr(cfg, "model_name_or_path", ""))))
    pool = (own_pooling(located) or "mean") if scoring.is_encoder(located) else "last"
    return cfg.model_copy(update={"pool": pool})


def _rung(cfg: TrainingSettings, on_event: Listener | None) -> Result:
    """Run it, or read what it left where it is finished."""
    root = Path(cfg.output_dir)
    if (read_status(root) or {}).get("state") != "finished":
        return run(cfg, on_event=on_event)
    body = json.loads((root / "report.json").read_text(encoding="utf-8"))
    before, after = (Measured.from_json(body[name]) for name in ("before", "after"))
    return Result(
        root,
        "finished",
        step=body["step"],
        steps=body["step"],
        before=before,
        after=after,
        model=root / body["model"],
        seconds=body["seconds"],
        tokens=body["num_tokens"],
        peak_memory_bytes=body["peak_memory_bytes"],
    )


def _loss(result: Result) -> float:
    return result.after.loss if result.after is not None and math.isfinite(result.after.loss) else math.inf


def _take(best: Result, root: Path) -> None:
    """The model under the folder's own name, by links where the disk can have them."""
    for name in ("report.json", "report.md"):
        shutil.copyfile(best.folder / name, root / name)

    def write(staging: Path) -> None:
        model = best.model
        if model is None:
            return
        for path in sorted(model.rglob("*")):
            target = staging / path.relative_to(model)
            if path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            elif path.name != "manifest.json":
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(path, target)
                except OSError:
                    shutil.copyfile(path, target)

    checkpoint.commit(root / "model", write, bytes_needed=0)
