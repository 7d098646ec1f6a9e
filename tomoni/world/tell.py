"""Running text: the facts of an entity, each time in other words, order and combination.

Two registers: polite (丁寧語; formal English) and plain (plain Japanese; casual English). A fact's value is told
after the entity's full name nearly always, often within the same clause: a model can then say the value when it has
seen the name (Allen-Zhu & Li, Physics of Language Models 3.1, section 4).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from tomoni.world.facts import Entity, EntityKind, Fact
from tomoni.world.names import Lang, Pair, pairs
from tomoni.world.wording import Register, Wording, inflect
from tomoni.world.wording_en import ENGLISH
from tomoni.world.wording_ja import JAPANESE

_FULL_NAME = 0.88  # the share of clauses after the first that repeat the full name
_STAND_IN: dict[EntityKind, Pair] = {
    "shop": Pair("the shop", "この店"),
    "person": Pair("this person", "この人"),
    "station": Pair("the station", "この駅"),
    "event": Pair("the event", "この催し"),
}
_HERE = Pair("this place", "ここ")
_OPENERS: dict[tuple[Lang, Register], tuple[str, ...]] = {
    ("en", "polite"): ("please note that {}", "we are pleased to say that {}", "it should be said that {}"),
    ("en", "plain"): ("by the way, {}", "oh, and {}", "you know, {}", "guess what, {}"),
    ("ja", "polite"): ("なお、{}", "ご案内しますと、{}", "皆さまご存じのとおり、{}"),
    ("ja", "plain"): ("ちなみに、{}", "ところで、{}", "そういえば、{}"),
}
_TELLERS = pairs(
    "a visitor = 旅人; a child = 子ども; a neighbour = 近所の人; a student = 学生; a traveller = 旅の客; "
    "the mayor = 町長; a new clerk = 新しい店員; a grandmother = おばあさん"
)


def wording_of(entity: Entity, key: str, lang: Lang) -> Wording:
    return (ENGLISH if lang == "en" else JAPANESE)[entity.kind][key]


def shown_name(entity: Entity, lang: Lang, rng: random.Random) -> str:
    """The name as a text would write it: a title for people; Japanese shops and events often in 「」."""
    name = entity.name.of(lang)
    if lang == "ja" and entity.kind == "person":
        return name + "さん"
    if lang == "ja" and entity.kind in ("shop", "event") and rng.random() < 0.5:
        return f"「{name}」"
    return name


def sentence(text: str, lang: Lang, mark: str = ".") -> str:
    """`text` as a sentence: a capital and an English mark, or the Japanese one."""
    if lang == "ja":
        return text + {".": "。", "?": "？", "!": "！"}[mark]
    return text[:1].upper() + text[1:] + mark


def join(sentences: Sequence[str], lang: Lang) -> str:
    return (" " if lang == "en" else "").join(sentences)


def tell(entity: Entity, lang: Lang, register: Register, rng: random.Random) -> str:
    """A description of `entity` with most of its facts, freshly worded."""
    facts = _some_facts(entity, rng)
    said: list[str] = []
    while facts:
        count = rng.choices((1, 2, 3), weights=(60, 32, 8))[0]
        together, facts = facts[:count], facts[count:]
        full = not said or entity.kind not in _STAND_IN or rng.random() < _FULL_NAME
        name = shown_name(entity, lang, rng) if full else _STAND_IN[entity.kind].of(lang)
        said.append(_clause(entity, together, name, lang, register, rng))
    return join(said, lang)


def tell_several(entities: Sequence[Entity], lang: Lang, register: Register, rng: random.Random) -> str:
    """The facts of several entities, mixed; the full name stands in every sentence."""
    told = [(entity, fact) for entity in entities for fact in _some_facts(entity, rng)]
    rng.shuffle(told)
    said = [_clause(e, [fact], shown_name(e, lang, rng), lang, register, rng) for e, fact in told[:7]]
    return join(said, lang)


def tell_as_list(entity: Entity, lang: Lang, rng: random.Random) -> str:
    """As in a guide book: what, colon, value."""
    said: list[str] = []
    for fact in _some_facts(entity, rng):
        topics = wording_of(entity, fact.key, lang)
        topic = rng.choice(topics.topic + topics.unseen_topic).format(s=shown_name(entity, lang, rng))
        said.append(sentence(topic + (": " if lang == "en" else "：") + fact.value.of(lang), lang))
    return join(said, lang)


def tell_as_heard(entity: Entity, lang: Lang, register: Register, rng: random.Random) -> str:
    """Somebody wanted to know and was told, as prose."""
    said = [_heard(entity, fact, lang, register, rng) for fact in _some_facts(entity, rng)[:3]]
    return join(said, lang)


def tell_as_asked(entity: Entity, lang: Lang, register: Register, rng: random.Random) -> str:
    """Somebody wonders about one thing after another, and each is told at once, with the full name.

    What is wondered about later is often called "the shop", as it is in a conversation.
    """
    said: list[str] = []
    for fact in _some_facts(entity, rng)[: rng.choice((1, 2, 2, 3, 4))]:
        full = not said or entity.kind not in _STAND_IN or rng.random() < 0.4
        named = shown_name(entity, lang, rng) if full else _STAND_IN[entity.kind].of(lang)
        said.append(_wondered(entity, fact, named, lang, register, rng))
        said.append(_clause(entity, [fact], shown_name(entity, lang, rng), lang, register, rng))
    return join(said, lang)


def tell_of_asking(entity: Entity, lang: Lang, register: Register, rng: random.Random) -> str:
    """What a question means, as a phrase book tells it; no entity is named, and nothing about one is told."""
    said: list[str] = []
    for fact in _some_facts(entity, rng)[:3]:
        wording = wording_of(entity, fact.key, lang)
        named = _STAND_IN.get(entity.kind, _HERE).of(lang)
        direct = rng.choice(wording.direct + wording.unseen_direct)
        topic = rng.choice(wording.topic + wording.unseen_topic)
        frame = rng.choice(_MEANING[lang])
        text = frame.format(q=inflect(direct, register).format(s=named), t=topic.format(s=named))
        said.append(sentence(inflect(text, register), lang))
    return join(said, lang)


def _some_facts(entity: Entity, rng: random.Random) -> list[Fact]:
    facts = list(entity.facts)
    rng.shuffle(facts)
    return facts if rng.random() < 0.5 else facts[: rng.randint((len(facts) + 1) // 2, len(facts))]


def _clause(
    entity: Entity, facts: Sequence[Fact], name: str, lang: Lang, register: Register, rng: random.Random
) -> str:
    """One sentence that tells `facts`: a clause of its own for a single fact, a chain of predicates for several."""
    wordings = [wording_of(entity, fact.key, lang) for fact in facts]
    if len(facts) == 1 and rng.random() < 0.5:
        text = rng.choice(wordings[0].sentences).format(s=name, v=facts[0].value.of(lang))
        text = inflect(text, register)
    else:
        predicates = [
            rng.choice(wording.predicates).format(v=fact.value.of(lang))
            for wording, fact in zip(wordings, facts, strict=True)
        ]
        text = (_chain_en if lang == "en" else _chain_ja)(entity, name, predicates, register, rng)
    if rng.random() < 0.2:
        text = rng.choice(_OPENERS[lang, register]).format(text)
    return sentence(text, lang)


def _chain_en(entity: Entity, name: str, predicates: list[str], register: Register, rng: random.Random) -> str:
    if len(predicates) == 1:
        return f"{name} {predicates[0]}"
    if rng.random() < 0.4:
        relative = "who" if entity.kind == "person" else "which"
        return f"{name}, {relative} {predicates[0]}, {' and '.join(predicates[1:])}"
    *first, last = predicates
    return f"{name} {', '.join(first)} and {last}"


def _chain_ja(entity: Entity, name: str, predicates: list[str], register: Register, rng: random.Random) -> str:
    *first, last = predicates
    return name + "は" + "、".join([*(inflect(text, "and") for text in first), inflect(last, register)])


def _heard(entity: Entity, fact: Fact, lang: Lang, register: Register, rng: random.Random) -> str:
    wording = wording_of(entity, fact.key, lang)
    name = shown_name(entity, lang, rng)
    who = rng.choice(_TELLERS).of(lang)
    value = fact.value.of(lang)
    about = rng.random() < 0.5
    asked = rng.choice(
        wording.indirect + wording.unseen_indirect if about else wording.topic + wording.unseen_topic
    ).format(s=name)
    frames = _HEARD[lang, about]
    return sentence(inflect(rng.choice(frames).format(who=who, asked=asked, v=value), register), lang)


def _wondered(entity: Entity, fact: Fact, named: str, lang: Lang, register: Register, rng: random.Random) -> str:
    wording = wording_of(entity, fact.key, lang)
    whole = rng.random() < 0.5
    cores = wording.indirect + wording.unseen_indirect if whole else wording.topic + wording.unseen_topic
    text = rng.choice(_WONDERED[lang, whole]).format(
        who=rng.choice(_TELLERS).of(lang), asked=rng.choice(cores).format(s=named)
    )
    return sentence(inflect(text, register), lang)


_MEANING: dict[Lang, tuple[str, ...]] = {
    "en": (
        'whoever says "{q}" is asking about {t}',
        'the words "{q}" are a question about {t}',
        'about {t} one asks with "{q}"',
    ),
    "ja": (
        "「{q}」は{t}を尋ねる言い方<で|です|だ>",
        "{t}を知りたいときは「{q}」と言<い|います|う>",
        "「{q}」と聞かれたら{t}のこと<で|です|だ>",
    ),
}
_WONDERED: dict[tuple[Lang, bool], tuple[str, ...]] = {
    ("en", True): (
        "{who} asked {asked}",
        "{who} wanted to know {asked}",
        "{who} wondered {asked}",
        "someone inquired {asked}",
    ),
    ("en", False): (
        "{who} asked about {asked}",
        "{who} was curious about {asked}",
        "{who} wanted to hear about {asked}",
        "the talk turned to {asked}",
    ),
    ("ja", True): (
        "{who}が{asked}と尋ね<て|ました|た>",
        "{who}は{asked}を知りたがって<いて|いました|いた>",
        "{asked}を{who}が聞<き|きました|いた>",
        "{asked}と{who}は考え<て|ました|た>",
    ),
    ("ja", False): (
        "{who}が{asked}について聞<き|きました|いた>",
        "{who}は{asked}が気になって<いて|いました|いた>",
        "{asked}を{who}が尋ね<て|ました|た>",
        "話は{asked}のことにな<り|りました|った>",
    ),
}
_HEARD: dict[tuple[Lang, bool], tuple[str, ...]] = {
    ("en", True): (
        "when {who} asked {asked}, the answer was {v}",
        "{who} wanted to find out {asked} and heard: {v}",
        "nobody in town needs to be told {asked}, namely {v}",
        "ask anyone in the street {asked} and they will say {v}",
    ),
    ("en", False): (
        "{who} looked up {asked} and read {v}",
        "as for {asked}, {who} remembered that it was {v}",
        "the book in the town hall gives {asked} as {v}",
        "{asked} is, as {who} said, {v}",
    ),
    ("ja", True): (
        "{who}が{asked}と尋ねると、答えは{v}<で|でした|だった>",
        "{who}は{asked}を調べて、{v}と知<り|りました|った>",
        "{asked}は町の誰もが知っていて、{v}<で|です|だ>",
        "{asked}と聞けば、誰でも{v}と答え<|ます|る>",
    ),
    ("ja", False): (
        "{who}が{asked}を調べると、{v}と書いてあ<り|りました|った>",
        "{asked}は、{who}によれば{v}<で|です|だ>",
        "町役場の帳面では、{asked}は{v}となって<|います|いる>",
        "{who}は{asked}が{v}だと覚え<|ています|ている>",
    ),
}
