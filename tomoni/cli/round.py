"""`tomoni round W`: what people said becomes a candidate, people judge it blind, the gate decides."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomoni.cli.options import invoke
from tomoni.errors import UserError

if TYPE_CHECKING:
    from tomoni.loop.round import Played

LOOK_EVERY = 5.0  # seconds, with --wait


def command(argv: list[str]) -> int:
    return invoke(play, argv, verb="round")


def play(
    workspace: Annotated[Path, typer.Argument(metavar="W", help="a workspace")],
    wait: Annotated[bool, typer.Option("--wait", help="look again as people judge, until it is decided")] = False,
    new: Annotated[bool, typer.Option("--new", help="begin another round, though one is still undecided")] = False,
    method: Annotated[str, typer.Option(help="auto, learn, kto, dpo, grpo or ppo: how it trains")] = "auto",
    pairs: Annotated[int, typer.Option(min=8, max=2000, help="put before people, at most")] = 60,
    prompts: Annotated[int | None, typer.Option(min=1, help="to learn from at most (120)")] = None,
    replay: Annotated[
        float, typer.Option(metavar="SHARE", help="of the training that is what was learnt before, 0 (none) to 0.9")
    ] = 0.0,
    threads: Annotated[int | None, typer.Option(min=1, help="cores to train with (default: all)")] = None,
    price_per_hour: Annotated[float, typer.Option(min=0, help="US dollars for an hour of this machine")] = 0.10,
    as_json: Annotated[bool, typer.Option("--json", help="print the decision as JSON only")] = False,
) -> None:
    """Go on with the workspace's open round, or begin one.

    A candidate is trained on what people said; its answers to prompts that are held out stand blind beside those of the
    version that is served, in the studio's Judge. Run it again once people have judged: it promotes, keeps, or says about
    how many judgements are missing. Killed at any moment, it goes on where it was.
    """
    from tomoni.feedback.workspace import find
    from tomoni.loop.methods import METHODS
    from tomoni.loop.replay import require_share
    from tomoni.loop.round import Wanted, play

    if not workspace.is_dir():
        raise UserError(f"there is no workspace {str(workspace)!r}", next_step="name the folder of the studio")
    if method not in ("auto", *METHODS):
        raise UserError(f"--method {method!r} is not known", choices=["auto", *METHODS])
    wanted = Wanted(workspace.resolve(), method, pairs, price_per_hour, threads, prompts, replay=require_share(replay))
    find(workspace)
    played = play(wanted, new=new)
    while wait and played.state == "waiting":
        if not as_json:
            print(f"{_line(played)}; looking again as people judge (Ctrl+C stops looking, nothing else)", flush=True)
        _until_more_is_said(workspace)
        played = play(wanted)
    if as_json:
        print(json.dumps({"state": played.state, "round": played.begun.number, **asdict(played.decision)}))
    else:
        _show(played, workspace)


def _until_more_is_said(workspace: Path) -> None:
    from tomoni.feedback.store import Store
    from tomoni.loop.roundfolder import take_in

    with Store.read(workspace) as store:
        before = store.sequence
    while True:
        time.sleep(LOOK_EVERY)
        take_in(workspace)
        with Store.read(workspace) as store:
            if store.sequence > before:
                return


def _line(played: Played) -> str:
    from tomoni.loop.words import verdict

    return (
        f"round {played.begun.number}: {played.begun.base} -> {played.candidate.id}  {verdict(played.decision, 'en')}"
    )


def _show(played: Played, workspace: Path) -> None:
    from tomoni.loop.words import reason

    print(_line(played))
    signs = {"passed": "+", "failed": "-", "open": "?", "note": " "}
    for one in played.decision.reasons:
        print(f"  {signs[one.status]} {reason(one, 'en')}")
    print(f"\n{played.folder / 'report.html'}")
    if played.state == "waiting":
        print(f"next: judge in the studio (tomoni studio {workspace}), then tomoni round {workspace}")
    elif played.state == "promoted":
        print(f"{played.candidate.id} is served now; tomoni rollback {workspace} serves {played.begun.base} again")
    else:
        print(f"what was served stays; tomoni promote {workspace} {played.candidate.id} overrules the gate")
