"""`tomoni rollback W`: serve again what was served before."""

from __future__ import annotations

from typing import Annotated

import typer

from tomoni.cli.options import invoke
from tomoni.cli.promote import WORKSPACE, by
from tomoni.registry import Registry


def command(argv: list[str]) -> int:
    return invoke(rollback, argv, verb="rollback")


def rollback(workspace: WORKSPACE, reason: Annotated[str, typer.Option(help="kept in the history")] = "") -> int:
    """Serve again what was served before the version of now; a second rollback goes one further back."""
    registry = Registry.open(workspace)
    now = registry.rollback(reason=reason, by=by())
    print(f"{registry.history()[-1].previous} -> {now.id}")
    return 0
