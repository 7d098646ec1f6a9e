"""The invented world: facts, running text, questions, tasks, safety cases and people's hidden tastes. No torch.

Everything is a function of a seed. The bundled base models were trained on `pretraining_documents(bundled_world(),
...)`: they have read every fact, in running text only, and have never been asked anything.

    world = bundled_world()
    documents = pretraining_documents(world, seed=1, count=1000)      # strings
    tuning = list(tuning_questions(world, 400, seed=0))               # records with "messages"
    held_out = list(held_out_questions(world, 500, seed=0, phrasing="unseen"))
    share = sum(is_right(answer(q), q, world) for q in held_out) / len(held_out)
"""

from __future__ import annotations

from functools import cache

from tomoni.world.ask import (
    follow_ups,
    held_out_questions,
    is_right,
    most_frequent_answers,
    tuning_questions,
)
from tomoni.world.corpus import pretraining_documents
from tomoni.world.facts import Entity, Fact, World
from tomoni.world.safety import SafetyCase, safety_cases, safety_probes
from tomoni.world.tasks import classified_texts, span_questions, tagged_texts
from tomoni.world.tastes import Taste, taste_of
from tomoni.world.tell import tell
from tomoni.world.welcome import example_questions, what_it_knows

__all__ = [
    "Entity",
    "Fact",
    "SafetyCase",
    "Taste",
    "World",
    "bundled_world",
    "classified_texts",
    "example_questions",
    "follow_ups",
    "held_out_questions",
    "is_right",
    "most_frequent_answers",
    "pretraining_documents",
    "safety_cases",
    "safety_probes",
    "span_questions",
    "tagged_texts",
    "taste_of",
    "tell",
    "tuning_questions",
    "what_it_knows",
]

BUNDLED_SEED = 7


@cache
def bundled_world() -> World:
    """The world that the bundled base models have read about. Changing its seed or sizes means training them again."""
    return World.generate(BUNDLED_SEED)
