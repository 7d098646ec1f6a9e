"""A run: one training, a folder. From Python:

    from tomoni.run import start
    from tomoni.settings.sft import Config

    result = start(Config(model_name_or_path="bundled:small", train_file="questions.jsonl", output_dir="runs/first"))
    print(result.before.loss, result.after.loss, result.model)

Importing this package imports no torch; `start` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tomoni.run.events import Listener
    from tomoni.run.outcome import Result
    from tomoni.settings.common import TrainingSettings


def start(cfg: TrainingSettings, *, on_event: Listener | None = None) -> Result:
    """Train as `cfg` says, in `cfg.output_dir`; go on from its last whole checkpoint where it has one.

    `on_event` is called with every event of `tomoni.run.events`; what it does never changes the weights. SIGTERM and
    SIGINT end the run after the step at hand with a checkpoint (`Result.status == "stopped"`) when called from the
    main thread. Raises the errors of `tomoni.errors`: among them RunError (folder in use, finished, or of another
    config), DiskError, Diverged.
    """
    from tomoni.engine import kernels

    kernels.build_ahead()  # where they are still to be built: while PyTorch is loaded, which takes longer
    if cfg.train == "auto":
        from tomoni.run.ladder import climb

        return climb(cfg, on_event=on_event)
    from tomoni.run.runner import run

    return run(cfg, on_event=on_event)
