"""The temperature of a finished classifier, found on what was held out, and what it changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tomoni.evaluate.calibration import Calibration, calibrate
from tomoni.run.datasets import Datasets

if TYPE_CHECKING:
    from tomoni.engine.engine import Engine
    from tomoni.engine.taskmodels import Task

MOST = 10_000  # held-out items; more change nothing about one number


@dataclass
class Calibrating:
    """Measured once, when the model is saved: its last weights are then in place."""

    engine: Engine
    data: Datasets
    task: Task
    found: Calibration | None = field(default=None)

    def temperature(self) -> float:
        """1 where no classes are told apart, or nothing is held out to learn it from."""
        if self.task.method != "classify" or self.data.looked_at_is != "validation":
            return 1.0
        from tomoni.engine.features import scores

        items = [self.data.looked_at[index] for index in range(min(len(self.data.looked_at), MOST))]
        labels = np.stack([np.asarray(item.rows[0].label) for item in items])
        self.found = calibrate(np.stack(scores(self.engine, items)), labels, several=self.task.several)
        return self.found.temperature

    def figures(self) -> Mapping[str, Any]:
        if self.found is None:
            return {}
        return {
            "temperature": self.found.temperature,
            "expected_calibration_error_before": self.found.before,
            "expected_calibration_error_after": self.found.after,
        }
