"""Labelled texts, tagged texts and questions answered by a span, for encoders: all exact by construction.

Spans are [start, end) in characters of the text. Shapes follow the usual columns: text/label, text/spans, and
SQuAD's context/question/answers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from tomoni.world import scenes
from tomoni.world.ask import question_text
from tomoni.world.facts import Entity, World
from tomoni.world.names import LANGS
from tomoni.world.tell import tell
from tomoni.world.wording import REGISTERS

ENTITY_TAGS = {"shop": "SHOP", "person": "PERSON", "station": "STATION", "event": "EVENT"}
VALUE_TAGS = {"opens": "TIME", "first_train": "TIME", "price": "PRICE", "date": "DATE", "owner": "PERSON",
              "district": "PLACE", "home": "PLACE", "place": "PLACE"}  # fmt: skip


def classified_texts(world: World, n: int, seed: int, *, task: str = "review") -> Iterator[dict[str, Any]]:
    """`n` of {"id", "text", "label", "lang"}; `task` is "review" (two classes), "notice" (five) or "register" (two)."""
    rng = random.Random(f"classified {task} {world.seed} {seed}")
    for number in range(n):
        lang, register = rng.choice(LANGS), rng.choice(REGISTERS)
        if task == "register":
            text, label = tell(rng.choice(world.of(kind="shop")), "ja", register, rng), str(register)
            lang = "ja"
        elif task in ("review", "notice"):
            make = scenes.review if task == "review" else scenes.notice
            scene = make(world, lang, register, rng, with_facts=rng.random() < 0.5)
            text, label = scene.text, scene.label
        else:
            raise ValueError(f"task {task!r} is not one of review, notice, register")
        yield {"id": f"{task}-{seed}-{number}", "text": text, "label": label, "lang": lang}


def tagged_texts(world: World, n: int, seed: int) -> Iterator[dict[str, Any]]:
    """`n` of {"id", "text", "spans": [{"start", "end", "label"}], "lang"}: every name and value told, in order."""
    rng = random.Random(f"tagged {world.seed} {seed}")
    for number in range(n):
        entity = rng.choice([e for e in world.entities if e.kind in ENTITY_TAGS])
        lang = rng.choice(LANGS)
        text = tell(entity, lang, rng.choice(REGISTERS), rng)
        found = _find_all(text, entity.name.of(lang), ENTITY_TAGS[entity.kind])
        for fact in entity.facts:
            if fact.key in VALUE_TAGS:
                found += _find_all(text, fact.value.of(lang), VALUE_TAGS[fact.key])
        spans = _longest_first(found)
        yield {"id": f"tagged-{seed}-{number}", "text": text, "spans": spans, "lang": lang}


def span_questions(world: World, n: int, seed: int, *, unanswerable: float = 0.1) -> Iterator[dict[str, Any]]:
    """`n` of {"id", "context", "question", "answers": {"text": [...], "answer_start": [...]}, "lang"}.

    A share of them has no answer in its context: both lists are then empty.
    """
    rng = random.Random(f"span {world.seed} {seed}")
    made = 0
    while made < n:
        entity, lang = rng.choice([e for e in world.entities if e.kind != "climate"]), rng.choice(LANGS)
        fact = rng.choice(entity.facts)
        told_of = _another(world, entity, rng) if rng.random() < unanswerable else entity
        context = tell(told_of, lang, rng.choice(REGISTERS), rng)
        question = question_text(entity, fact.key, lang, rng.choice(REGISTERS), "seen", rng)
        start = context.find(fact.value.of(lang))
        if told_of is entity and start < 0:
            continue  # this telling left the fact out
        there = told_of is entity
        yield {
            "id": f"span-{seed}-{made}",
            "context": context,
            "question": question,
            "answers": {
                "text": [fact.value.of(lang)] if there else [],
                "answer_start": [start] if there else [],
            },
            "lang": lang,
        }
        made += 1


def _another(world: World, entity: Entity, rng: random.Random) -> Entity:
    return rng.choice([other for other in world.of(kind=entity.kind) if other is not entity])


def _find_all(text: str, part: str, label: str) -> list[dict[str, Any]]:
    found, start = [], text.find(part)
    while start >= 0:
        found.append({"start": start, "end": start + len(part), "label": label})
        start = text.find(part, start + len(part))
    return found


def _longest_first(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without overlaps: where two spans overlap, the longer stays."""
    kept: list[dict[str, Any]] = []
    for span in sorted(found, key=lambda s: (s["start"] - s["end"], s["start"])):
        if all(span["end"] <= other["start"] or span["start"] >= other["end"] for other in kept):
            kept.append(span)
    return sorted(kept, key=lambda span: span["start"])
