"""The protocol of a rehearsal: read from its file, which is what is hashed and committed before the first run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict

from tomoni.errors import ConfigError
from tomoni.feedback.ask import Rule
from tomoni.loop.rehearse_world import Bank, Kind, Manners, Person, PersonKind, bank

FILE = Path(__file__).with_name("rehearse_people.yaml")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Seeds(_Part):
    first: int
    count: int

    def __iter__(self) -> Any:  # pydantic's own yields fields
        return iter(range(self.first, self.first + self.count))


class WorldPart(_Part):
    prompts: int
    answers: int
    held_out: int
    agreement: float
    components: int

    def bank(self, kind: Kind, seed: int) -> Bank:
        return bank(kind, seed, **self.model_dump())


class PeoplePart(_Part):
    trained: float
    crowd: float
    side_lean: float
    length_lean: float
    clicks_left: float
    lasts: int

    def person(self, kind: PersonKind, rng: Any) -> Person:
        return Manners(**self.model_dump()).person(kind, rng)


class E0(_Part):
    worlds: tuple[Kind, ...]
    labels: int
    known: int
    stream: int
    runs: int
    criteria: Mapping[str, float]


class E2(_Part):
    worlds: tuple[Kind, ...]
    rules: tuple[Rule, ...]
    labels: tuple[int, ...]
    batch: int
    answers: int
    sharpness: float
    random_share: float
    person: PersonKind
    criteria: Mapping[str, float]


class E3(_Part):
    worlds: tuple[Kind, ...]
    accuracies: tuple[float, ...]
    labels: int
    around: tuple[float, ...]
    repeats: int
    criteria: Mapping[str, float]


class E4(_Part):
    worlds: tuple[Kind, ...]
    decisive: Kind
    pool: Mapping[PersonKind, int]
    sizes: tuple[int, ...]
    each: int
    auc_seeds: Seeds
    gold_gap: float
    criteria: Mapping[str, float]
    others: Mapping[PersonKind, int]
    others_each: int


class Protocol(_Part):
    schema_: int
    seeds: Seeds
    resamples: int
    world: WorldPart
    people: PeoplePart
    e0: E0
    e2: E2
    e3: E3
    e4: E4
    sha256: str
    quick: bool


def protocol(
    *, quick: bool = False, first_seed: int | None = None, worlds: Sequence[str] = (), file: Path = FILE
) -> Protocol:
    """`first_seed`: other seeds than the protocol's, for looking around without using them up. `worlds`: only
    these, of those that each experiment names. Raises ConfigError for a world that does not exist."""
    if strange := [name for name in worlds if name not in get_args(Kind)]:
        raise ConfigError(f'no world "{strange[0]}"', choices=get_args(Kind))
    content = file.read_bytes()
    form = yaml.safe_load(content)
    smaller = form.pop("quick")
    if quick:
        form = _over(form, smaller)
    if first_seed is not None:
        form["seeds"]["first"] = form["e4"]["auc_seeds"]["first"] = first_seed
    for part in ("e0", "e2", "e3", "e4"):
        if worlds:
            form[part]["worlds"] = [name for name in form[part]["worlds"] if name in worlds]
    form["schema_"] = form.pop("schema")
    return Protocol(**form, sha256=hashlib.sha256(content).hexdigest(), quick=quick)


def _over(form: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """One level down; a pool or a list is replaced as a whole."""
    merged = dict(form)
    for key, value in changes.items():
        merged[key] = {**form[key], **value} if isinstance(value, dict) else value
    return merged
