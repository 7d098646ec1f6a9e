"""What the served version was tuned on before, to be replayed beside what people taught, so that it is not forgotten.

    W/replay.jsonl      the owner's own rows: where the file is there, these and no others
    otherwise           the training data of the `sft` runs that the version comes from, as far as it is still there

What rounds and Learn trained on themselves is not replayed: it is what is learnt. Prompts that are held out stay out.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

from tomoni import config
from tomoni.data.read import read
from tomoni.durable import atomic_write
from tomoni.errors import DataError, UserError
from tomoni.feedback.entries import prompt_id
from tomoni.records import Chat, Message, Text
from tomoni.registry import Registry, Version
from tomoni.run.methods import METHODS, config_class
from tomoni.settings.common import TrainingSettings
from tomoni.settings.sft import FORMS
from tomoni.settings.sft import Config as Sft

OWN = "replay.jsonl"
MOST = 1000  # rows that are replayed, by the hash of their ids; more than a press or a round comes to
READ = 100_000  # of each file
BATCH = 8  # rows an update
LARGEST = 0.9  # share
MEND = "write rows of one form, with prompt and completion, or with messages; or --replay 0"
TRAINED_AGAIN = "trained_again_with_replay"  # a note of what a round tried
OURS = ("learn", "rounds")  # folders of a workspace whose runs learnt what people taught

Row = Chat | Text
From = Literal["owner", "tuning", "nothing", "off"]


@dataclass(frozen=True, slots=True)
class Replayed:
    """`share`: of the update, about. `source`: whose rows; `files`, as the run names them, of the runs of `versions`;
    `gone`: files that a run names and that are not there, or cannot be read. `file`: the rows, as they are given to a run."""

    share: float
    source: From
    rows: int = 0
    files: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    file: tuple[str, ...] = ()

    def settings(self, scale: float = 1.0) -> dict[str, Any]:
        """Of a run whose own gradient is about `scale` times as large as that of mean log-likelihoods."""
        if not self.rows:
            return {}
        coef = scale * self.share / (1 - self.share)
        return {"replay_file": self.file, "replay_batch_size": BATCH, "replay_coef": coef}

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "file"}


OFF: Final = Replayed(0.0, "off")


def require_share(share: float) -> float:
    if not 0 <= share <= LARGEST:
        raise UserError(
            f"--replay {share:g} is no share that can be replayed", next_step=f"give 0 (none) up to {LARGEST}"
        )
    return share


def gather(registry: Registry, base: Version, share: float, folder: Path, held_out: Collection[str]) -> Replayed:
    """The rows to replay, written into `folder`; `held_out` are the ids of prompts that must not be among them. DataError
    where the owner's own file cannot be read."""
    if not share:
        return OFF
    own = registry.workspace / OWN
    if own.is_file():
        records, found = _of_owner(own), Replayed(share, "owner", files=(OWN,))
    else:
        records, found = _of_line(registry, base, share)
    kept = heapq.nsmallest(MOST, [one for one in records if not _asks(one, held_out)], key=_place)
    if not kept:
        return Replayed(share, "nothing", gone=found.gone)
    file = _write(folder, kept)
    return Replayed(share, found.source, len(kept), found.files, found.versions, found.gone, file)


# -- where they come from --------------------------------------------------------------------------------------------


def _of_owner(file: Path) -> list[Row]:
    try:
        given = list(islice(read([file], wanted=FORMS), READ))
    except DataError as error:
        raise DataError(error.what, choices=error.choices, next_step=MEND) from error
    rows = [one for one in given if isinstance(one, Row)]
    if len(rows) < len(given):
        raise DataError(
            f"{file}: conversations and texts are replayed, and other rows stand in it",
            choices=FORMS,
            next_step=MEND,
        )
    return rows


def _of_line(registry: Registry, base: Version, share: float) -> tuple[list[Row], Replayed]:
    records: list[Row] = []
    files: list[str] = []
    versions: list[str] = []
    gone: list[str] = []
    for version, run, cfg in _tuned(registry, base):
        for file in cfg.train_file:
            place = _found(file, run, cfg.output_dir)
            some = None if place is None else _read(cfg, place)
            if some is None:
                gone.append(file)
                continue
            records += some
            files.append(file)
            versions += [version.id] if version.id not in versions else []
    return records, Replayed(share, "tuning", 0, tuple(files), tuple(versions), tuple(gone))


