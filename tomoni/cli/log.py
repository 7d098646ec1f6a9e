"""`tomoni log W`: the versions of a workspace as a family line."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tomoni.cli.family import as_json, drawn, told
from tomoni.cli.options import invoke
from tomoni.cli.promote import WORKSPACE
from tomoni.registry import Registry


def command(argv: list[str]) -> int:
    return invoke(log, argv, verb="log")


def log(
    workspace: WORKSPACE,
    as_data: Annotated[bool, typer.Option("--json", help="everything that is recorded, for programs")] = False,
    moves: Annotated[bool, typer.Option("--moves", help="promotions and rollbacks too")] = False,
) -> int:
    """The versions of a workspace: each above the one that it was trained from, with win rate and cost where known."""
    registry = Registry.open(workspace)
    versions, history = registry.versions(), registry.history()
    if as_data:
        print(json.dumps(as_json(versions, history), ensure_ascii=False, indent=1))
        return 0
    if not versions:
        print(f"no versions in {registry.workspace} yet; `tomoni promote {workspace} MODEL` makes the first")
        return 0
    current = history[-1].version if history else None
    below = ""
    for graph, version in drawn(versions):
        if version is None:
            print(graph)
            continue
        first, *more = told(version, current)
        print(f"{graph}  {first}")
        below = graph.replace("*", "|" if version.base else " ")
        for line in more:
            print(f"{below}    {line}")
    if moves:
        print()
        for move in history:
            why = f"  {move.reason}" if move.reason else ""
            print(f"{move.number:>4}  {move.at[:16].replace('T', ' ')}  {move.kind:<8}  {move.version}  {move.by}{why}")
    return 0
