"""Where a model is: a name becomes a folder on this machine, its commit and the SHA-256 of every file.

    locate("./my-model")                a folder in Hugging Face form, or a PEFT adapter (then `base` is located too)
    locate("bundled:small")             a model that comes with tomoni
    locate("org/name[@revision]")       fetched once from a hub, then pinned: the same name means the same files for
                                        good, and no network is needed again

Only safetensors, JSON and tokenizer files are ever fetched: a pickled file or Python code never reaches the disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tomoni
from tomoni.durable import atomic_write
from tomoni.errors import DiskError, ModelError, RunError, did_you_mean

BUNDLED: Final = ("small", "large", "encoder")
RESULTS: Final = ("model", "adapter")  # where a run leaves what it trained
FETCHED: Final = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")
# files in subfolders and "consolidated" weights are the same model once more in another program's form
NOT_FETCHED: Final = ("*/*", "consolidated*.safetensors")
PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
TO_CONVERT: Final = (
    "convert them to safetensors where you trust the source: load the model in transformers in an environment of its "
    "own and call save_pretrained(FOLDER); or look on the hub for a revision with *.safetensors"
)

_HUB_NAME = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[A-Za-z0-9][\w./-]{0,199}))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Located:
    """A model on this machine. `files` maps each file's name to its SHA-256; `revision` is the hub's commit.

    For an adapter `base` is the model it was trained on; `files` are the adapter's own.
    """

    name: str
    folder: Path
    revision: str | None
    files: Mapping[str, str]
    base: Located | None = None

    @property
    def model(self) -> Located:
        """The whole model: itself, or an adapter's base."""
        return self.base or self

    @property
    def tokenizer_folder(self) -> Path:
        """Where its tokenizer lies: an adapter may come with its own (a chat template was added), or use its base's."""
        own = any(name in self.files for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"))
        return self.folder if own else self.model.folder


def locate(name: str | Path, *, cache: Path | None = None, update: bool = False) -> Located:
    """Find `name`, fetching it if it is a hub's and not yet here.

    `cache` is the hub's cache folder (default: huggingface_hub's, which HF_HOME and HF_HUB_CACHE move). HF_ENDPOINT
    names another hub, HF_HUB_OFFLINE=1 forbids the network. `update` asks the hub again what a pinned branch means.

    Raises ModelError (absent, refused, damaged, changed) and DiskError.
    """
    found = _locate_one(str(name), cache, update)
    if not (found.folder / "adapter_config.json").is_file():
        return found
    return _with_base(found, cache)


def result_of(name: str | Path) -> str | Path:
    """The model or adapter inside a run's folder; any other name as it is. Raises RunError where a run has none yet."""
    folder = Path(name).expanduser()
    if not (folder / "config.yaml").is_file() or (folder / "config.json").is_file():
        return name
    for result in RESULTS:
        if (folder / result).is_dir():
            return folder / result
    raise RunError(
        f"the run in {folder} has no result yet",
        choices=[f"{folder / result}" for result in RESULTS],
        next_step="let the run finish: the same command that began it goes on from its last checkpoint",
    )


def _locate_one(name: str, cache: Path | None, update: bool) -> Located:
    kind, _, rest = name.partition(":")
    if kind == "bundled":
        return _bundled(rest)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Located(name=str(folder.resolve()), folder=folder.resolve(), revision=None, files=hashes(folder))
    if folder.is_file():
        raise ModelError(f"{name} is a file; a model is a folder", next_step="name the folder that holds config.json")
    asked = _HUB_NAME.fullmatch(name)
    if asked is None or ".." in name:
        raise ModelError(
            f"no model {name!r}{did_you_mean(name, _around(folder))}",
            choices=("a folder with config.json", *(f"bundled:{size}" for size in BUNDLED), "org/name[@revision]"),
            next_step="check the spelling; a folder is named from where the command runs",
        )
    return _Hub(asked["repo"], asked["revision"] or "main", cache).locate(name, update)


def _around(folder: Path) -> list[str]:
    """Folders beside the one that is not there, spelt as the user would."""
    try:
        return [str(folder.parent / other.name) for other in folder.parent.iterdir() if other.is_dir()][:1000]
    except OSError:
        return []


def _bundled(size: str) -> Located:
    if size not in BUNDLED:
        raise ModelError(
            f"no bundled model {size!r}{did_you_mean(size, BUNDLED)}", choices=[f"bundled:{known}" for known in BUNDLED]
        )
    folder = Path(tomoni.__file__).resolve().parent / "world" / "models" / size
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"the bundled model bundled:{size} is not in this installation ({folder})",
            next_step="install tomoni again from its wheel, or name a model folder or org/name of a hub",
        )
    return Located(name=f"bundled:{size}", folder=folder, revision=None, files=hashes(folder))


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a model folder that tomoni reads; the others are not opened."""
    names = sorted(
        path.name for path in folder.iterdir() if path.is_file() and any(path.match(pattern) for pattern in FETCHED)
    )
    return {name: _sha256(folder / name) for name in names}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise ModelError(
            f"cannot read {path}: {problem.strerror}", next_step="check the file and its permissions"
        ) from problem


def first_line(problem: Exception) -> str:
    """What another library says, without its page of advice."""
    return next(iter(str(problem).strip().splitlines()), "") or type(problem).__name__


# -- adapters ------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder; raises ModelError where it is missing or is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path.parent} has no {path.name}",
            next_step="name a folder in Hugging Face form: config.json, model.safetensors and a tokenizer",
        ) from None
    except (OSError, ValueError, RecursionError) as problem:
        raise ModelError(
            f"{path} cannot be read as JSON: {problem}", next_step="fetch or save the model again"
        ) from problem
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object", next_step="fetch or save the model again")
    return value


def context_of(folder: Path) -> int | None:
    """Tokens that the model in `folder` can look at, as its config.json says; None where it does not."""
    try:
        settings = read_json(folder / "config.json")
    except ModelError:
        return None  # whoever loads the model says what is wrong with it
    for place in (settings, settings.get("text_config")):
        if isinstance(place, dict) and isinstance(place.get("max_position_embeddings"), int):
            return int(place["max_position_embeddings"])
    return None


def _with_base(adapter: Located, cache: Path | None) -> Located:
    settings = read_json(adapter.folder / "adapter_config.json")
    base_name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(base_name, str) or not base_name:
        raise ModelError(
            f"the adapter {adapter.name} does not say which model it was trained on",
            next_step="write base_model_name_or_path into its adapter_config.json",
        )
    beside = adapter.folder / base_name  # so that an adapter and its base can be moved together
    if beside.is_dir():
        base_name = str(beside)
    if isinstance(revision, str) and revision and "@" not in base_name and not Path(base_name).expanduser().is_dir():
        base_name = f"{base_name}@{revision}"
    try:
        base = _locate_one(base_name, cache, update=False)
    except ModelError as problem:
        raise ModelError(
            f"the adapter {adapter.name} was trained on {base_name!r}, which is not to be had: {problem.what}",
            next_step="correct base_model_name_or_path in its adapter_config.json; " + problem.next_step,
        ) from problem
    if (base.folder / "adapter_config.json").is_file():
        raise ModelError(
            f"the adapter {adapter.name} was trained on {base.name}, itself an adapter",
            next_step="merge the inner adapter into its base first and name the merged folder",
        )
    return Located(adapter.name, adapter.folder, adapter.revision, adapter.files, base)


# -- hub -----------------------------------------------------------------------------------------------------------


class _Hub:
    """One repository of a hub, seen through huggingface_hub's cache and our record beside it."""

    def __init__(self, repo: str, revision: str, cache: Path | None) -> None:
        from huggingface_hub import constants  # 0.3 s; not needed for a local folder

        self.repo, self.revision = repo, revision
        # read at each call rather than when huggingface_hub was imported
        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self.offline = (
            os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE") or constants.is_offline_mode()
        )
        self.cache = Path(cache or constants.HF_HUB_CACHE).expanduser().absolute()
        self.home = self.cache / ("models--" + repo.replace("/", "--"))
        self.record_file = self.home / "tomoni.json"

    def locate(self, name: str, update: bool) -> Located:
        record = self._record()
        pinned = self.revision if _COMMIT.fullmatch(self.revision) else record["pins"].get(self.revision)
        if pinned in record["commits"] and not update:
            folder = self.home / "snapshots" / pinned
            if (whole := self._unchanged(folder, record["commits"][pinned])) is not None:
                return Located(f"{self.repo}@{pinned}", folder, pinned, whole)
        folder = self._fetch(pinned if pinned and not update else self.revision)
        commit = folder.name
        if not _COMMIT.fullmatch(commit):
            raise ModelError(
                f"the hub gave {commit!r} for {name}, which is no commit",
                next_step=f"check HF_ENDPOINT ({self.endpoint})",
            )
        files = self._checked(folder, record["commits"].get(commit, {}))
        record["pins"][self.revision] = commit
        record["commits"][commit] = files
        self._write(record)
        return Located(f"{self.repo}@{commit}", folder, commit, files)

    def _unchanged(self, folder: Path, recorded: Mapping[str, str]) -> dict[str, str] | None:
        """The recorded hashes if every file is here with the same content; None where one is missing."""
        if not all((folder / name).is_file() for name in recorded):
            return None
        for name, expected in recorded.items():
            if _sha256(folder / name) != expected:
                raise self._changed(name, folder)
        return dict(recorded)

    def _checked(self, folder: Path, recorded: Mapping[str, str]) -> dict[str, str]:
        files = hashes(folder)
        for name, found in files.items():
            if name in recorded and recorded[name] != found:
                raise self._changed(name, folder)
            _as_the_hub_named_it(folder / name, found)
        if not any(name.endswith(".safetensors") for name in files):
            self._refuse_without_safetensors(folder)
        return files

    def _changed(self, name: str, folder: Path) -> ModelError:
        return ModelError(
            f"{name} of {self.repo}@{folder.name} is not the file that was fetched first: its content changed",
            next_step=f"if you did not change it, ask why; to fetch the model afresh, delete {self.home}",
        )

    def _refuse_without_safetensors(self, folder: Path) -> None:
        from huggingface_hub import get_cached_repo_tree
        from huggingface_hub.errors import CachedRepoTreeNotFoundError

        try:
            names = [file.path for file in get_cached_repo_tree(self.repo, revision=folder.name, cache_dir=self.cache)]
        except CachedRepoTreeNotFoundError:
            names = []
        pickled = [name for name in names if name.endswith(PICKLED)]
        if pickled:
            raise ModelError(
                f"{self.repo} has its weights only as {', '.join(pickled[:3])}; "
                "pickled files can run code and are not opened",
                next_step=TO_CONVERT,
            )
        raise ModelError(
            f"{self.repo} has no weights (*.safetensors)", next_step="check that this is the model you mean"
        )

    def _fetch(self, revision: str) -> Path:
        from huggingface_hub import snapshot_download

        try:
            folder = snapshot_download(
                self.repo,
                revision=revision,
                cache_dir=self.cache,
                allow_patterns=list(FETCHED),
                ignore_patterns=list(NOT_FETCHED),
                endpoint=self.endpoint,
                local_files_only=self.offline,
            )
        except Exception as problem:
            raise self._explained(problem) from problem
        return Path(folder)

    def _explained(self, problem: Exception) -> Exception:
        """A ModelError or DiskError for what huggingface_hub raised; a stranger stays as it is."""
        from huggingface_hub import errors

        asked = f"{self.repo}@{self.revision}"
        match problem:
            case errors.GatedRepoError():
                return ModelError(
                    f"{self.repo} is gated: its owner asks you to accept terms first",
                    next_step=f"accept them on {self.endpoint}/{self.repo}, then log in (hf auth login, or HF_TOKEN)",
                )
            case errors.RepositoryNotFoundError():
                return ModelError(
                    f"no model folder {self.repo!r} here, and {self.endpoint} has no such model or it is private",
                    next_step="check the spelling; for a private model log in (hf auth login, or HF_TOKEN)",
                )
            case errors.RevisionNotFoundError():
                return ModelError(
                    f"{self.repo} has no revision {self.revision!r}", next_step="name a branch, a tag or a commit of it"
                )
            case errors.HFValidationError():
                return ModelError(f"{asked} is not a name that a hub has: {problem}", next_step="check the spelling")
            case OSError(errno=errno.ENOSPC):
                return DiskError(
                    f"no space left in {self.cache} for {asked}",
                    next_step="free space there, or set HF_HUB_CACHE to another disk",
                )
            case PermissionError():
                return DiskError(
                    f"no permission to write in {self.cache}", next_step="set HF_HUB_CACHE to a folder of your own"
                )
        if self.offline:
            return ModelError(
                f"{asked} is not (wholly) in {self.cache}, and HF_HUB_OFFLINE forbids the network",
                next_step="unset HF_HUB_OFFLINE for one run, or copy the model here and name its folder",
            )
        if isinstance(problem, OSError) or "httpx" in type(problem).__module__:
            return ModelError(
                f"there is no folder {self.repo!r} here, and {asked} could not be fetched from {self.endpoint}: "
                f"{first_line(problem)}",
                next_step="a folder: check its name; a model of the hub: check the network and run again (what has arrived is "
                "kept), or copy it here and name its folder",
            )
        return problem

    # the record: {"pins": {revision asked: commit}, "commits": {commit: {file: SHA-256}}}

    def _record(self) -> dict[str, dict[str, Any]]:
        if not self.record_file.exists():
            return {"pins": {}, "commits": {}}
        record = read_json(self.record_file)
        if not (isinstance(record.get("pins"), dict) and isinstance(record.get("commits"), dict)):
            raise ModelError(
                f"{self.record_file} is damaged", next_step=f"delete {self.home} and fetch the model again"
            )
        return record

    def _write(self, record: Mapping[str, Any]) -> None:
        text = json.dumps(record, indent=1, sort_keys=True) + "\n"
        atomic_write(self.record_file, text.encode())


def _as_the_hub_named_it(path: Path, sha256: str) -> None:
    """Raise ModelError where a file was damaged on the way.

    The hub names a large file by its SHA-256 and a small one by git's SHA-1, and the cache keeps that as the name of
    what the snapshot links to. Where the cache has no links (some file systems), nothing is known.
    """
    named = path.resolve().name
    if _SHA256.fullmatch(named):
        same = named == sha256
    elif _COMMIT.fullmatch(named):
        content = path.read_bytes()
        same = named == hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    else:
        return
    if not same:
        raise ModelError(
            f"{path.name} was damaged on the way: it is not what the hub announced",
            next_step=f"delete {path.resolve()} and run again",
        )