def _tuned(registry: Registry, base: Version) -> Iterator[tuple[Version, Path, Sft]]:
    """The sft runs of the line, the newest first, and what these began with in their turn."""
    version: Version | None = base
    seen: set[Path] = set()
    while version is not None:
        ours = [registry.workspace / name for name in OURS]
        run = Path(version.run) if version.run else _run_of(version.model)
        while run is not None and run not in seen and not any(run.is_relative_to(folder) for folder in ours):
            seen.add(run)
            cfg = _config(run)
            if isinstance(cfg, Sft):
                yield version, run, cfg
            start = None if cfg is None else getattr(cfg, "model_name_or_path", None)
            before = None if cfg is None or start is None else _found(start, run, cfg.output_dir)
            run = None if before is None else _run_of(str(before))
        version = registry.get(version.base) if version.base else None


def _run_of(model: str) -> Path | None:
    """The folder of the run that left this model, or that this names itself."""
    folder = Path(model).expanduser()
    return next((one.resolve() for one in (folder, folder.parent) if (one / "config.yaml").is_file()), None)


def _config(run: Path) -> TrainingSettings | None:
    with contextlib.suppress(UserError, OSError):
        return config.load_by({name: config_class(name) for name in METHODS}, run / "config.yaml")
    return None


def _found(name: str, run: Path, output_dir: str) -> Path | None:
    """What a run's config names, from where the run was started: the folder from which `output_dir` leads to the run, or
    one above it."""
    given = Path(name).expanduser()
    if given.is_absolute():
        return given if given.exists() else None
    parts = Path(output_dir).parts
    inside = not Path(output_dir).is_absolute() and run.parts[-len(parts) :] == parts
    starts = [Path(*run.parts[: -len(parts)])] if inside else []
    return next((place for start in (*starts, *run.parents) if (place := start / given).exists()), None)


def _read(cfg: Sft, file: Path) -> list[Row] | None:
    """What the run trained on: not its bad rows, nor those it held out. None where nothing can be read."""
    from tomoni.run.datasets import held_out, reading, trained_on

    try:
        rows = islice(reading(cfg, [str(file)], on_bad_rows="quarantine"), READ)
        trained = [one for one in rows if not held_out(one, cfg.validation_share) and trained_on(one, cfg)]
    except (UserError, OSError):
        return None
    return [one for one in trained if isinstance(one, Row)] or None


# -- which of them, and how they are written -------------------------------------------------------------------------


def _asks(record: Row, held_out: Collection[str]) -> bool:
    """Whether some turn of it answers a prompt that is held out."""
    if not isinstance(record, Chat):
        return False
    places = [place for place, message in enumerate(record.messages) if message.role == "assistant"]
    return any(prompt_id(_plain(record.messages[:place])) in held_out for place in places)


def _plain(messages: Sequence[Message]) -> tuple[Message, ...]:
    return tuple(Message(one.role, one.content, None, one.extra) for one in messages)


def _place(record: Row) -> bytes:
    return hashlib.sha256(record.id.encode("utf-8", "surrogatepass")).digest()


def _write(folder: Path, records: Sequence[Row]) -> tuple[str, ...]:
    """A file for each form, since a file has one."""
    files = []
    for kind, name in ((Chat, "replayed.jsonl"), (Text, "replayed-texts.jsonl")):
        rows = [_row(one) for one in records if isinstance(one, kind)]
        if rows:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            atomic_write(folder / name, text.encode("utf-8", "surrogatepass"))
            files.append(str(folder / name))
    return tuple(files)


def _row(record: Row) -> dict[str, Any]:
    if isinstance(record, Text):
        return {"id": record.id, "text": record.text}
    messages = [
        {**one.extra, "role": one.role, "content": one.content} | ({} if one.train is None else {"train": one.train})
        for one in record.messages
    ]
    row: dict[str, Any] = {"id": record.id, "messages": messages}
    row |= {"tools": [dict(tool) for tool in record.tools]} if record.tools else {}
    return row | ({"chat_template_kwargs": dict(record.template_kwargs)} if record.template_kwargs else {})
