"""`tomoni why W VERSION|ANSWER`: where a version, or an answer that was given, comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tomoni.cli.family import cost, win_rate
from tomoni.cli.options import invoke
from tomoni.cli.promote import WORKSPACE
from tomoni.errors import RegistryError, UserError, counted
from tomoni.registry import Promotion, Registry, Version

SHOWN = 200  # characters of a prompt or an answer


@dataclass(frozen=True)
class Given:
    """An answer that was given."""

    id: str
    version: str
    version_hash: str
    prompt: str  # its last message
    text: str
    judgements: int


def command(argv: list[str]) -> int:
    return invoke(why, argv, verb="why")


def why(
    workspace: WORKSPACE,
    what: Annotated[str, typer.Argument(metavar="VERSION|ANSWER", help="v3, or the id of an answer or completion")],
    as_data: Annotated[bool, typer.Option("--json", help="everything that is recorded, for programs")] = False,
) -> int:
    """Trace a version to its run, its data and the people it learnt from, down to the first; an answer to its version."""
    registry = Registry.open(workspace)
    answer = None if what.startswith("v") and what[1:].isdecimal() else find(registry.workspace, what)
    line = _line(registry, what if answer is None else answer.version)
    if answer is not None and answer.version_hash != line[0].hash:
        raise RegistryError(
            f"the answer was given by a {answer.version} of another hash ({answer.version_hash[:12]})",
            next_step="look for it in the workspace that gave it",
        )
    moves = registry.history()
    if as_data:
        body = {
            "answer": asdict(answer) if answer else None,
            "line": [_data(registry, version, moves) for version in line],
        }
        print(json.dumps(body, ensure_ascii=False, indent=1))
        return 0
    if answer:
        print(f"answer {answer.id}\n  asked    {_short(answer.prompt)}\n  said     {_short(answer.text)}")
        if answer.judgements:
            print(f"  judged   {counted(answer.judgements, 'time')}")
    for version in line:
        print("\n".join(_told(registry, version, moves)))
    return 0


def _line(registry: Registry, id: str) -> list[Version]:
    """The version and those that it comes from, down to the first."""
    version = registry.get(id)
    line = [version]
    while version.base is not None and version.base not in [one.id for one in line]:
        version = registry.get(version.base)
        line.append(version)
    return line


def _told(registry: Registry, version: Version, moves: list[Promotion]) -> Iterator[str]:
    base = f"{version.method} on {version.base}" if version.base else version.method or "the beginning"
    yield f"{version.id}  {base}  {version.created[:16].replace('T', ' ')}  {version.hash[:12]}"
    facts = {
        "model": f"{version.model} ({_state(registry, version)})",
        "run": _run(version),
        "snapshot": _snapshot(registry, version),
        "learnt": f"{counted(version.judgements, 'judgement')} of {', '.join(version.people)}"
        if version.judgements
        else "",
        "config": ", ".join(f"{key}={value}" for key, value in version.config.items()),
        "measured": win_rate(version.evaluation),
        "cost": cost(version.cost),
        "served": "; ".join(_move(move) for move in moves if move.version == version.id),
        "note": version.note,
    }
    yield from (f"  {name:<8} {fact}" for name, fact in facts.items() if fact)


def _data(registry: Registry, version: Version, moves: list[Promotion]) -> dict[str, Any]:
    served = [asdict(move) for move in moves if move.version == version.id]
    return {**asdict(version), "state": _state(registry, version), "moves": served}


def _state(registry: Registry, version: Version) -> str:
    try:
        registry.verify(version)
    except UserError as error:
        return f"not as it was: {error.what}"
    return "whole"


def _run(version: Version) -> str:
    if version.run is None:
        return ""
    return version.run + ("" if Path(version.run).is_dir() else " (it is gone)")


def _snapshot(registry: Registry, version: Version) -> str:
    if version.snapshot is None:
        return ""
    folder = registry.workspace / "snapshots" / version.snapshot
    return (
        f"{version.snapshot[:12]} in {folder}"
        if folder.is_dir()
        else f"{version.snapshot[:12]} (not in this workspace)"
    )


def _move(move: Promotion) -> str:
    done = "from" if move.kind == "promote" else "again from"
    return f"{done} {move.at[:16].replace('T', ' ')}" + (f" ({move.reason})" if move.reason else "")


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN else flat[:SHOWN] + " …"


# -- answers ---------------------------------------------------------------------------------------------------------


def find(workspace: Path, id: str) -> Given:
    """An answer in the store, or still in the inbox; a completion's id means its first choice. Raises RegistryError."""
    names = (id, f"{id}-0")
    found = _in_store(workspace, names) or _in_inbox(workspace, names)
    if found is None:
        raise RegistryError(
            f"no version and no answer {id!r} in {workspace}",
            next_step="`tomoni log` shows the versions; answers are kept by `tomoni serve --workspace`",
        )
    return found


def _in_store(workspace: Path, names: tuple[str, ...]) -> Given | None:
    from tomoni.feedback.store import Store

    try:
        store = Store.read(workspace)
    except UserError:
        return None  # no database yet
    with store:
        for name in names:
            try:
                answer = store.answer(name)
                prompt = store.prompt(answer.prompt)
            except UserError:
                continue
            judged = sum(name in stored.judgement.extra.get("answers", ()) for stored in store.judgements())
            asked = prompt.messages[-1].content if prompt.messages else ""
            return Given(answer.id, answer.version, answer.version_hash, asked, answer.text, judged)
    return None


def _in_inbox(workspace: Path, names: tuple[str, ...]) -> Given | None:
    from tomoni.feedback.inbox import AnswerEvent, event_of

    for segment in sorted((workspace / "inbox").glob("[!.]*.jsonl")):
        for line in segment.read_bytes().splitlines():
            if not any(name.encode() in line for name in names):
                continue
            try:
                event = event_of(line)
            except (ValueError, KeyError, TypeError):
                continue
            if isinstance(event, AnswerEvent) and event.id in names:
                asked = event.messages[-1].content if event.messages else ""
                return Given(event.id, event.version, event.version_hash, asked, event.text, 0)
    return None
