"""A snapshot: what judgements resolved to at one moment, as files that the trainers read, named by their content. No torch.

W/snapshots/HASH/pairs.jsonl      prompt, chosen, rejected, margin, weight, noise       (dpo, reward, orpo, simpo)
                 ties.jsonl       prompt, first, second: about equal                     (the reward head)
                 sft.jsonl        prompt, completion                                    (sft)
                 thumbs.jsonl     prompt, completion, label, weight                     (kto)
                 snapshot.json    counts, what was left out and why, whose judgements it holds
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomoni.durable import sync, write_synced
from tomoni.errors import DataError
from tomoni.feedback.schema import dumps
from tomoni.feedback.workspace import naming
from tomoni.records import Chat, Comparison, Message, Rated, Verdict

FOLDER = "snapshots"
DESCRIPTION = "snapshot.json"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    hash: str  # SHA-256 of the rows
    comparisons: list[Comparison]  # in stored order; ties among them
    corrections: list[Chat]
    thumbs: list[Rated]
    left_out: Mapping[str, int]
    people: tuple[str, ...]  # whose judgements are in it
    judgements: int  # that are in it

    @classmethod
    def of(
        cls,
        comparisons: list[Comparison],
        corrections: list[Chat],
        thumbs: list[Rated],
        *,
        left_out: Mapping[str, int],
        people: tuple[str, ...],
        judgements: int,
    ) -> Snapshot:
        files = _files(comparisons, corrections, thumbs)
        return cls(_hash(files), comparisons, corrections, thumbs, left_out, people, judgements)

    @property
    def ties(self) -> int:
        return sum(comparison.verdict is Verdict.TIE for comparison in self.comparisons)

    @property
    def empty(self) -> bool:
        return not (self.comparisons or self.corrections or self.thumbs)

    def files(self) -> dict[str, str]:
        """Each file's content by its name."""
        description = {
            "schema": SCHEMA,
            "hash": self.hash,
            "counts": {
                "comparisons": len(self.comparisons) - self.ties,
                "ties": self.ties,
                "corrections": len(self.corrections),
                "thumbs": len(self.thumbs),
            },
            "left_out": dict(self.left_out),
            "people": list(self.people),
            "judgements": self.judgements,
        }
        rows = _files(self.comparisons, self.corrections, self.thumbs)
        return rows | {DESCRIPTION: json.dumps(description, indent=1, ensure_ascii=False) + "\n"}

    def write(self, workspace: str | Path) -> Path:
        """W/snapshots/HASH, whole or not at all; DiskError. The same snapshot is written once."""
        root = Path(workspace).expanduser() / FOLDER
        final = root / self.hash
        files = self.files()
        if is_whole(final) and (final / DESCRIPTION).read_text(encoding="utf-8") == files[DESCRIPTION]:
            return final
        with naming(final):
            root.mkdir(parents=True, exist_ok=True)
            staging = root / f".staging-{self.hash}-{os.getpid()}"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            for name, text in files.items():
                write_synced(staging / name, text.encode())
            sync(staging)
            remove(final)
            staging.rename(final)
            sync(root)
        return final


def _hash(files: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        content = files[name].encode("utf-8")
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _files(comparisons: Iterable[Comparison], corrections: Iterable[Chat], thumbs: Iterable[Rated]) -> dict[str, str]:
    pairs: list[dict[str, Any]] = []
    ties: list[dict[str, Any]] = []
    for comparison in comparisons:
        row, tie = _comparison_row(comparison)
        (ties if tie else pairs).append(row)
    return {
        "pairs.jsonl": _lines(pairs),
        "ties.jsonl": _lines(ties),
        "sft.jsonl": _lines(map(_chat_row, corrections)),
        "thumbs.jsonl": _lines(map(_thumb_row, thumbs)),
    }


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(dumps(row) + "\n" for row in rows)


def plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [{"role": message.role, "content": message.content, **message.extra} for message in messages]


def _comparison_row(comparison: Comparison) -> tuple[dict[str, Any], bool]:
    """The row, and whether it is a tie."""
    prompt, first, second = plain(comparison.prompt), plain(comparison.first), plain(comparison.second)
    match comparison.verdict:
        case Verdict.FIRST:
            sides = {"chosen": first, "rejected": second}
        case Verdict.SECOND:
            sides = {"chosen": second, "rejected": first}
        case Verdict.TIE | Verdict.BOTH_BAD:
            row = {"id": comparison.id, "prompt": prompt, "first": first, "second": second}
            return row | {"weight": comparison.weight} | _beside(comparison.extra), True
    judged = {"margin": comparison.margin, "weight": comparison.weight, "noise": comparison.noise}
    return {"id": comparison.id, "prompt": prompt, **sides, **judged} | _beside(comparison.extra), False


def _chat_row(chat: Chat) -> dict[str, Any]:
    body = {"id": chat.id, "prompt": plain(chat.messages[:-1]), "completion": plain(chat.messages[-1:])}
    return body | _beside(chat.extra)


def _thumb_row(rated: Rated) -> dict[str, Any]:
    body = {"id": rated.id, "prompt": plain(rated.prompt), "completion": plain(rated.completion)}
    return body | {"label": rated.good, "weight": rated.weight} | _beside(rated.extra)


def _beside(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Columns that no form reads; one object, so that none is taken for a form's own."""
    return {"origin": dict(extra)} if extra else {}


# -- on the disk -----------------------------------------------------------------------------------------------------


def describe(folder: Path) -> dict[str, Any]:
    """snapshot.json of a snapshot's folder; DataError where it is damaged."""
    path = folder / DESCRIPTION
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        return dict(body)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", next_step="remove the folder; it can be made again from the judgements"
        ) from error


def is_whole(folder: Path) -> bool:
    """Whether the rows are those that the folder's name is the hash of."""
    names = ("pairs.jsonl", "ties.jsonl", "sft.jsonl", "thumbs.jsonl")
    try:
        files = {name: (folder / name).read_bytes().decode("utf-8") for name in names}
    except (OSError, ValueError):
        return False
    return _hash(files) == folder.name and (folder / DESCRIPTION).is_file()


def folders(workspace: Path) -> list[Path]:
    root = workspace / FOLDER
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def remove(folder: Path) -> None:
    """Gone for whoever looks at once, then deleted."""
    if folder.exists():
        aside = folder.with_name(f".removed-{folder.name}-{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        sync(folder.parent)
        shutil.rmtree(aside)
