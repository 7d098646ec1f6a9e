"""The rows that a run replays: read, rendered and kept as `sft` would train on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tomoni.data.render import Renderer
from tomoni.data.tokenize import fingerprint
from tomoni.errors import DataError
from tomoni.run.datasets import Parts
from tomoni.run.job import Tokenizer
from tomoni.run.methods import method_module
from tomoni.settings.common import TrainingSettings
from tomoni.settings.replay import ReplaySettings
from tomoni.settings.sft import Config as Sft

if TYPE_CHECKING:
    from tomoni.data.store import ItemStore
    from tomoni.engine.replay import Replay

NEXT = (
    "give it conversations, prompts with completions, or texts, in columns of the usual names; on_bad_rows: quarantine and "
    "on_long_rows: drop leave rows out"
)


@dataclass(frozen=True)
class Replayed:
    """`key` names the content exactly, `longest` is the number of tokens of the longest row."""

    rows: ItemStore
    replay: Replay
    key: str
    longest: int
    notices: tuple[str, ...]


def replayed(cfg: TrainingSettings, tokenizer: Tokenizer, template: str, quarantine: Path) -> Replayed | None:
    """None where nothing is replayed. Raises what `datasets` raises."""
    if not isinstance(cfg, ReplaySettings) or not cfg.replay_file:
        return None
    from tomoni.engine.replay import Replay

    as_sft = Sft(
        model_name_or_path=str(getattr(cfg, "model_name_or_path", "")),
        output_dir=cfg.output_dir,
        train_file=cfg.replay_file,
        on_bad_rows=cfg.on_bad_rows,
        on_long_rows=cfg.on_long_rows,
        max_length=cfg.max_length,
    )
    render = Renderer(tokenizer, template=template, max_length=cfg.max_length, on_long_rows=cfg.on_long_rows)
    parts = Parts(as_sft, method_module("sft"), fingerprint(tokenizer), render, quarantine)
    try:
        rows = parts.store("replay_file", cfg.replay_file, lambda record: True)
    except DataError as error:
        raise DataError(f"replay_file: {error.what}", choices=error.choices, next_step=NEXT) from error
    replay = Replay(rows, batch_size=cfg.replay_batch_size, coef=cfg.replay_coef, seed=cfg.seed)
    return Replayed(rows, replay, parts.keys[-1], int(rows.lengths.max()), tuple(parts.notices))
