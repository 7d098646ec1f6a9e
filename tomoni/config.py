"""YAML and dotted command-line overrides -> frozen models; every mistake at once, each with the place where it stands.

Scalars follow YAML 1.2 rather than PyYAML's 1.1: `1e-4` is a number, `no`, `off` and `2024-01-01` are text (a field
that wants a boolean still takes `no` and `off`), and a field that wants text takes a plain scalar as it was typed.
Anchors, aliases and tags are refused: a config is read by people. Secrets come from the environment, never from here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from tomoni import yamltext
from tomoni.errors import ConfigError, did_you_mean

LARGEST_FILE = 1_000_000  # bytes; a config is a page or two
SECRET = re.compile(r"(^|_)(api_?key|token|secret|password)$", re.IGNORECASE)

Key = tuple[str | int, ...]


class Frozen(BaseModel):
    """Base of every config: nothing changes after it is made, no key that is not declared, no inf or nan."""

    called_elsewhere: ClassVar[Mapping[str, str]] = {}  # what other tools call a key, and what it is here

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


Config = TypeVar("Config", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written: `label` is FILE:LINE or the option's name, `text` the scalar as it was typed."""

    label: str
    text: str | None = None


@dataclass(slots=True)
class Draft:
    """What has been read so far, with the place of every key and the mistakes found on the way."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, Place] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)

    def put(self, key: Key, value: Any, place: Place) -> None:
        """Sets a dotted key; what stood there before goes, with the places of its parts."""
        inner = self.values
        for depth, part in enumerate(key[:-1], start=1):
            below = inner.setdefault(str(part), {})
            if not isinstance(below, dict):
                self.mistakes.append(f'{place.label}: "{_dotted(key[:depth])}" is {below!r} and has no keys of its own')
                return
            inner = below
        inner[str(key[-1])] = value
        for old in [old for old in self.places if old[: len(key)] == key]:
            del self.places[old]
        self.places[key] = place

    def place(self, key: Key) -> Place | None:
        """Of the key itself or of the nearest one around it."""
        return next((self.places[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self.places), None)


def load(
    model_class: type[Config],
    path: Path | str | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """The config in `path`, over `defaults`, under `overrides`.

    `overrides` are command-line words (`--learning_rate 1e-4`, `--shape.hidden_size=64`, `--packing`, `--no-packing`,
    `--train_file a --train_file b`) or a mapping of dotted keys to values. Raises ConfigError with all mistakes at once.
    """
    return _validate(model_class, _draft(path, overrides, defaults or {}), path)


def load_by(
    classes: Mapping[str, type[Config]],
    path: Path | str | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    defaults: Mapping[str, Any] | None = None,
    *,
    key: str = "method",
) -> Config:
    """Like `load`; the top-level `key` says which of the classes."""
    draft = _draft(path, overrides, defaults or {})
    chosen = draft.values.get(key)
    if isinstance(chosen, str) and chosen in classes:
        return _validate(classes[chosen], draft, path)
    place = draft.place((key,))
    where = place.label if place else _where(path)
    what = f'{where}: key "{key}" is missing' if chosen is None else f"{where}: {key} is {chosen!r}"
    near = get_close_matches(str(chosen), classes, n=1)
    if chosen is not None:
        what += did_you_mean(str(chosen), tuple(classes))
    else:
        what += "".join(f'; is "{name}" meant?' for name in get_close_matches(key, draft.values, n=1))
    raise ConfigError(what, choices=tuple(classes), next_step=f'write "{key}: {(near or [*classes])[0]}" at the top')


def dump(config: BaseModel) -> str:
    """YAML text of the whole config, defaults written out; loading it gives an equal config."""
    plain = _plain(config.model_dump(mode="python"))
    text: str = yaml.dump(
        plain, Dumper=yamltext.Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=math.inf
    )
    return text


# reading


def _draft(path: Path | str | None, overrides: Sequence[str] | Mapping[str, Any], defaults: Mapping[str, Any]) -> Draft:
    draft = Draft()
    for key, value in _leaves(defaults):
        draft.put(key, value, Place("default"))
    if path is not None:
        _read_file(Path(path), draft)
    if isinstance(overrides, Mapping):
        for name, value in overrides.items():
            draft.put(tuple(name.split(".")), value, Place(name))
    else:
        for name, texts in _words(overrides, draft).items():
            _put_option(name, texts, draft)
    return draft


def _leaves(values: Mapping[str, Any], above: Key = ()) -> Iterator[tuple[Key, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value


def _read_file(path: Path, draft: Draft) -> None:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(
                f"{path} is larger than {LARGEST_FILE:,} bytes", next_step="name a config, not a data file"
            )
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        plain = (
            "" if path.suffix in (".yaml", ".yml") else "a config is a YAML file, and all else is named by its --key; "
        )
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}",
            next_step=f"{plain}check the name, or start from `tomoni init FOLDER`",
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: the file is not UTF-8", next_step="save it as UTF-8") from error
    try:
        node = yamltext.compose(text)
        if node is not None and not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}: expected `key: value` lines", next_step="start from `tomoni init FOLDER`")
        if node is not None:
            draft_of_file = Draft()
            draft_of_file.values = _mapping(node, (), path, draft_of_file)
            _merge(draft_of_file, draft)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(
            f"{path}:{line}: not YAML: {error.problem or error.context}", next_step=_not_a_config(path)
        ) from error
    except yaml.reader.ReaderError as error:
        raise ConfigError(
            f"{path}: not YAML: character {error.character!r} at {error.position}", next_step=_not_a_config(path)
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply", next_step=_not_a_config(path)) from error


def _not_a_config(path: Path) -> str:
    if path.suffix.lower() not in (".yaml", ".yml"):
        return "name a config (YAML) here; data files are named with --train_file"
    return "mend that line: one `key: value` a line, indented with spaces, text with a colon or # in quotes"


def _merge(above: Draft, draft: Draft) -> None:
    """Leaves of `above` replace those of `draft`."""
    for key, value in _leaves(above.values):
        draft.put(key, value, above.places[key])
    draft.places.update(above.places)
    draft.mistakes += above.mistakes


def _words(words: Sequence[str], draft: Draft) -> dict[str, list[str | None]]:
    """Options with their texts in the order given; a text of None is a bare flag."""
    found: dict[str, list[str | None]] = {}
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--") or word == "--":
            draft.mistakes.append(f'"{word}" is not an option; write --key value (for a further value the key again)')
            continue
        name, equals, text = word[2:].partition("=")
        value: str | None = text if equals else None
        if not equals and waiting and not waiting[0].startswith("--"):
            value = waiting.pop(0)
        found.setdefault(name.replace("-", "_"), []).append(value)
    return found


def _put_option(name: str, texts: list[str | None], draft: Draft) -> None:
    place = Place(f"--{name}", texts[0] if len(texts) == 1 else None)
    if texts == [None] and name.startswith("no_"):
        draft.put(tuple(name[3:].split(".")), False, place)
        return
    values = [True if text is None else _scalar_or_flow(text) for text in texts]
    draft.put(tuple(name.split(".")), values[0] if len(values) == 1 else values, place)


def _scalar_or_flow(text: str) -> Any:
    """A command-line text as YAML would read it; what is not YAML is text."""
    try:
        node = yamltext.compose(text)
        scratch = Draft()
        value = "" if node is None else _value(node, (), Path(), scratch)
    except (yaml.YAMLError, RecursionError):
        return text
    return text if scratch.mistakes else value


# YAML


def _mapping(node: yaml.MappingNode, above: Key, path: Path, draft: Draft) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        label = f"{path}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            draft.mistakes.append(f"{label}: a key must be plain text")
            continue
        name = str(key_node.value)
        key = (*above, name)
        if name in values:
            first = draft.places[key].label.rpartition(":")[2]
            draft.mistakes.append(f'{label}: key "{_dotted(key)}" stands twice, first on line {first}')
            continue
        draft.places[key] = Place(label, value_node.value if isinstance(value_node, yaml.ScalarNode) else None)
        values[name] = _value(value_node, key, path, draft)
    return values


def _value(node: yaml.Node, key: Key, path: Path, draft: Draft) -> Any:
    kind = node.tag.rpartition(":")[2]
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return _mapping(node, key, path, draft)
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        values = []
        for index, part in enumerate(node.value):
            text = part.value if isinstance(part, yaml.ScalarNode) else None
            draft.places[(*key, index)] = Place(f"{path}:{part.start_mark.line + 1}", text)
            values.append(_value(part, (*key, index), path, draft))
        return values
    if isinstance(node, yaml.ScalarNode) and kind in yamltext.SCALARS:
        try:
            return yamltext.SCALARS[kind](node.value)
        except ValueError:
            pass
    draft.mistakes.append(f"{path}:{node.start_mark.line + 1}: {_dotted(key)}: the tag {node.tag} is not read here")
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(inner) for inner in value]
    if isinstance(value, Enum):
        return _plain(value.value)
    return str(value) if isinstance(value, PurePath) else value


# validating


def _validate(model_class: type[Config], draft: Draft, path: Path | str | None) -> Config:
    try:
        config = _construct(model_class, draft)
    except ValidationError as error:
        mistakes = draft.mistakes + list(_explain(error.errors(include_url=False), model_class, draft, path))
        raise _all(mistakes, model_class) from error
    for key, value in _leaves(draft.values):
        taken: Any = config
        for part in key:
            taken = getattr(taken, str(part), None) if isinstance(taken, BaseModel) else None
        if isinstance(value, bool) and type(taken) in (int, float):
            place = draft.place(key)
            bare = value and place is not None and place.label == f"--{_dotted(key)}" and place.text is None
            draft.mistakes.append(
                f"{place.label} needs a value"
                if bare and place
                else f"{place.label if place else _where(path)}: {_dotted(key)} is {value}; expected a number"
            )
    if draft.mistakes:
        raise _all(draft.mistakes, model_class)
    return config


def _construct(model_class: type[Config], draft: Draft) -> Config:
    """Where a field wants text, a plain scalar counts as typed (`output_dir: 2024`, `revision: 010`)."""
    try:
        return model_class.model_validate(draft.values)
    except ValidationError as error:
        mended = [_as_typed(details, draft) for details in error.errors(include_url=False, include_context=False)]
        if not any(mended):
            raise
        return model_class.model_validate(draft.values)


def _as_typed(details: ErrorDetails, draft: Draft) -> bool:
    key = details["loc"]
    place = draft.places.get(key)
    if details["type"] != "string_type" or details["input"] is None or place is None or place.text is None:
        return False
    inner: Any = draft.values
    for part in key[:-1]:
        inner = inner[part]
    inner[key[-1]] = place.text
    return True


def _explain(
    errors: Sequence[ErrorDetails], model_class: type[BaseModel], draft: Draft, path: Path | str | None
) -> Iterator[str]:
    """One mistake for each key; the alternatives of a union are joined by "or"."""
    wanted: dict[Key, list[ErrorDetails]] = {}
    for details in errors:
        wanted.setdefault(_real(details["loc"], draft.values, details["type"]), []).append(details)
    written = {key: number for number, key in enumerate(draft.places)}
    for key, about in sorted(wanted.items(), key=lambda entry: written.get(entry[0], len(written))):
        place = draft.place(key)
        where = place.label if place else _where(path)
        kind = about[0]["type"]
        if kind == "extra_forbidden":
            yield f"{where}: {_unknown(key, model_class)}"
        elif kind == "missing":
            yield f'{_where(path)}: key "{_dotted(key)}" is missing{_meaning(key, model_class)}'
        elif (misused := _misused(place, about[0]["input"])) is not None:
            yield misused
        elif not key:
            yield f"{where}: {' or '.join(_message(details) for details in about)}"
        else:
            value = "hidden" if SECRET.search(str(key[-1])) else repr(about[0]["input"])
            reasons = dict.fromkeys(_message(details) for details in about)
            yield f"{where}: {_dotted(key)} is {value}; {' or '.join(reasons)}"


def _meaning(key: Key, model_class: type[BaseModel]) -> str:
    """What a key is for, where its name does not say it."""
    field = model_class.model_fields.get(str(key[0])) if len(key) == 1 else None
    return f": {field.description}" if field is not None and field.description else ""


def _misused(place: Place | None, value: Any) -> str | None:
    """What is wrong with an option that came without its value, or several times where one value is wanted."""
    if place is None or not place.label.startswith("--") or place.text is not None:
        return None
    if value is True:
        return f"{place.label} needs a value"
    if isinstance(value, list):
        return f"{place.label} is given {len(value)} times ({', '.join(map(str, value))}); it takes one value"
    return None


def _real(loc: Key, values: Any, kind: str) -> Key:
    """The part of pydantic's location that names keys; it also names the members of a union."""
    key: list[str | int] = []
    inner = values
    for part in loc:
        inside = isinstance(inner, dict) and part in inner
        inside = inside or (isinstance(inner, list) and isinstance(part, int) and part < len(inner))
        if not inside:
            return (*key, part) if kind == "missing" and part == loc[-1] else tuple(key)
        key.append(part)
        inner = inner[part]
    return tuple(key)


