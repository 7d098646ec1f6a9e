"""Metrics to TensorBoard, on request. The only module that knows a tracking library; nothing goes over a network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tomoni.errors import ConfigError
from tomoni.run.events import Ended, Evaluated, Event, Stepped


class TensorBoard:
    """A listener that writes every line of metrics.jsonl as scalars into `folder`/tensorboard. Raises ConfigError where
    the library is missing; writes nothing before the first event."""

    def __init__(self, folder: Path) -> None:
        if find_spec("tensorboard") is None:
            raise ConfigError(
                "report_to: 'tensorboard' needs TensorBoard, which is not installed",
                next_step='pip install "tomoni[tracking]", or set report_to: none (metrics.jsonl is written in any case)',
            )
        self.folder = folder
        self._writer: Any = None

    @property
    def writer(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder / "tensorboard"))
        return self._writer

    def __call__(self, event: Event) -> None:
        match event:
            case Stepped(step, metrics=metrics) if metrics is not None:
                self._write("train", step, metrics)
            case Evaluated(step, metrics):
                self._write("eval", step, metrics)
            case Ended():
                self.writer.close()
            case _:
                pass

    def _write(self, group: str, step: int, metrics: Any) -> None:
        for name, value in metrics.items():
            if name != "step":
                self.writer.add_scalar(f"{group}/{name}", value, step)
        self.writer.flush()
