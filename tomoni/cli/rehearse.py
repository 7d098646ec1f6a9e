"""`tomoni rehearse EXPERIMENT`: experiments with simulated people, by protocols that were fixed before the first run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tomoni.cli.options import invoke
from tomoni.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from tomoni.loop.rehearse_figures import Figure

HELP = """Usage: tomoni rehearse EXPERIMENT [options]

Experiments with simulated people; `tomoni rehearse EXPERIMENT --help` for an experiment's options.

  people     what labels are worth, who gives good ones, and which pairs to ask (minutes; --quick: seconds)
  gate       how often a candidate that is no better is promoted, and how many judgements that takes
  poison     whether people who lie about one topic can get a candidate promoted that is worse there
  rounds     the loop against offline training, over-optimisation, and ten rounds with the gate
"""


Quick = Annotated[bool, typer.Option("--quick", help="the small tier: shows that it runs, proves nothing")]
FirstSeed = Annotated[int | None, typer.Option("--first-seed", help="other seeds than the protocol's, to look around")]
AsJson = Annotated[Path | None, typer.Option("--json", help="write the figures to this file as well")]


def people(
    quick: Quick = False,
    only: Annotated[
        str, typer.Option("--only", help="some experiments: E0, E2, E3, E4, E4-auc, E4-skill, E4-others, with commas")
    ] = "",
    world: Annotated[str, typer.Option("--world", help="some worlds: linear, curved, texts, with commas")] = "",
    first_seed: FirstSeed = None,
    as_json: AsJson = None,
) -> None:
    """Simulated annotators against a hidden taste: experiments E0, E2, E3 and E4 of docs/science.md."""
    from tomoni.loop.rehearse_people import protocol, rehearse

    fixed = protocol(quick=quick, first_seed=first_seed, worlds=_listed(world.lower()))
    seeds = f"{fixed.seeds.first} to {fixed.seeds.first + fixed.seeds.count - 1}"
    print(f"protocol {fixed.sha256}, seeds {seeds}" + (", quick tier: figures prove nothing" if quick else ""))
    if first_seed is not None:
        print("these are not the protocol's seeds")
    _tell(rehearse(fixed, _listed(only.upper())), fixed.sha256, seeds, quick, as_json)


def _tell(figures: Iterable[Figure], sha256: str, seeds: str, quick: bool, as_json: Path | None) -> None:
    found = []
    for figure in figures:
        found.append(figure)
        verdict = "" if figure.met is None else f"   {'met' if figure.met else 'NOT met'}: {figure.criterion}"
        numbers = f"{number(figure.value):>8} ({number(figure.low)} to {number(figure.high)})"
        print(f"{figure.experiment}  {numbers:<30} {figure.name}{verdict}", flush=True)
    if as_json:
        report = {"protocol": sha256, "seeds": seeds, "quick": quick, "figures": [asdict(one) for one in found]}
        as_json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _listed(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def number(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.3g}"


def gate(
    quick: Quick = False,
    first_seed: FirstSeed = None,
    as_json: AsJson = None,
) -> None:
    """False promotions under constant looking, and judgements needed: experiment E6 of docs/rounds.md."""
    from tomoni.loop.rehearse_gate import protocol, rehearse

    fixed = protocol(quick=quick, first_seed=first_seed)
    first, last = fixed.seeds("nulls")[0], max(fixed.seeds("nulls")[-1], fixed.seeds("candidates")[-1])
    print(
        f"protocol {fixed.sha256}, seeds {first} to {last}" + (", quick tier: figures prove nothing" if quick else "")
    )
    if first_seed is not None:
        print("these are not the protocol's seeds")
    _tell(rehearse(fixed), fixed.sha256, f"{first} to {last}", quick, as_json)


def poison(
    quick: Quick = False,
    first_seed: FirstSeed = None,
    as_json: AsJson = None,
) -> None:
    """A fifth of the people lie about one topic, in training and in the gate (docs/rounds.md)."""
    from tomoni.loop.rehearse_poison import protocol, rehearse

    fixed = protocol(quick=quick, first_seed=first_seed)
    seeds = f"{fixed.seeds[0]} to {fixed.seeds[-1]}"
    print(f"protocol {fixed.sha256}, seeds {seeds}" + (", quick tier: figures prove nothing" if quick else ""))
    if first_seed is not None:
        print("these are not the protocol's seeds")
    _tell(rehearse(fixed), fixed.sha256, seeds, quick, as_json)


def rounds(
    quick: Quick = False,
    only: Annotated[str, typer.Option("--only", help="some experiments: E1, E5, E8, with commas")] = "",
    tier: Annotated[
        str, typer.Option("--tier", help="numbers (minutes), or model: a language model of the package")
    ] = "numbers",
    first_seed: FirstSeed = None,
    as_json: AsJson = None,
) -> None:
    """Loop against offline, over-optimisation, ten rounds: experiments E1, E5 and E8 of docs/rounds.md."""
    from tomoni.loop.rehearse_rounds import protocol, rehearse

    which = TIERS.get(tier)
    if which is None:
        raise UserError(f'no tier "{tier}"', choices=tuple(TIERS), next_step="tomoni rehearse rounds --help")
    fixed = protocol(quick=quick, first_seed=first_seed)
    seeds = f"{fixed.seeds(which)[0]} to {fixed.seeds(which)[-1]}"
    print(f"protocol {fixed.sha256}, seeds {seeds}" + (", quick tier: figures prove nothing" if quick else ""))
    if first_seed is not None:
        print("these are not the protocol's seeds")
    _tell(rehearse(fixed, _listed(only.upper()), which), fixed.sha256, seeds, quick, as_json)


TIERS: Mapping[str, Literal["numbers", "model"]] = {"numbers": "numbers", "model": "model"}
EXPERIMENTS: Mapping[str, Callable[..., None]] = {"people": people, "gate": gate, "poison": poison, "rounds": rounds}


def command(argv: list[str]) -> int:
    if not argv or argv[0] in ("--help", "-h"):
        print(HELP)
        return 0
    if argv[0] not in EXPERIMENTS:
        what = f'no rehearsal "{argv[0]}"{did_you_mean(argv[0], tuple(EXPERIMENTS))}'
        raise UserError(what, choices=tuple(EXPERIMENTS), next_step="tomoni rehearse --help")
    return invoke(EXPERIMENTS[argv[0]], argv[1:], verb=f"rehearse {argv[0]}")
