"""Rehearsal with simulated people against a hidden taste: experiments E0, E2, E3 and E4.

Everything is fixed by the protocol (rehearse_people.yaml). Seeds are paired: each arm sees the same world, people and,
where it does not choose them, pairs and answers. Simulated people do not learn; what a simulation cannot show stands in
docs/science.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from tomoni.errors import ConfigError
from tomoni.loop.rehearse_asking import e2
from tomoni.loop.rehearse_blind import e0
from tomoni.loop.rehearse_figures import Figure
from tomoni.loop.rehearse_pool import e4, e4_others, e4_skill
from tomoni.loop.rehearse_protocol import Protocol, protocol
from tomoni.loop.rehearse_value import e3

__all__ = ["EXPERIMENTS", "Figure", "Protocol", "protocol", "rehearse"]

EXPERIMENTS: Mapping[str, Callable[[Protocol], Iterator[Figure]]] = {
    "E0": e0,
    "E2": e2,
    "E3": e3,
    "E4": e4,
    "E4-SKILL": e4_skill,
    "E4-OTHERS": e4_others,
}


def rehearse(p: Protocol, only: Sequence[str] = ()) -> Iterator[Figure]:
    """Figures as they are found. Raises ConfigError for an experiment that does not exist."""
    if strange := [name for name in only if name not in EXPERIMENTS]:
        raise ConfigError(f'no experiment "{strange[0]}"', choices=tuple(EXPERIMENTS))
    for name, experiment in EXPERIMENTS.items():
        if not only or name in only:
            yield from experiment(p)
