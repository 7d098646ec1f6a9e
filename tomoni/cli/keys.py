"""The keys of a method's config as help text: name, kind of value, default, and the comment that stands beside the key
in `tomoni/settings`, so that help and source cannot disagree. No torch.
"""

from __future__ import annotations

import ast
import inspect
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel

from tomoni.settings import common, reference, replay, rollouts, watching
from tomoni.settings.schedule import SCHEDULES

GROUPS: dict[type[BaseModel], str] = {
    rollouts.RolloutSettings: "Completions",
    rollouts.RewardSettings: "Rewards",
    watching.WatchSettings: "Watching for over-optimisation",
    reference.ReferenceSettings: "The reference",
    common.DataSettings: "Data",
    common.TrainedPart: "What is trained",
    common.Optimization: "Learning",
    replay.ReplaySettings: "Replay",
    common.Hardware: "Hardware",
    common.Running: "The run",
}
KINDS = {
    "Positive": "number above 0", "Count": "integer", "Share": "0 to 1", "Beta": "0 to below 1", "Files": "FILE …", "Names": "NAME …", "Numbers": "NUMBER …", "Schedule": " | ".join(SCHEDULES),
    "str": "TEXT", "Filled": "TEXT", "Form": " | ".join(get_args(common.Form)), "int": "integer", "float": "number", "bool": "true or false",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    kind: str
    default: str
    about: str


def help_text(config: type[BaseModel]) -> str:
    """All keys, the method's own first. A key that the method sets anew is shown where it belongs, with its default."""
    own = {key.name: key for owner in _own(config) for key in keys_of(owner)}
    lines: list[str] = []
    shown: set[str] = set()
    for owner, title in GROUPS.items():
        if not issubclass(config, owner):
            continue
        keys = [own.get(key.name, key) for key in keys_of(owner)]
        shown |= {key.name for key in keys}
        lines += ["", f"{title}:", *_table(_with_defaults(keys, config))]
    rest = [key for name, key in own.items() if name not in shown and name != "method"]
    return "\n".join(["The method's own keys:", *_table(_with_defaults(rest, config)), *lines])


def _own(config: type[BaseModel]) -> list[type[BaseModel]]:
    """The config's class and, before it, those that it shares with its closest relatives alone."""
    shared = {known for owner in GROUPS for known in owner.__mro__}
    return [
        owner
        for owner in reversed(config.__mro__)
        if issubclass(owner, common.TrainingSettings) and owner is not common.TrainingSettings and owner not in shared
    ]


def keys_of(owner: type[BaseModel]) -> list[Key]:
    """The keys that the class itself declares, in order."""
    source = textwrap.dedent(inspect.getsource(owner))
    lines = source.splitlines()
    body = ast.parse(source).body[0]
    if not isinstance(body, ast.ClassDef):
        raise TypeError(f"{owner} is not a class")
    return [
        Key(node.target.id, _kind(node.annotation), "", _comment(lines, node))
        for node in body.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and not ast.unparse(node.annotation).startswith("ClassVar")
    ]


def _with_defaults(keys: list[Key], config: type[BaseModel]) -> Iterator[Key]:
    for key in keys:
        field = config.model_fields[key.name]
        default = "required" if field.is_required() else _text(field.get_default(call_default_factory=True))
        yield Key(key.name, key.kind, default, key.about)


def _text(value: Any) -> str:
    if isinstance(value, BaseModel):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or value in ((), {}, ""):
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _kind(annotation: ast.expr) -> str:
    match annotation:
        case ast.Subscript(value=ast.Name("Annotated"), slice=ast.Tuple([first, *_])):
            return _kind(first)
        case ast.Subscript(value=ast.Name("Literal"), slice=ast.Tuple(choices)):
            return " | ".join(str(ast.literal_eval(choice)) for choice in choices)
        case ast.Subscript(value=ast.Name("Literal"), slice=choice):
            return str(ast.literal_eval(choice))
        case ast.BinOp(left=left, right=ast.Constant(None)):
            return _kind(left)
        case ast.Name(name):
            return KINDS.get(name, "--KEY.NAME VALUE")
    return "--KEY.NAME VALUE" if ast.unparse(annotation).startswith("dict") else ast.unparse(annotation)


def _comment(lines: list[str], node: ast.AnnAssign) -> str:
    """The comment after the key, or the lines of comment right above it."""
    last = node.end_lineno or node.lineno
    after = lines[last - 1].encode()[node.end_col_offset or 0 :].decode()
    if "# " in after:
        return after.split("# ", 1)[1].strip()
    above: list[str] = []
    for line in reversed(lines[: node.lineno - 1]):
        if not line.strip().startswith("# "):
            break
        above.insert(0, line.strip()[2:])
    return " ".join(above)


def _table(keys: Iterator[Key]) -> list[str]:
    width = min(120, shutil.get_terminal_size((100, 20)).columns)
    lines = []
    for key in keys:
        about = f"{key.about}. " if key.about else ""
        text = (
            f"{key.kind}. {about}Default: {key.default}"
            if key.default != "required"
            else f"{key.kind}. {about}Required"
        )
        head = f"  --{key.name} "
        wrapped = textwrap.wrap(text, width=width - 34, break_long_words=False)
        if len(head) > 34:
            lines.append(head.rstrip())
            head = ""
        lines += [f"{head:<34}{wrapped[0]}", *(" " * 34 + part for part in wrapped[1:])]
    return lines
