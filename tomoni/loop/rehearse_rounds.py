"""The rehearsal of rounds: E1 (loop against offline), E5 (over-optimisation) and E8 (ten rounds), by a fixed protocol.

Two tiers. `numbers`: a world made of numbers with a policy that learns in milliseconds (`rehearse_policy`); everything
that decides is the product's own code. `model`: a language model of the package, workspaces and `tomoni round` itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from tomoni.errors import ConfigError
from tomoni.loop.rehearse_caution import e5
from tomoni.loop.rehearse_figures import Figure
from tomoni.loop.rehearse_loop import e1
from tomoni.loop.rehearse_ten import e8

FILE: Final = Path(__file__).with_name("rehearse_rounds.yaml")
Tier = Literal["numbers", "model"]
EXPERIMENTS: Mapping[str, Callable[[Mapping[str, Any], range], Iterator[Figure]]] = {"E1": e1, "E5": e5, "E8": e8}


@dataclass(frozen=True, slots=True)
class Protocol:
    form: Mapping[str, Any]
    sha256: str
    quick: bool
    first_seed: int | None

    def seeds(self, tier: Tier) -> range:
        part = self.form["seeds"][tier]
        first = int(part["first"]) if self.first_seed is None else self.first_seed
        return range(first, first + int(part["count"]))


def protocol(*, quick: bool = False, first_seed: int | None = None, file: Path = FILE) -> Protocol:
    """`first_seed`: other seeds than the protocol's, for looking around without using them up."""
    content = file.read_bytes()
    form = yaml.safe_load(content)
    smaller = form.pop("quick")
    if quick:
        for key, value in smaller.items():
            form[key] = _over(form[key], value)
    return Protocol(form, hashlib.sha256(content).hexdigest(), quick, first_seed)


def _over(form: Any, changes: Any) -> Any:
    """Mappings are merged, all else is replaced."""
    if not isinstance(form, dict) or not isinstance(changes, dict):
        return changes
    return form | {key: _over(form.get(key), value) for key, value in changes.items()}


def rehearse(p: Protocol, only: Sequence[str] = (), tier: Tier = "numbers") -> Iterator[Figure]:
    """Figures as they are found. Raises ConfigError for an experiment that does not exist."""
    if strange := [name for name in only if name not in EXPERIMENTS]:
        raise ConfigError(f'no experiment "{strange[0]}"', choices=tuple(EXPERIMENTS))
    if tier == "model":
        from tomoni.loop.rehearse_model import rehearse_model

        yield from rehearse_model(p.form, p.seeds(tier), only)
        return
    for name, experiment in EXPERIMENTS.items():
        if not only or name in only:
            yield from experiment(p.form, p.seeds(tier))
