"""The invented world: its entities and what is true of them.

`World.generate(seed)` always builds the same world. Each entity is `tuned` (asked about in tuning) or `held_out`
(told in running text only, asked about only to measure). Values are drawn independently of names, so that nothing
but having read the running text can tell them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from tomoni.world import names
from tomoni.world.names import Lang, Pair

EntityKind = Literal["shop", "person", "station", "event", "climate"]
Split = Literal["tuned", "held_out"]

FACTS_OF: dict[EntityKind, tuple[str, ...]] = {
    "shop": ("district", "opens", "closed", "owner", "product", "price"),
    "person": ("job", "home", "hobby", "likes"),
    "station": ("line", "first_train", "minutes"),
    "event": ("date", "place"),
    "climate": ("weather",),
}


@dataclass(frozen=True)
class Fact:
    key: str  # one of FACTS_OF[kind]
    value: Pair


@dataclass(frozen=True)
class Entity:
    id: str  # e.g. "shop-017"
    kind: EntityKind
    name: Pair  # as it stands in text; people without a title
    facts: tuple[Fact, ...]
    split: Split

    def value(self, key: str) -> Pair:
        """Raises KeyError for a fact that this kind of entity does not have."""
        for fact in self.facts:
            if fact.key == key:
                return fact.value
        raise KeyError(key)


@dataclass(frozen=True)
class World:
    seed: int
    entities: tuple[Entity, ...]

    @classmethod
    def generate(
        cls,
        seed: int,
        *,
        shops: int = 140,
        people: int = 40,
        stations: int = 36,
        events: int = 36,
        climates: int = 40,
        tuned_share: float = 0.35,
    ) -> World:
        """The world of this seed. `climates` counts pairs of a district and a season, 40 at most."""
        rng = random.Random(seed)
        stems = names.invented_stems(shops + stations + events, rng)
        plain: list[tuple[EntityKind, Pair, tuple[Fact, ...]]] = []
        plain += [_shop(stem, rng) for stem in stems[:shops]]
        plain += [_person(name, rng) for name in _people_names(people, rng)]
        plain += [_station(stem, rng) for stem in stems[shops : shops + stations]]
        plain += [_event(stem, rng) for stem in stems[shops + stations :]]
        plain += _climates(climates, rng)
        return cls(seed, tuple(_numbered_and_split(plain, tuned_share, rng)))

    def of(self, *, kind: EntityKind | None = None, split: Split | None = None) -> tuple[Entity, ...]:
        return tuple(e for e in self.entities if kind in (None, e.kind) and split in (None, e.split))

    @cached_property
    def by_id(self) -> dict[str, Entity]:
        return {entity.id: entity for entity in self.entities}

    def values(self, key: str, lang: Lang) -> tuple[str, ...]:
        """Every value that the fact takes somewhere in the world, longest first."""
        found = {fact.value.of(lang) for entity in self.entities for fact in entity.facts if fact.key == key}
        return tuple(sorted(found, key=lambda value: (-len(value), value)))


def clock(minutes: int) -> Pair:
    text = f"{minutes // 60}:{minutes % 60:02d}"
    return Pair(text, text)


def yen(amount: int) -> Pair:
    return Pair(f"{amount} yen", f"{amount}円")


def _shop(stem: Pair, rng: random.Random) -> tuple[EntityKind, Pair, tuple[Fact, ...]]:
    shop_kind = rng.choice(names.SHOP_KINDS)
    facts = (
        Fact("district", rng.choice(names.DISTRICTS)),
        Fact("opens", clock(rng.randrange(6 * 60, 11 * 60, 30))),
        Fact("closed", rng.choice(names.DAYS)),
        Fact("owner", rng.choice(names.OWNERS)),
        Fact("product", rng.choice(names.PRODUCTS[shop_kind.en])),
        Fact("price", yen(rng.choice(names.PRICES))),
    )
    return "shop", Pair(f"{stem.en} {shop_kind.en}", stem.ja + shop_kind.ja), facts


def _people_names(count: int, rng: random.Random) -> list[Pair]:
    """Invented given names, each used once; the surnames repeat, as they do in a small town."""
    given = names.invented_stems(count, rng)
    katakana = {code: code + 0x60 for code in range(0x3041, 0x3097)}
    surnames = [rng.choice(names.SURNAMES) for _ in range(count)]
    return [
        Pair(f"{first.en} {last.en}", last.ja + first.ja.translate(katakana))
        for first, last in zip(given, surnames, strict=True)
    ]


def _person(name: Pair, rng: random.Random) -> tuple[EntityKind, Pair, tuple[Fact, ...]]:
    facts = (
        Fact("job", rng.choice(names.JOBS)),
        Fact("home", rng.choice(names.DISTRICTS)),
        Fact("hobby", rng.choice(names.HOBBIES)),
        Fact("likes", rng.choice(names.FOODS)),
    )
    return "person", name, facts


def _station(stem: Pair, rng: random.Random) -> tuple[EntityKind, Pair, tuple[Fact, ...]]:
    minutes = rng.choice(names.MINUTES)
    facts = (
        Fact("line", rng.choice(names.LINES)),
        Fact("first_train", clock(rng.randrange(4 * 60 + 40, 6 * 60 + 20, 10))),
        Fact("minutes", Pair(f"{minutes} minutes", f"{minutes}分")),
    )
    return "station", Pair(f"{stem.en} Station", f"{stem.ja}駅"), facts


def _event(stem: Pair, rng: random.Random) -> tuple[EntityKind, Pair, tuple[Fact, ...]]:
    event_kind = rng.choice(names.EVENTS)
    month, day = rng.randrange(12), rng.choice(names.DAYS_OF_MONTH)
    facts = (
        Fact("date", Pair(f"{names.MONTHS[month]} {day}", f"{month + 1}月{day}日")),
        Fact("place", rng.choice(names.DISTRICTS)),
    )
    return "event", Pair(f"{stem.en} {event_kind.en}", stem.ja + event_kind.ja), facts


def _climates(count: int, rng: random.Random) -> list[tuple[EntityKind, Pair, tuple[Fact, ...]]]:
    both = [(season, district) for district in names.DISTRICTS for season in names.SEASONS]
    return [
        (
            "climate",
            Pair(f"{district.en} in {season.en}", f"{season.ja}の{district.ja}"),
            (Fact("weather", rng.choice(names.WEATHERS)),),
        )
        for season, district in both[:count]
    ]


def _numbered_and_split(
    plain: Sequence[tuple[EntityKind, Pair, tuple[Fact, ...]]], tuned_share: float, rng: random.Random
) -> list[Entity]:
    """The same share of every kind is `tuned`; which ones is drawn."""
    entities: list[Entity] = []
    for kind in FACTS_OF:
        members = [(name, facts) for its_kind, name, facts in plain if its_kind == kind]
        tuned = set(rng.sample(range(len(members)), round(tuned_share * len(members))))
        entities += [
            Entity(f"{kind}-{n:03d}", kind, name, facts, "tuned" if n in tuned else "held_out")
            for n, (name, facts) in enumerate(members)
        ]
    return entities
