"""The last part of `tomoni demo`: one round of the loop with simulated people, from their first judgement to the gate.

It is played in a workspace of its own, DEMO/round, so that what the simulated people like is not taught to the model that
you are asked to teach afterwards.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoni.cli.demo import Record
from tomoni.cli.demo_asking import drawn, greedy
from tomoni.world import bundled_world, held_out_questions, is_right

if TYPE_CHECKING:
    from rich.console import Console

    from tomoni.loop.rehearse_world import PersonKind
    from tomoni.loop.round import Played
    from tomoni.loop.simulated import Panel
    from tomoni.registry import Version

TASTE = 2  # likes politeness and detail
KINDS: tuple[PersonKind, ...] = ("trained", "trained", "crowd", "crowd", "crowd", "random", "position")
TOLD = {
    "trained": "reads carefully",
    "crowd": "reads, slips in a fifth of cases",
    "random": "clicks at random",
    "position": "clicks left",
}
TEACHING = 140  # judgements to learn from
BATCH = 20  # judgements between two looks at the evidence
TELL = 60  # judgements between two lines on the screen
MOST = 600  # judgements for the gate, after which it is left undecided
MEASURED = 600  # questions on which the taste itself is asked
MEASURED_SEED = 77


def show(folder: Path, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Play it in `folder`/round, with `folder`/run as the first version; the figures."""
    from tomoni.evaluate.subject import open_subject
    from tomoni.loop.round import Wanted, play
    from tomoni.loop.simulated import Panel
    from tomoni.loop.words import reason
    from tomoni.registry import Registry
    from tomoni.world import taste_of

    begin = time.monotonic()
    workspace = folder / "round"
    first = _open(workspace, folder / "run")
    panel = Panel.move_in(workspace, taste_of(TASTE), KINDS, seed=options.seed)
    console.print(
        f"\n[bold]A round with people.[/bold] {len(KINDS)} simulated people share a hidden taste. Some read\n"
        "carefully, some slip, one clicks at random, one always left. The loop sees what\n"
        "they say, never the taste, and not who is who.\n"
    )
    panel.teach(open_subject(first.model), first, TEACHING)
    console.print(f"  {TEACHING} judgements on pairs of {first.id}'s answers, chosen for what they teach")
    wanted = Wanted(workspace, price_per_hour=options.price_per_hour)
    with console.status("training a candidate on what they said …"):
        played = play(wanted)
    console.print(f"  {played.candidate.id} trained on it: {_tasks(played, first)}")
    if played.state == "waiting":
        console.print(f"  Its answers beside {first.id}'s, blind:")
    else:  # what it was tested on has decided
        why = " ".join(reason(one, "en") for one in played.decision.reasons if one.status == "failed")
        console.print(f"  [bold]kept back[/bold] before anybody was asked. {why}", soft_wrap=True)
    judged = told = 0
    while played.state == "waiting" and judged < MOST:
        count = panel.judge_round(BATCH)
        if not count:
            break
        judged += count
        played = play(wanted)
        if judged >= told + TELL or played.state != "waiting":
            told = judged
            console.print(f"    after {judged:3} judgements  {_line(played)}")
    body: dict[str, Any] = {
        "judgements": TEACHING,
        "gate_judgements": judged,
        "state": played.state,
        "folder": str(played.folder),
    }
    body |= _truth(panel, Registry.open(workspace), first, played, console, options.seed)
    body |= {"people": _people(panel, played, console), "seconds": time.monotonic() - begin}
    _say(console, body, options.price_per_hour)
    return body


def _open(workspace: Path, run: Path) -> Version:
    from tomoni.feedback.store import Store
    from tomoni.registry import Registry
    from tomoni.studio.opening import first_probes, first_prompts

    workspace.mkdir()
    registry = Registry.open(workspace)
    first = registry.promote(registry.register(run.resolve(), method="sft").id, reason="the demo's model")
    with Store.open(workspace) as store:
        store.add_person("demo", role="owner", lang="en")
        first_prompts(store, registry)
    first_probes(workspace, registry)
    return registry.get(first.id)


def _line(played: Played) -> str:
    from tomoni.loop.words import evidence

    decision = played.decision
    value, low, high = decision.win_rate
    said = f"{value:.0%} ({low:.0%} to {high:.0%})  evidence {evidence(decision.e_value)} of {evidence(math.exp(decision.needed))}"
    return said + {"promoted": "  [bold green]promoted[/bold green]", "kept": "  [bold]kept back[/bold]"}.get(
        played.state, ""
    )


def _truth(panel: Panel, registry: Any, first: Version, played: Played, console: Console, seed: int) -> dict[str, Any]:
    """What only a simulation can tell: the taste's own verdict, on questions that nobody was asked; and the facts."""
    from tomoni.evaluate.metrics import paired_bootstrap
    from tomoni.evaluate.subject import open_subject
    from tomoni.studio.opening import tasks

    world = bundled_world()
    known = {_asked(one) for one in tasks(world)}  # which the round has seen
    others = held_out_questions(world, MEASURED + len(known), MEASURED_SEED + seed)
    records: Sequence[Record] = [one for one in others if _asked(one) not in known][:MEASURED]
    models = [open_subject(registry.get(version.id).model) for version in (first, played.candidate)]
    before, after = ([texts[0] for texts in drawn(model, records, 1, seed=seed)] for model in models)
    found = panel.truth(before, after)
    right = [
        [float(is_right(text, record, world)) for text, record in zip(greedy(model, records), records, strict=True)]
        for model in models
    ]
    change = paired_bootstrap(*right)
    console.print(
        f"  The taste itself, on {MEASURED} other questions, prefers {played.candidate.id}:"
        f" [bold]{found.value:.0%}[/bold] ({found.low:.0%} to {found.high:.0%})\n"
        f"  Right answers: {100 * change.value:+.1f} points ({100 * change.low:+.1f} to {100 * change.high:+.1f})"
    )
    return {"taste_prefers": asdict(found), "right_change": asdict(change)}


def _asked(record: Record) -> tuple[str, str, str]:
    return record["entity"], record["fact"], record["lang"]


def _tasks(played: Played, first: Version) -> str:
    """How the round guards what is known already."""
    stage = json.loads((played.folder / "probes" / "stage.json").read_text(encoding="utf-8"))
    known = stage["output"]["capability"]
    right, of = sum(known["candidate"]), len(known["base"])
    return f"{right} of {of} answers known to the owner right, {first.id} had {sum(known['base'])}"


def _people(panel: Panel, played: Played, console: Console) -> list[dict[str, Any]]:
    stage = json.loads((played.folder / "people" / "stage.json").read_text(encoding="utf-8"))
    known = stage["output"]["people"]
    rows = [
        {"name": one.name, "is": TOLD[one.person.kind], "weight": round(known[one.id]["weight"], 2)}
        for one in panel.members
        if one.id in known
    ]
    console.print("  How the round weighs the people (1 is perfect), by what they said alone:")
    for row in sorted(rows, key=lambda row: -row["weight"]):
        console.print(f"    {row['name']:<8} {max(row['weight'], 0.0):4.2f}   {row['is']}")
    return rows


def _say(console: Console, body: dict[str, Any], price: float) -> None:
    console.print(
        f"  {body['judgements']} + {body['gate_judgements']} judgements, {body['seconds']:.0f} s of machine"
        f" (${body['seconds'] / 3600 * price:.4f})\n  The round's page: {body['folder']}/report.html",
        soft_wrap=True,
    )
