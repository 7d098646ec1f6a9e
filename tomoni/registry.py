"""Model versions, where each comes from, and which one is served. No torch.

    W/versions/vN/version.json   what a version is: written once, never changed
    W/current.json               every promotion and rollback so far, the last one decides what is served
    W/registry.lock              held (flock) by who registers or promotes, for milliseconds

A version names its model's files with their SHA-256, so that what is loaded is what was judged. It is registered, and
the pointer moves, by one rename each of a file that is already on the disk: whoever looks, at whatever moment a process
was killed, finds the old state or the new one, never a third.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from tomoni import locking
from tomoni.durable import STAGING, atomic_write, naming_disk, sync, write_synced
from tomoni.errors import RegistryError, did_you_mean
from tomoni.hub import Located, hashes, locate, result_of

SCHEMA: Final = 1
VERSIONS: Final = "versions"
CURRENT: Final = "current.json"
LOCK: Final = "registry.lock"
BASE: Final = "base/"  # before the names of the files of an adapter's base
# what a model says depends on these files; reports and cards beside them may change
_OF_THE_MODEL = re.compile(
    r".*\.safetensors(\.index\.json)?|.*config\.json|tokenizer.*|.*\.model|vocab.*|merges\.txt|added_tokens\.json"
    r"|special_tokens_map\.json|chat_template.*|.*\.jinja"
)
_ID = re.compile(r"v[1-9]\d{0,8}")


@dataclass(frozen=True, slots=True)
class Version:
    """One model and its lineage. `model` is what `open_subject` takes; `files` maps each of its files (an adapter's
    base's under `base/`) to its SHA-256, and `hash` is the SHA-256 over these. `base` is the version it was trained
    from; `judgements` and `people` are what it learnt from besides; `created` is an ISO time in UTC, for display."""

    id: str
    hash: str
    model: str
    base: str | None = None
    method: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    run: str | None = None
    snapshot: str | None = None
    judgements: int = 0
    people: tuple[str, ...] = ()
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    created: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def number(self) -> int:
        return int(self.id[1:])


@dataclass(frozen=True, slots=True)
class Promotion:
    """One move of the pointer. `number` counts from 1 and orders them; `at` is an ISO time in UTC, for display."""

    number: int
    kind: Literal["promote", "rollback"]
    version: str
    hash: str
    previous: str | None
    reason: str
    by: str
    at: str


class Registry:
    """The versions of one workspace. Made by `open`; holds nothing open, so any number of processes may have one."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace

    @classmethod
    def open(cls, workspace: str | Path) -> Registry:
        """The registry of a workspace. Raises RegistryError where there is no such folder."""
        folder = Path(workspace).expanduser().resolve()
        if not folder.is_dir():
            raise RegistryError(
                f"there is no workspace {str(workspace)!r}",
                next_step="name a folder; any folder can become a workspace",
            )
        return cls(folder)

    # -- versions --------------------------------------------------------------------------------------------------

    def register(
        self,
        model: str | Path,
        *,
        base: str | None = None,
        method: str = "",
        config: Mapping[str, Any] | None = None,
        run: str | Path | None = None,
        snapshot: str | None = None,
        judgements: int = 0,
        people: Sequence[str] = (),
        evaluation: Mapping[str, Any] | None = None,
        cost: Mapping[str, Any] | None = None,
        note: str = "",
    ) -> Version:
        """Enter a model (a folder, a run's folder, `bundled:NAME` or a hub's) as the next version; it is not served yet.

        The same files with the same base, run and snapshot are the same version: registering them again, as after a
        kill, gives the one that is there. Raises ModelError or RunError where the model is not to be had, RegistryError
        where the base is unknown, DiskError.
        """
        if base is not None:
            self.get(base)
        located = locate(result_of(model))
        if run is None and Path(result_of(model)) != Path(model):
            run = model
        files = files_of(located)
        version = Version(
            id="v0",
            hash=hash_of(files),
            model=located.name,
            base=base,
            method=method,
            config=dict(config or {}),
            run=None if run is None else str(Path(run).expanduser().resolve()),
            snapshot=snapshot,
            judgements=judgements,
            people=tuple(people),
            evaluation=dict(evaluation or {}),
            cost=dict(cost or {}),
            note=note,
            created=_now(),
            files=files,
        )
        with self._alone():
            known = self.versions()
            for other in known:
                if _same(other, version):
                    return other
            version = replace(version, id=f"v{max((other.number for other in known), default=0) + 1}")
            self._write(version)
        return version

    def versions(self) -> list[Version]:
        """All versions, oldest first. Raises RegistryError that names what is damaged."""
        folder = self.workspace / VERSIONS
        names = [path.name for path in folder.iterdir() if _ID.fullmatch(path.name)] if folder.is_dir() else []
        return [self._read(name) for name in sorted(names, key=lambda name: int(name[1:]))]

    def get(self, id: str) -> Version:
        """Raises RegistryError for an id that no version has, or where its file is damaged."""
        if _ID.fullmatch(id) and (self.workspace / VERSIONS / id).is_dir():
            return self._read(id)
        known = [version.id for version in self.versions()]
        raise RegistryError(
            f"no version {id!r} in {self.workspace}{did_you_mean(id, known)}",
            choices=known[-20:],
            next_step="`tomoni log` shows the versions" if known else "register a model first",
        )

    def verify(self, version: Version) -> Located:
        """Where the version's model is, after every file was read and found to be as it was when it was registered.

        Raises RegistryError that names each file that is not, ModelError where the model is gone.
        """
        located = locate(version.model)
        found = files_of(located)
        problems = [f"{name} is missing" for name in sorted(version.files.keys() - found.keys())]
        problems += [f"{name} was not there before" for name in sorted(found.keys() - version.files.keys())]
        both = sorted(found.keys() & version.files.keys())
        problems += [f"{name} has changed" for name in both if found[name] != version.files[name]]
        if problems:
            raise RegistryError(
                f"{version.id} is not the model that was registered: " + "; ".join(problems),
                next_step=f"restore these files in {version.model} from a copy, or serve another version (`tomoni log` "
                "shows them)",
            )
        return located

    def _write(self, version: Version) -> None:
        final = self.workspace / VERSIONS / version.id
        with naming_disk(final, 0):
            final.parent.mkdir(parents=True, exist_ok=True)
            staging = final.with_name(STAGING + version.id)
            shutil.rmtree(staging, ignore_errors=True)
            os.mkdir(staging)
            write_synced(staging / "version.json", _sealed(self._portable(version)))
            sync(staging)
            os.rename(staging, final)
            sync(final.parent)
            sync(self.workspace)

    def _read(self, id: str) -> Version:
        path = self.workspace / VERSIONS / id / "version.json"
        body = _opened(path)
        try:
            for key in ("model", "run"):
                if isinstance(body[key], dict):
                    body[key] = str(self.workspace / body[key]["inside"])
            version = Version(**{**body, "people": tuple(body["people"])})
        except (KeyError, TypeError) as problem:
            raise _damaged(path, f"not a version ({problem})") from problem
        if version.id != id or hash_of(version.files) != version.hash:
            raise _damaged(path, "its id or hash does not belong to it")
        return version

    def _portable(self, version: Version) -> dict[str, Any]:
        """What lies inside the workspace is named from there, so that a workspace can be moved."""
        body = asdict(version)
        for key in ("model", "run"):
            if body[key] is not None and Path(body[key]).is_relative_to(self.workspace):
                body[key] = {"inside": str(Path(body[key]).relative_to(self.workspace))}
        return body

    # -- the pointer -----------------------------------------------------------------------------------------------

    def current(self) -> Version | None:
        """The version that is served; None before the first promotion. Raises RegistryError where it is damaged."""
        history = self.history()
        return self.get(history[-1].version) if history else None

    def history(self) -> list[Promotion]:
        """Every move of the pointer, oldest first."""
        path = self.workspace / CURRENT
        if not path.exists():
            return []
        try:
            history = [Promotion(**entry) for entry in _opened(path)["history"]]
        except (KeyError, TypeError) as problem:
            raise _damaged(path, f"not a list of promotions ({problem})") from problem
        if not history or history[-1].number != len(history):
            raise _damaged(path, "promotions are missing")
        return history

    def history_or_none(self) -> list[Promotion] | None:
        """The history; None where its file is damaged."""
        try:
            return self.history()
        except RegistryError:
            return None

    def promote(self, id: str, *, reason: str = "", by: str = "") -> Version:
        """Serve this version from now on; every file of its model is read and checked first.

        Promoting what is served already changes nothing. A current.json that is damaged is kept under another name and
        a new history begins. Raises RegistryError or ModelError (unknown, changed or lost), DiskError; what was served
        before is then still served.
        """
        version = self.get(id)
        self.verify(version)
        with self._alone():
            history = self._history_or_aside()
            if not (history and history[-1].version == id):
                self._point("promote", version, history, reason, by)
        return version

    def rollback(self, *, reason: str = "", by: str = "") -> Version:
        """Serve again what was served before the version of now; a second rollback goes one further back.

        Raises RegistryError where nothing was served before, or where that version is damaged: what is served stays.
        """
        with self._alone():
            history = self.history()
            before = _stack(history)[:-1]
            if not before:
                raise RegistryError(
                    "there is no version to go back to: "
                    + ("nothing was promoted yet" if not history else f"{history[-1].version} was the first"),
                    next_step="`tomoni promote` chooses a version, `tomoni log` shows them",
                )
            version = self.get(before[-1])
            self.verify(version)
            self._point("rollback", version, history, reason, by)
        return version

    def _point(
        self, kind: Literal["promote", "rollback"], version: Version, history: list[Promotion], reason: str, by: str
    ) -> None:
        previous = history[-1].version if history else None
        move = Promotion(len(history) + 1, kind, version.id, version.hash, previous, reason, by, _now())
        body = {"version": version.id, "hash": version.hash, "history": [asdict(one) for one in [*history, move]]}
        atomic_write(self.workspace / CURRENT, _sealed(body))

    def _history_or_aside(self) -> list[Promotion]:
        try:
            return self.history()
        except RegistryError:
            path = self.workspace / CURRENT
            aside = path.with_name(f"damaged-{CURRENT}")
            with naming_disk(path, 0):
                aside.unlink(missing_ok=True)
                os.link(
                    path, aside
                )  # a second name: until the new file replaces it, the damaged one stays in its place
            return []

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time. The lock ends with its process, however that ends."""
        with locking.wait(self.workspace / LOCK):
            yield


# -- hashes ----------------------------------------------------------------------------------------------------------


def files_of(located: Located) -> dict[str, str]:
    """SHA-256 of each file that decides what the model says: weights, configs, tokenizer, template; an adapter's base's
    too, under `base/`."""
    own = located.files or hashes(located.folder)
    found = {name: digest for name, digest in own.items() if _OF_THE_MODEL.fullmatch(name)}
    if located.base:
        found |= {BASE + name: digest for name, digest in files_of(located.base).items()}
    return found


def hash_of(files: Mapping[str, str]) -> str:
    """SHA-256 (64 hex digits) over lines `DIGEST  NAME`, sorted by name, as sha256sum writes them."""
    lines = "".join(f"{files[name]}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def _same(one: Version, other: Version) -> bool:
    return (one.hash, one.base, one.run, one.snapshot) == (other.hash, other.base, other.run, other.snapshot)


def _stack(history: Sequence[Promotion]) -> list[str]:
    """What was served, the version of now last; what was rolled back is gone from it."""
    stack: list[str] = []
    for move in history:
        if move.kind == "rollback":
            stack.pop()
        else:
            stack.append(move.version)
    return stack


# -- files that notice a flipped bit ---------------------------------------------------------------------------------


def _sealed(body: Mapping[str, Any]) -> bytes:
    """JSON with a SHA-256 of the rest."""
    whole = {"schema": SCHEMA, **body}
    return (json.dumps({**whole, "sha256": _seal(whole)}, indent=1, ensure_ascii=False) + "\n").encode(
        "utf-8", "surrogatepass"
    )


def _seal(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _opened(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as problem:
        raise _damaged(path, "cannot be read as JSON") from problem
    except OSError as problem:
        raise _damaged(path, problem.strerror or str(problem)) from problem
    if not isinstance(body, dict) or body.pop("sha256", None) != _seal(body):
        raise _damaged(path, "has other content than was written")
    if body.pop("schema", None) != SCHEMA:
        raise RegistryError(f"{path} was written by a newer tomoni", next_step="use the tomoni that wrote it, or newer")
    return body


def _damaged(path: Path, reason: str) -> RegistryError:
    mend = "promote a version: the damaged file is kept beside it" if path.name == CURRENT else "restore it from a copy"
    return RegistryError(f"{path} is damaged: {reason}", next_step=mend)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
