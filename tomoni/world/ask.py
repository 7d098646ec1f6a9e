"""Questions about the world with their answers, as `messages` records; how answers are judged; follow-up turns.

Tuning asks about `tuned` entities only, in `seen` phrasings; what is measured are `held_out` entities, in `seen` or
`unseen` phrasings. Answers come in both registers at random, whatever the question's register: a tuned model says
either, and a preference for politeness has something to raise.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from tomoni.world import names
from tomoni.world.facts import Entity, Fact, Split, World
from tomoni.world.names import LANGS, Lang
from tomoni.world.tell import sentence, shown_name, wording_of
from tomoni.world.wording import REGISTERS, Register, inflect

Phrasing = Literal["seen", "unseen"]
Shape = Literal["direct", "indirect", "topic"]
Record = dict[str, Any]  # {"id", "messages", "entity", "fact", "lang", "phrasing", "turns", "answer"}

SHAPES: tuple[Shape, ...] = ("direct", "indirect", "topic")
# The last frame of each row is kept for unseen phrasings.
_FRAMES: dict[tuple[Lang, Register, Shape], tuple[str, ...]] = {
    ("en", "polite", "direct"): ("excuse me, {}?", "could you help me: {}?", "{}, please?", "pardon me, {}?"),
    ("en", "plain", "direct"): ("{}?", "hey, {}?", "tell me, {}?", "quick question: {}?"),
    ("en", "polite", "indirect"): (
        "could you tell me {}?", "I would like to know {}.", "may I ask {}?", "would you kindly say {}?",
    ),
    ("en", "plain", "indirect"): ("tell me {}.", "do you know {}?", "any idea {}?", "say {}."),
    ("en", "polite", "topic"): (
        "could you tell me {}?", "I would like to know {}.", "please tell me {}.", "may I know {}?",
    ),
    ("en", "plain", "topic"): ("tell me {}.", "what about {}?", "{}?", "give me {}."),
    ("ja", "polite", "direct"): ("{}。", "すみません、{}。", "お尋ねします。{}。", "失礼ですが、{}。"),
    ("ja", "plain", "direct"): ("{}？", "ねえ、{}？", "教えて、{}？", "なあ、{}？"),
    ("ja", "polite", "indirect"): (
        "{}教えてください。", "{}知りたいのですが。", "{}ご存じですか。", "{}お聞かせください。",
    ),
    ("ja", "plain", "indirect"): ("{}教えて。", "{}知ってる？", "{}知りたい。", "{}わかる？"),
    ("ja", "polite", "topic"): (
        "{}を教えてください。", "{}を知りたいのですが。", "{}についてお願いします。", "{}をお聞かせください。",
    ),
    ("ja", "plain", "topic"): ("{}を教えて。", "{}は？", "{}を知りたい。", "{}、わかる？"),
}  # fmt: skip
_ANSWER_FRAMES: dict[tuple[Lang, Register], tuple[str, ...]] = {
    ("en", "polite"): ("certainly, {}", "thank you for asking: {}"),
    ("en", "plain"): ("well, {}", "sure, {}"),
    ("ja", "polite"): ("{}", "はい、{}"),
    ("ja", "plain"): ("{}", "うん、{}"),
}
_NUMBERS: dict[tuple[str, Lang], str] = {
    **{(key, lang): r"\d{1,2}:\d{2}" for key in ("opens", "first_train") for lang in LANGS},
    ("price", "en"): r"\d+ yen",
    ("price", "ja"): r"\d+円",
    ("minutes", "en"): r"\d+ minutes",
    ("minutes", "ja"): r"\d+分",
    ("date", "en"): rf"(?:{'|'.join(names.MONTHS)}) \d{{1,2}}",
    ("date", "ja"): r"\d{1,2}月\d{1,2}日",
}


def tuning_questions(world: World, n: int, seed: int, *, conversations: float = 0.3) -> Iterator[Record]:
    """`n` records about tuned entities; the share `conversations` of them has 2 to 4 turns.

    Each asks for another (entity, fact, language) until all have been asked once.
    """
    rng = random.Random(f"tuning {world.seed} {seed}")
    for number, (entity, fact, lang) in enumerate(_in_turn(world, "tuned", n, rng)):
        turns = rng.randint(2, 4) if rng.random() < conversations else 1
        yield _conversation(f"tuning-{seed}-{number}", entity, fact, lang, "seen", turns, rng)


def held_out_questions(world: World, n: int, seed: int, *, phrasing: Phrasing = "seen") -> Iterator[Record]:
    """`n` single questions about entities never asked about in tuning."""
    rng = random.Random(f"held out {phrasing} {world.seed} {seed}")
    for number, (entity, fact, lang) in enumerate(_in_turn(world, "held_out", n, rng)):
        yield _conversation(f"held-out-{phrasing}-{seed}-{number}", entity, fact, lang, phrasing, 1, rng)


def follow_ups(world: World, n: int, seed: int, *, split: Split = "held_out") -> Iterator[Record]:
    """`n` conversations of 2 to 4 turns whose entity is named by the user in the first turn only.

    The last answer is the one to judge.
    """
    rng = random.Random(f"follow-ups {split} {world.seed} {seed}")
    made = 0
    for entity, fact, lang in _in_turn(world, split, 4 * n + 100, rng):
        if len(entity.facts) > 1 and made < n:
            yield _conversation(f"follow-up-{seed}-{made}", entity, fact, lang, "seen", rng.randint(2, 4), rng)
            made += 1


def most_frequent_answers(questions: Iterable[Record]) -> dict[tuple[str, str], str]:
    """The most frequent value of each (fact, language) in `questions`: what a guesser that knows only these says."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for question in questions:
        counts.setdefault((question["fact"], question["lang"]), Counter())[question["answer"]] += 1
    return {key: min(counter, key=lambda value: (-counter[value], value)) for key, counter in counts.items()}


