"""The running text that the bundled base models are trained on: an endless supply of documents, fixed by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from tomoni.world import safety, scenes
from tomoni.world.facts import Entity, EntityKind, World
from tomoni.world.names import LANGS, Lang
from tomoni.world.tell import tell, tell_as_asked, tell_as_heard, tell_as_list, tell_of_asking, tell_several
from tomoni.world.wording import REGISTERS, Register

# How often an entity of each kind is told of; kinds with more facts need more telling.
_WEIGHT: dict[EntityKind, float] = {"shop": 1.0, "person": 0.8, "station": 0.7, "event": 0.6, "climate": 0.4}
# Kinds of document and their shares.
_SHARES = {"tell": 42, "several": 8, "list": 4, "heard": 7, "asked": 20, "of asking": 3, "bilingual": 2, "review": 4,
           "notice": 4, "story": 4, "safety": 2}  # fmt: skip


def pretraining_documents(world: World, seed: int, count: int | None = None, *, boards: float = 0.0) -> Iterator[str]:
    """`count` documents (endless when None), each of about 40 to 150 tokens, each worded anew. `boards`: the share that are
    boards of notices or reviews of one kind (`scenes.board`)."""
    rng = random.Random(f"corpus {world.seed} {seed}")
    weights = [_WEIGHT[entity.kind] for entity in world.entities]
    kinds, shares = list(_SHARES), list(_SHARES.values())
    made = 0
    while count is None or made < count:
        entities = rng.choices(world.entities, weights, k=rng.choice((2, 2, 3)))
        if boards and rng.random() < boards:
            yield scenes.board(world, rng).text
        else:
            yield _document(world, rng.choices(kinds, shares)[0], entities, rng)
        made += 1


def _document(world: World, kind: str, entities: list[Entity], rng: random.Random) -> str:
    lang, register, entity = rng.choice(LANGS), rng.choice(REGISTERS), entities[0]
    if kind in _OF_ONE:
        return _OF_ONE[kind](entity, lang, register, rng)
    if kind in ("review", "notice"):
        scene = scenes.review if kind == "review" else scenes.notice
        return scene(world, lang, register, rng, with_facts=rng.random() < 0.6).text
    if kind == "several":
        return tell_several(list(dict.fromkeys(entities)), lang, register, rng)
    if kind == "story":
        return scenes.story(world, lang, register, rng).text
    return safety.prose(world, lang, register, rng)


def _in_both_languages(entity: Entity, lang: Lang, register: Register, rng: random.Random) -> str:
    names = f"{entity.name.en} ({entity.name.ja})"
    return "\n".join([names, tell(entity, "en", register, rng), tell(entity, "ja", register, rng)])


def _as_list(entity: Entity, lang: Lang, register: Register, rng: random.Random) -> str:
    return tell_as_list(entity, lang, rng)


_OF_ONE: dict[str, Callable[[Entity, Lang, Register, random.Random], str]] = {
    "tell": tell,
    "list": _as_list,
    "heard": tell_as_heard,
    "asked": tell_as_asked,
    "of asking": tell_of_asking,
    "bilingual": _in_both_languages,
}
