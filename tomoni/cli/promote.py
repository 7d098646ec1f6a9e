"""`tomoni promote W VERSION`: serve this version from now on."""

from __future__ import annotations

import getpass
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from tomoni.cli.options import invoke
from tomoni.registry import CURRENT, Registry

WORKSPACE = Annotated[Path, typer.Argument(metavar="W", help="a workspace")]


def command(argv: list[str]) -> int:
    return invoke(promote, argv, verb="promote")


def promote(
    workspace: WORKSPACE,
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="as `tomoni log` shows it; a model or a run's folder becomes one")
    ],
    reason: Annotated[str, typer.Option(help="kept in the history")] = "",
) -> int:
    """Serve this version from now on: one step, whole whenever it is interrupted; twice is once.

    Every file of the model is read and compared with what was registered first. A server that follows the workspace
    loads it beside the old one and drops no request.
    """
    registry = Registry.open(workspace)
    aside = registry.workspace / f"damaged-{CURRENT}"
    damaged_before = aside.exists() and aside.stat().st_ino
    if not re.fullmatch(r"v\d+", version):
        version = registry.register(version).id
    history = registry.history_or_none()
    before = history[-1].version if history else None
    now = registry.promote(version, reason=reason, by=by())
    if history is None and aside.exists() and aside.stat().st_ino != damaged_before:
        print(f"note: the damaged {CURRENT} is kept as {aside}; the history begins anew", file=sys.stderr)
    print(f"{now.id} is served already" if before == now.id else f"{before or 'nothing'} -> {now.id}")
    return 0


def by() -> str:
    """Who does it, for the history."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""
