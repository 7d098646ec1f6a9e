"""What is known of a model when its card is written: from the files of its run, its base and the export. No torch.

Everything may be missing. What is not known is None here and "unknown" on the card; nothing is guessed. File and model
names are given without their folders, which belong to the machine and not to the model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tomoni.hub import BUNDLED, RESULTS, Located, locate

WEIGHTS: Final = (".safetensors", ".gguf", ".onnx", ".data")
_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LICENCE: Final = re.compile(r"[A-Za-z0-9.+-]{1,60}")
_LANGUAGE: Final = re.compile(r"[a-z]{2,3}")


@dataclass(frozen=True, slots=True)
class DataFile:
    """`sha256` of the file as it is now; None where it is not there any more."""

    name: str
    use: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Base:
    """What the model was made from, by tuning or by changing its form. `hub` is its name on a hub, `sha256` covers all
    its files."""

    name: str
    hub: str | None = None
    revision: str | None = None
    sha256: str | None = None
    licence: str | None = None
    languages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """`run` is the run's name; `config`, `inputs`, `report` and `status` are its files, empty where there are none.

    `base` is None for a model that began with random weights, and where it is not known; without a run it is the model
    itself, or its adapter's. `weights` maps each weight file that was exported to its SHA-256, `files` each file of the
    export to its bytes.
    """

    name: str
    kind: str | None
    run: str | None
    config: Mapping[str, Any]
    inputs: Mapping[str, Any]
    report: Mapping[str, Any]
    status: Mapping[str, Any]
    data: tuple[DataFile, ...]
    base: Base | None
    from_nothing: bool
    weights: Mapping[str, str]
    files: Mapping[str, int]
    parity: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    config_sha256: str | None
    quarantined: int
    unreadable: tuple[str, ...]


def gather(folder: Path, located: Located, *, run: Path | None, evaluation: Path | None) -> Facts:
    """`folder` is the export's, with parity.json where a parity test was made. `run` is found from `located` if not
    given; `evaluation` is what `tomoni evaluate --json` wrote."""
    run = run or run_of(located)
    unreadable: list[str] = []
    config = _yaml(run / "config.yaml", unreadable) if run else {}
    inputs, report, status = (
        _json(run / f"{name}.json", unreadable) if run else {} for name in ("inputs", "report", "status")
    )
    from_nothing = bool(config) and config.get("model_name_or_path") is None
    untold = run is not None and not config and located.base is None
    return Facts(
        name=run.resolve().name if run else short(located.name),
        kind=_text(_json(located.model.folder / "config.json", unreadable).get("model_type")),
        run=run.resolve().name if run else None,
        config=config,
        inputs=inputs,
        report=report,
        status=status,
        data=_data(config),
        base=None if from_nothing or untold else _base(located, config, inputs),
        from_nothing=from_nothing,
        weights={name: found for name, found in located.files.items() if name.endswith(WEIGHTS)},
        files={path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()},
        parity=_json(folder / "parity.json", unreadable),
        evaluation=_json(evaluation, unreadable) if evaluation else {},
        config_sha256=_sha256(str(run / "config.yaml")) if run else None,
        quarantined=_lines(run / "quarantine.jsonl") if run else 0,
        unreadable=tuple(unreadable),
    )


def run_of(located: Located) -> Path | None:
    """The run whose result this is, if it lies in a run's folder."""
    above = located.folder.parent
    return above if located.folder.name in RESULTS and (above / "config.yaml").is_file() else None


def short(name: str) -> str:
    """A name that tells nothing of the machine: a hub's or a bundled model's as it is, of a folder its last part."""
    return name if not name.startswith(("/", "~", ".")) and not Path(name).exists() else Path(name).resolve().name


def origin(prompts_are: str) -> str:
    """Where the prompts of a parity test come from; of a file only its name."""
    start, named, file = prompts_are.partition("from ")
    return f"from {Path(file).name}" if named and not start else prompts_are


# -- data and base ---------------------------------------------------------------------------------------------------


def _data(config: Mapping[str, Any]) -> tuple[DataFile, ...]:
    named = [(name, "training") for name in _names(config.get("train_file"))]
    named += [(name, "replayed") for name in _names(config.get("replay_file"))]
    named += [(name, "held out") for name in _names(config.get("validation_file"))]
    return tuple(DataFile(Path(name).name, use, _sha256(name)) for name, use in named)


def _names(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [name for name in value or () if isinstance(name, str)]


def _base(located: Located, config: Mapping[str, Any], inputs: Mapping[str, Any]) -> Base:
    named = _text(config.get("model_name_or_path"))
    if named is None:
        return _as_located(located)
    model = inputs.get("model")
    known = model if isinstance(model, Mapping) else {}
    revision = _text(known.get("revision"))
    hub = named.split("@")[0] if revision else None
    folder = _folder(named) or (located.base.folder if located.base else None)
    return Base(
        short(named),
        hub if hub and _HUB_NAME.fullmatch(hub) else None,
        revision,
        _text(known.get("sha256")),
        *_said_in_card(folder),
    )


def _as_located(located: Located) -> Base:
    """Without a run: an adapter names its base, and of a whole model only its form is changed."""
    model = located.model
    hub = model.name.split("@")[0] if model.revision else None
    files = json.dumps(dict(model.files), sort_keys=True).encode()
    return Base(short(model.name), hub, model.revision, hashlib.sha256(files).hexdigest(), *_said_in_card(model.folder))


def _folder(named: str) -> Path | None:
    """Where a model lies that needs no network to be found."""
    kind, _, size = named.partition(":")
    if kind == "bundled" and size in BUNDLED:
        return locate(named).folder
    try:
        folder = Path(named).expanduser()
    except RuntimeError:  # of a user that there is not
        return None
    return folder if folder.is_dir() else None


def _said_in_card(folder: Path | None) -> tuple[str | None, tuple[str, ...]]:
    """Licence and languages that the base's own card states."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8") if folder else ""
        front = re.match(r"---\n(.*?)\n---(?:\n|$)", text, re.DOTALL)
        said = yaml.safe_load(front[1]) if front else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None, ()
    if not isinstance(said, dict):
        return None, ()
    licence, languages = said.get("license"), _names(said.get("language"))
    return (
        licence if isinstance(licence, str) and _LICENCE.fullmatch(licence) else None,
        tuple(language for language in languages if _LANGUAGE.fullmatch(language)),
    )


# -- files -----------------------------------------------------------------------------------------------------------


def _json(path: Path, unreadable: list[str]) -> dict[str, Any]:
    return _mapping(path, json.loads, unreadable)


def _yaml(path: Path, unreadable: list[str]) -> dict[str, Any]:
    return _mapping(path, yaml.safe_load, unreadable)


def _mapping(path: Path, parse: Any, unreadable: list[str]) -> dict[str, Any]:
    """The file's content; empty where there is none. One that cannot be read is named: the card says so."""
    try:
        body = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        body = None
    if not isinstance(body, dict):
        unreadable.append(path.name)
        return {}
    return body


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except OSError:
        return 0


def _sha256(name: str) -> str | None:
    """None for what is no readable file; a name in a config may be anything."""
    try:
        path = Path(name).expanduser()
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError, RuntimeError):
        return None
