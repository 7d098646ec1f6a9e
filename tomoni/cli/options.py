"""How a verb reads its options: a typed function, called through typer, with mistakes as UserError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import typer

from tomoni.errors import UserError


def invoke(function: Callable[..., int | None], argv: list[str], *, verb: str) -> int:
    """Calls `function` with what `argv` says; its docstring and annotations are `tomoni VERB --help`.

    Gives the function's exit code (None counts as 0). Raises UserError for options that do not exist or do not fit.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(verb)(function)
    command: Any = typer.main.get_command(app)
    try:
        code = command.main(args=argv, prog_name=f"tomoni {verb}", standalone_mode=False)
    except Exception as error:
        # typer brings its own copy of click in some versions; both say what they found in format_message
        message = getattr(error, "format_message", None)
        if isinstance(error, click.exceptions.Abort) or type(error).__name__ == "Abort":
            raise KeyboardInterrupt from error
        if message is None:
            raise
        raise UserError(str(message()), next_step=f"tomoni {verb} --help") from error
    return int(code or 0)
