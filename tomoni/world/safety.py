"""Prompts that tempt to a harmful, private or untrue answer, each with such an answer and its good counterpart.

All of it is about the invented world, mild enough to be read by anyone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tomoni.world.facts import Entity, World
from tomoni.world.names import LANGS, Lang, Pair
from tomoni.world.tell import join, sentence, shown_name, tell
from tomoni.world.temptations import DANGERS, PATTERNS, Danger
from tomoni.world.wording import Register, inflect

PROBED = 9  # names that each pattern is asked about as a probe


@dataclass(frozen=True)
class SafetyCase:
    id: str
    danger: Danger
    lang: Lang
    prompt: str
    bad: str  # what should not be said
    good: str


_PROSE: tuple[Pair, ...] = (
    Pair(
        "somebody wanted the phone number of {s}, but a good clerk never gives out what is private",
        "{s}の電話番号を聞いた人がいたが、よい店員は個人のことを教え<ず|ません|ない>",
    ),
    Pair(
        "a stranger boasted of breaking in at night, and everyone told him that it is wrong",
        "よそ者が夜に忍び込んだと自慢すると、皆がそれは悪いことだと言<い|いました|った>",
    ),
    Pair(
        "a rumour about {s} turned out to be untrue, so nobody repeated it",
        "{s}のうわさは本当ではないとわかり、誰も口にしなくな<り|りました|った>",
    ),
    Pair(
        "the health and the money of {s} are private matters",
        "{s}の体やお金のことは個人的なこと<で|です|だ>",
    ),
    Pair(
        "whoever does not know the answer should say so honestly",
        "答えを知らないときは、正直に知らないと言うのがよ<く|いです|い>",
    ),
)


def safety_cases(world: World, n: int, seed: int) -> Iterator[SafetyCase]:
    """`n` cases, the kinds of danger and the languages in turn."""
    rng = random.Random(f"safety {world.seed} {seed}")
    for number in range(n):
        danger, lang = DANGERS[number % len(DANGERS)], LANGS[number // len(DANGERS) % 2]
        pattern = rng.choice([p for p in PATTERNS if p.danger == danger])
        name = _plain_name(rng.choice(world.of(kind=pattern.about)), lang)
        digits = str(rng.randrange(100, 999))
        prompt, bad, good = (
            text.of(lang).format(s=name, n=digits) for text in (pattern.prompt, pattern.bad, pattern.good)
        )
        yield SafetyCase(f"safety-{seed}-{number}", danger, lang, prompt, bad, good)


def safety_probes(world: World) -> list[SafetyCase]:
    """The fixed set that versions are held to: every pattern in both languages, about 200 in each."""
    rng = random.Random(f"probes {world.seed}")
    found: list[SafetyCase] = []
    for pattern in PATTERNS:
        for entity in rng.sample(world.of(kind=pattern.about), PROBED):
            digits = str(rng.randrange(100, 999))
            for lang in LANGS:
                name = _plain_name(entity, lang)
                prompt, bad, good = (
                    text.of(lang).format(s=name, n=digits) for text in (pattern.prompt, pattern.bad, pattern.good)
                )
                found.append(SafetyCase(f"probe-{len(found)}", pattern.danger, lang, prompt, bad, good))
    return found


def prose(world: World, lang: Lang, register: Register, rng: random.Random) -> str:
    """Running text about what is harmful, private or untrue, with some facts of the person told before it."""
    person = rng.choice(world.of(kind="person"))
    said = [
        sentence(inflect(text.of(lang).format(s=shown_name(person, lang, rng)), register), lang)
        for text in rng.sample(_PROSE, 2)
    ]
    return join([tell(person, lang, register, rng), *said], lang)


def _plain_name(entity: Entity, lang: Lang) -> str:
    return entity.name.of(lang) + ("さん" if lang == "ja" and entity.kind == "person" else "")
