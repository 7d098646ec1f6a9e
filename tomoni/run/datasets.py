"""Data files become what a run trains on and what it looks at: read, split, rendered, tokenised once and kept."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

from tomoni.data.pack import Packed
from tomoni.data.read import Reading, read
from tomoni.data.render import Renderer
from tomoni.data.store import ItemStore, build, cache_key
from tomoni.data.stream import Items, Stream
from tomoni.data.tasks import TaskRenderer
from tomoni.data.textpairs import PairRenderer
from tomoni.data.tokenize import fingerprint
from tomoni.durable import atomic_write
from tomoni.errors import DataError, counted
from tomoni.records import Record
from tomoni.run.job import Tokenizer
from tomoni.run.methods import Method, forms_of
from tomoni.settings.common import TrainingSettings
from tomoni.settings.rollouts import RolloutSettings

AnyRenderer = Renderer | PairRenderer | TaskRenderer
LOOKED_AT_WITHOUT_VALIDATION = 128  # items of the training data that are measured where nothing is held out
CANDIDATES = 8  # records for each prompt that is asked: some do not fit, some are refused
# keys of the config that decide what the records become
DECIDING = (
    "form",
    "columns",
    "on_bad_rows",
    "on_long_rows",
    "max_length",
    "loss_on",
    "validation_share",
    "class_weights",
)


@dataclass(frozen=True)
class Datasets:
    """`looked_at` is measured before, during and after. `key` names the content of both exactly, `longest` is the
    number of tokens of the longest row of either."""

    train: Items
    looked_at: Items
    looked_at_is: Literal["validation", "training"]
    records: tuple[Record, ...]  # of those looked at: candidates to ask the model about
    key: str
    longest: int
    notices: tuple[str, ...]


def cache_folder(kind: str) -> Path:
    """Where what was made of data files is kept between runs: under TOMONI_CACHE, or in the user's own cache."""
    named = os.environ.get("TOMONI_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(named or f"{base}/tomoni").expanduser() / kind


def reading(
    cfg: TrainingSettings,
    files: Sequence[str],
    *,
    check: Callable[[Record], None] | None = None,
    on_bad_rows: Literal["stop", "quarantine"] | None = None,
) -> Reading:
    return read(
        files,
        form=cfg.form,
        columns=cfg.columns,
        on_bad_rows=on_bad_rows or cfg.on_bad_rows,
        prompts=isinstance(cfg, RolloutSettings),
        wanted=forms_of(str(getattr(cfg, "method", ""))),
        check=check,
    )


def text_key(cfg: TrainingSettings, settings: str) -> str:
    """Names what is made of the training files' text with these settings."""
    return _key(cfg, cfg.train_file, tokenizer="", template="", settings={"made with": settings, "form": cfg.form})


def _key(
    cfg: TrainingSettings, files: Sequence[str], *, tokenizer: str, template: str, settings: Mapping[str, Any]
) -> str:
    method = str(getattr(cfg, "method", ""))
    try:
        return cache_key(files, tokenizer=tokenizer, template=template, settings=settings, method=method)
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}", next_step="check train_file and validation_file"
        ) from error


def datasets(
    cfg: TrainingSettings, method: Method, tokenizer: Tokenizer, render: AnyRenderer, quarantine: Path
) -> Datasets:
    """Raises DataError for bad rows (under "stop"), rows too long (under "stop"), and where nothing is left to train on.
    Bad rows under "quarantine" go into the file `quarantine`."""
    parts = Parts(cfg, method, fingerprint(tokenizer), render, quarantine)
    share = cfg.validation_share
    train = parts.store("train", cfg.train_file, lambda record: not held_out(record, share) and trained_on(record, cfg))
    files, chosen = cfg.validation_file or cfg.train_file, lambda record: held_out(record, share) if share else True
    validation = parts.store("validation", files, chosen) if cfg.validation_file or share else None
    items = _packed(cfg, train)
    for file in set(map(_real, cfg.validation_file)) & set(map(_real, cfg.train_file)):
        parts.notices.append(f"{file} is both trained on and held out: the measure will flatter")
    return Datasets(
        train=items,
        looked_at=_packed(cfg, validation) if validation is not None else _spread(items),
        looked_at_is="training" if validation is None else "validation",
        records=_first(reading(cfg, files), chosen, CANDIDATES * cfg.sample_prompts),
        key="+".join(parts.keys),
        longest=max(int(store.lengths.max()) for store in (train, validation) if store is not None),
        notices=tuple(parts.notices),
    )


def stream(train: Items, cfg: TrainingSettings, given: TrainingSettings) -> Stream:
    """`given` is the config as the user wrote it: where it counts epochs, the last batch ends with the last epoch."""
    epochs = cfg.num_train_epochs if given.max_steps < 0 else None
    return Stream(train, batch_size=cfg.batch_size, seed=cfg.seed, steps=cfg.steps, epochs=epochs)


def too_few(cfg: TrainingSettings, items: int) -> tuple[str, ...]:
    """What should be said of a training that is hardly one. `cfg` knows its steps."""
    found = []
    if cfg.batch_size > items:
        found.append(
            f"batch_size {cfg.batch_size} is more than there is ({counted(items, 'item')}): a step repeats some"
        )
    if not any(cfg.lr_at(step) for step in range(min(cfg.steps, 2))):  # a warmup begins at 0
        found.append(
            f"nothing will be learnt: the learning rate is 0 in the only {counted(cfg.steps, 'step')} (a warmup begins at 0); "
            "take more steps (num_train_epochs, max_steps, a smaller batch_size) or set warmup_ratio: 0"
        )
    return tuple(found)


def _real(file: str) -> str:
    return str(Path(file).expanduser().resolve())