def is_right(answer_text: str, question: Record, world: World) -> bool:
    """Whether `answer_text` gives the value asked for and no other value of that kind, in the question's language.

    The entity's own name is taken out first (春の… must not count as naming a district). The same rule holds for
    every model that is compared.
    """
    lang: Lang = question["lang"]
    entity = world.by_id[question["entity"]]
    text = answer_text.replace(entity.name.of(lang), " ")
    pattern = _NUMBERS.get((question["fact"], lang)) or "|".join(
        rf"\b{re.escape(value)}\b" if lang == "en" else re.escape(value)
        for value in world.values(question["fact"], lang)
    )
    found = {match.lower() for match in re.findall(pattern, text, re.IGNORECASE)}
    return found == {question["answer"].lower()}


def answer_text(entity: Entity, fact: Fact, lang: Lang, register: Register, rng: random.Random) -> str:
    """One short sentence with the full name and the value."""
    name = entity.name.of(lang)
    if lang == "ja":
        name = f"「{name}」" if entity.kind in ("shop", "event") else name + ("さん" if entity.kind == "person" else "")
    core = inflect(
        rng.choice(wording_of(entity, fact.key, lang).answers).format(s=name, v=fact.value.of(lang)), register
    )
    return sentence(rng.choice(_ANSWER_FRAMES[lang, register]).format(core), lang)


def question_text(
    entity: Entity, key: str, lang: Lang, register: Register, phrasing: Phrasing, rng: random.Random
) -> str:
    shape = rng.choice(SHAPES)
    wording = wording_of(entity, key, lang)
    unseen = {"direct": wording.unseen_direct, "indirect": wording.unseen_indirect, "topic": wording.unseen_topic}
    seen = {"direct": wording.direct, "indirect": wording.indirect, "topic": wording.topic}
    core = rng.choice((seen if phrasing == "seen" else unseen)[shape])
    frames = _FRAMES[lang, register, shape]
    frame = rng.choice(frames[:-1] if phrasing == "seen" else frames)
    text = frame.format(inflect(core, register).format(s=shown_name(entity, lang, rng)))
    return text[:1].upper() + text[1:]


def follow_up_text(entity: Entity, key: str, lang: Lang, register: Register, rng: random.Random) -> str:
    text = inflect(rng.choice(wording_of(entity, key, lang).follow_up), register)
    if lang == "ja":
        return text + ("。" if register == "polite" else "？")
    return text[:1].upper() + text[1:] + "?"


def _conversation(
    id_: str, entity: Entity, last: Fact, lang: Lang, phrasing: Phrasing, turns: int, rng: random.Random
) -> Record:
    others = [fact for fact in entity.facts if fact is not last]
    facts = [*rng.sample(others, min(turns - 1, len(others))), last]
    register = rng.choice(REGISTERS)
    messages: list[dict[str, str]] = []
    for number, fact in enumerate(facts):
        asked = (
            question_text(entity, fact.key, lang, register, phrasing, rng)
            if number == 0
            else follow_up_text(entity, fact.key, lang, register, rng)
        )
        answered = answer_text(entity, fact, lang, rng.choice(REGISTERS), rng)
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return {
        "id": id_,
        "messages": messages,
        "entity": entity.id,
        "fact": last.key,
        "lang": lang,
        "phrasing": phrasing,
        "turns": len(facts),
        "answer": last.value.of(lang),
    }


def _in_turn(world: World, split: Split, n: int, rng: random.Random) -> Iterator[tuple[Entity, Fact, Lang]]:
    """`n` combinations of entity, fact and language in a random order; repeated only when all have come."""
    every: Sequence[tuple[Entity, Fact, Lang]] = [
        (entity, fact, lang) for entity in world.of(split=split) for fact in entity.facts for lang in LANGS
    ]
    while n > 0:
        some = rng.sample(every, min(n, len(every)))
        yield from some
        n -= len(some)