def _message(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    if details["type"] == "literal_error":
        choices = [str(choice).strip("'") for choice in re.findall(r"'[^']*'|[^\s,]+", str(context["expected"]))]
        choices = [choice for choice in choices if choice != "or"]
        return f"possible: {', '.join(choices)}{did_you_mean(str(details['input']), choices)}"
    if details["type"] == "value_error":
        return str(context["error"])
    plain = {
        "string_type": "expected text",
        "string_too_short": "it must not be empty",
        "tuple_type": "expected one value or a list of them",
        "dict_type": "expected keys with values (on the command line --KEY.NAME VALUE)",
    }
    if details["type"] in plain:
        return plain[details["type"]]
    message = details["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"expected {message}" if message != details["msg"] else message


def _unknown(key: Key, model_class: type[BaseModel]) -> str:
    name = str(key[-1])
    if SECRET.search(name):
        return f'unknown key "{_dotted(key)}": secrets come from environment variables, never from a config'
    known = _fields_at(model_class, key[:-1])
    hint = _elsewhere(name, known, model_class) if len(key) == 1 else ""
    hint = hint or did_you_mean(name, known)
    parts = [choice for choice in known if name in choice or choice in name]
    if not hint and parts:
        hint = f" (did you mean {', '.join(parts[:5])}?)"
    possible = f"; possible: {', '.join(known)}" if len(known) <= 12 else ""
    return f'unknown key "{_dotted(key)}"{hint or possible}'


def _elsewhere(name: str, known: Sequence[str], model_class: type[BaseModel]) -> str:
    """The key here of one that another tool calls `name`, or nearly so."""
    names: Mapping[str, str] = getattr(model_class, "called_elsewhere", {})
    near = get_close_matches(name.replace("-", "_").lower(), (*names, *known), n=1, cutoff=0.7)
    return f' (here: "{names[near[0]]}")' if near and names.get(near[0]) in known else ""


def _fields_at(model_class: type[BaseModel], key: Key) -> tuple[str, ...]:
    """The keys that exist below `key`."""
    for part in key:
        described = model_class.model_fields.get(str(part))
        inner = _model_in(described.annotation) if described else None
        if inner is None:
            return ()
        model_class = inner
    return tuple(model_class.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)


def _all(mistakes: Sequence[str], model_class: type[BaseModel]) -> ConfigError:
    method = model_class.model_fields.get("method")
    keys = f"; `tomoni {method.default} --help` lists all keys" if method is not None else ""
    what = mistakes[0]
    if len(mistakes) > 1:
        what = "\n".join([f"{len(mistakes)} mistakes in the config:", *(f"  {mistake}" for mistake in mistakes)])
    return ConfigError(what, next_step=f"mend {'it' if len(mistakes) == 1 else 'them'} and run again{keys}")


def _where(path: Path | str | None) -> str:
    return str(path) if path is not None else "config"


def _dotted(key: Key) -> str:
    return ".".join(str(part) for part in key)
