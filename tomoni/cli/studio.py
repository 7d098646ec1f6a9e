"""`tomoni studio [FOLDER]`: the web pages, and the browser that shows them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from tomoni.errors import ConfigError

DESCRIPTION = """Chat with the model, judge its answers, teach it, and see what came of it, in a browser.
FOLDER keeps everything (default: this folder); any folder can become a workspace, and `make demo` makes one.
Nothing leaves this machine: the pages are for it alone, unless --host says otherwise, and then only with accounts."""


class _Options(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, next_step="tomoni studio --help")


def command(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    from tomoni.studio.run import Settings, run

    return run(
        Settings(
            workspace=Path(options.folder),
            model=options.model,
            host=options.host,
            port=options.port,
            browser=not options.no_browser,
            lang=options.lang,
            owner=options.owner,
            names=tuple(options.name),
            certificate=options.certificate,
            private_key=options.private_key,
            behind_proxy=options.behind_proxy,
            database=options.database,
            answers_a_minute=options.answers_a_minute,
        )
    )


def parser() -> argparse.ArgumentParser:
    made = _Options(
        "tomoni studio",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("folder", nargs="?", default=".", metavar="FOLDER")
    made.add_argument(
        "--model", help="a run, a model's folder, a hub's name or bundled:small, for a workspace without one"
    )
    made.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine only)")
    made.add_argument("--port", type=int, default=8420, help="0: any that is free (default: 8420, or a free one)")
    made.add_argument("--no-browser", action="store_true", help="print the address and open nothing")
    made.add_argument(
        "--lang", choices=("ja", "en"), help="the language of the pages (default: the browser's, until one is chosen)"
    )
    team = made.add_argument_group("for a team")
    team.add_argument("--owner", metavar="NAME", help="make or change the owner's account; asks for a password")
    team.add_argument(
        "--name", action="append", default=[], help="a name under which browsers reach it; may be repeated"
    )
    team.add_argument("--certificate", metavar="FILE", help="for TLS, with --private-key")
    team.add_argument("--private-key", metavar="FILE")
    team.add_argument("--behind-proxy", action="store_true", help="a proxy in front of it speaks TLS")
    team.add_argument(
        "--answers-a-minute",
        type=int,
        default=60,
        metavar="N",
        help="that one person may ask of the model (default: 60)",
    )
    team.add_argument("--database", metavar="URL", help="PostgreSQL instead of a file in FOLDER")
    return made
