"""Whether a run keeps the outputs of its frozen layers, where, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tomoni.run.datasets import Datasets, cache_folder
from tomoni.settings.common import TrainingSettings, items_seen

if TYPE_CHECKING:
    from tomoni.engine.engine import Engine


def keep_frozen(
    cfg: TrainingSettings, engine: Engine, data: Datasets, say: Callable[[str], None], *, besides: int = 0
) -> str | None:
    """Have the engine run its lowest, frozen layers once a row, where rows are seen again. What to say about it, or
    None where there is nothing to keep. `say` is told what goes wrong later. `besides`: tokens of rows that are replayed.

    Where the disk has no room they are computed again each time, and that is said.
    """
    from tomoni.engine.frozen import Below, fingerprint
    from tomoni.engine.kept import KeptOutputs, make_room

    if cfg.keep_frozen == "none" or engine.frozen_layers == 0 or not _sees_rows_again(cfg, len(data.train)):
        return None
    half = cfg.keep_frozen == "float16"
    below = Below(engine.forward, engine.frozen_layers, autocast=engine.autocast, half=half, say=say)
    if not below.works:
        return None
    tokens = _tokens(data.train) + (_tokens(data.looked_at) if data.looked_at_is == "validation" else 0)
    needed = below.bytes_needed(tokens + besides)
    name = fingerprint(engine.forward, engine.frozen_layers, autocast=engine.autocast, half=half)
    root = cache_folder("kept")
    layers = f"outputs of the {engine.frozen_layers} frozen layers"
    room = make_room(root, name, needed)
    if room is None:
        return (
            f"the {layers} would take {_size(needed)}, more than a quarter of the free disk in {root}: "
            "they are computed again at every step; keep_frozen: float16 takes half, TOMONI_CACHE names another disk"
        )
    below.kept = KeptOutputs(root / name, width=below.width, dtype=below.kind, room=room)
    engine.keep_frozen(below)
    return f"the {layers} are computed once and kept: {_size(needed)} in {root / name}"


def keep_features(cfg: TrainingSettings, engine: Engine, data: Datasets) -> str | None:
    """Have the engine keep what enters the head of each row, where the body is not trained at all."""
    from tomoni.engine.features import name_of_store
    from tomoni.engine.kept import KeptOutputs, make_room

    if cfg.keep_frozen == "none":
        return None
    width = int(engine.forward.inner.config.get_text_config().hidden_size)
    rows = len(data.train) + (len(data.looked_at) if data.looked_at_is == "validation" else 0)
    needed, root, name = 4 * width * rows, cache_folder("kept"), name_of_store(engine)
    room = make_room(root, name, needed)
    if room is None:
        return f"there is no room in {root} for the texts' features ({_size(needed)}): they are computed at every look"
    engine.kept_rows = KeptOutputs(root / name, width=width, dtype="float32", room=room)
    return None


def _sees_rows_again(cfg: TrainingSettings, items: int) -> bool:
    epochs = cfg.steps * cfg.batch_size if cfg.max_steps >= 0 else items_seen(items, cfg.num_train_epochs)
    return epochs > items


def _tokens(items: Any) -> int:
    """Of an ItemStore, a packed view of one, or a list of items."""
    return int(items.tokens) if hasattr(items, "tokens") else sum(item.tokens for item in items)


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