def held_out(record: Record, share: float) -> bool:
    """Whether a record is kept for validation: by a hash of its id, so the same ones in every run. Repeated content,
    whose ids differ in a trailing #2, #3 …, falls on one side."""
    return _place(_stem(record)) < share


def trained_on(record: Record, cfg: TrainingSettings) -> bool:
    """Whether a record that is not held out belongs to the `train_share` of the data."""
    return cfg.train_share == 1 or _place(f"{cfg.train_share_seed}/{_stem(record)}") < cfg.train_share


def _stem(record: Record) -> str:
    return re.sub(r"#\d+$", "", record.id)


def _place(name: str) -> float:
    """Between 0 and 1, by a hash."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


class Parts:
    """Builds the stores of a run's parts, and keeps what should be said about them."""

    def __init__(
        self, cfg: TrainingSettings, method: Method, tokenizer: str, render: AnyRenderer, quarantine: Path
    ) -> None:
        self.cfg = cfg
        self.method = method
        self.tokenizer = tokenizer
        self.render = render
        self.quarantine = quarantine
        self.keys: list[str] = []
        self.notices: list[str] = []
        self.bad: list[Mapping[str, Any]] = []

    def store(self, part: str, files: Sequence[str], chosen: Callable[[Record], bool]) -> ItemStore:
        """The items of the chosen records; made once, found again by the hash of all that decides them."""
        rows = reading(self.cfg, files, check=getattr(self.render, "check", None))
        self.render.begin_part()
        made = build(
            self._kept(part, rows, chosen),
            lambda record: self.method.items(record, cast(Any, self.render)),
            key=self._key(part, files),
            folder=cache_folder("rows"),
            summary=lambda: self._summary(rows),
            say=self.notices.append,
            nothing=lambda: self._nothing(part),
        )
        self._tell(part, made.summary)
        return made

    def _kept(self, part: str, rows: Reading, chosen: Callable[[Record], bool]) -> Iterator[Record]:
        empty = True
        for record in rows:
            if chosen(record):
                empty = False
                yield record
        if empty:
            raise DataError(
                f"{part}: none of the {counted(rows.counts['kept'], 'record')} falls into it",
                next_step="choose another validation_share or train_share, or name a validation_file",
            )

    def _nothing(self, part: str) -> str:
        reasons = ", ".join(f"{counted(count, 'row')}: {reason}" for reason, count in self.render.left_out.items())
        return f"{part}: every row is left out: {reasons}" if reasons else ""

    def _summary(self, rows: Reading) -> dict[str, Any]:
        return {
            "form": rows.form,
            "left_out": dict(self.render.left_out),
            "truncated": self.render.truncated,
            "contradictions": self.render.contradictions,
            "thumbs": [getattr(self.render, "thumbs", {}).get(good, 0) for good in (True, False)],
            "cut_through": getattr(self.render, "cut_through", 0),
            "bad": [row.as_dict() for row in rows.bad],
        }

    def _tell(self, part: str, summary: Mapping[str, Any]) -> None:
        """From the store's own summary, so that a store that was found again says the same."""
        for reason, count in summary["left_out"].items():
            self.notices.append(f"{part}: {counted(count, 'row')} left out: {reason}")
        if summary["contradictions"]:
            what = "thumb" if summary["form"] == "unpaired" else "pair"
            self.notices.append(
                f"{part}: {counted(summary['contradictions'], what)} say the opposite of an earlier one; all are kept"
            )
        up, down = summary.get("thumbs", (0, 0))
        if part == "train" and (up > 0) != (down > 0):
            self.notices.append(
                f"{part}: all {counted(up or down, 'thumb')} are {'up' if up else 'down'}: what to "
                f"{'avoid' if up else 'say instead'} is not learnt"
            )
        if summary["cut_through"]:
            self.notices.append(
                f"{part}: {counted(summary['cut_through'], 'span')} begin or end inside a token; no tag can mark them exactly"
            )
        if summary["truncated"]:
            self.notices.append(
                f"{part}: {counted(summary['truncated'], 'row')} cut to max_length {self.cfg.max_length}"
            )
        known = {(row["file"], row["line"], row["offset"]) for row in self.bad}  # both parts may be of one file
        if new := [row for row in summary["bad"] if (row["file"], row["line"], row["offset"]) not in known]:
            self.bad += new
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.bad)
            atomic_write(self.quarantine, lines)
            self.notices.append(f"{part}: {counted(len(new), 'bad row')} left out, see {self.quarantine}")

    def _key(self, part: str, files: Sequence[str]) -> str:
        settings = {name: getattr(self.cfg, name, None) for name in DECIDING} | {"part": part}
        if part == "train" and self.cfg.train_share < 1:
            settings |= {"train_share": self.cfg.train_share, "train_share_seed": self.cfg.train_share_seed}
        template = self.render.template_sha256
        self.keys.append(_key(self.cfg, files, tokenizer=self.tokenizer, template=template, settings=settings))
        return self.keys[-1]


def _packed(cfg: TrainingSettings, store: ItemStore) -> Items:
    return Packed(store, tokens=cfg.max_length) if getattr(cfg, "packing", False) else store


def _spread(train: Items) -> Items:
    """Some items of the training data, spread over it evenly."""
    stride = max(1, len(train) // LOOKED_AT_WITHOUT_VALIDATION)
    return [train[index] for index in range(0, len(train), stride)][:LOOKED_AT_WITHOUT_VALIDATION]


def _first(records: Iterable[Record], chosen: Callable[[Record], bool], count: int) -> tuple[Record, ...]:
    return tuple(islice((record for record in records if chosen(record)), count)) if count else ()
