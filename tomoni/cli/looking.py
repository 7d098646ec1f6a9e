"""What an engine needs to know that only looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tomoni.settings.common import TrainingSettings


def looking_settings(device: str = "auto", threads: int | None = None) -> TrainingSettings:
    from tomoni.settings.sft import Config

    return Config(
        model_name_or_path="-", train_file=("-",), output_dir="-", device=device, threads=threads, dtype="float32"
    )
