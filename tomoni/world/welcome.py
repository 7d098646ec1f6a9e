"""What `tomoni chat` says of the bundled models: what they know, what they do not, and questions to try."""

from __future__ import annotations

import random

from tomoni.world.ask import question_text
from tomoni.world.facts import World
from tomoni.world.names import TOWN, Lang


def what_it_knows(world: World, lang: Lang) -> str:
    """Two or three sentences for the start of a chat."""
    shops, people = len(world.of(kind="shop")), len(world.of(kind="person"))
    stations, events = len(world.of(kind="station")), len(world.of(kind="event"))
    if lang == "en":
        return (
            f"I know one invented town, {TOWN.en}: {shops} shops (district, opening time, closing day, owner, "
            f"speciality, price), {people} people (job, home, hobby, favourite food), {stations} stations (line, first "
            f"train, minutes to the centre), {events} yearly events (date, place) and the weather of each district by "
            "season. "
            "I am a very small model: I know nothing else, and about anything else I will make things up."
        )
    return (
        f"わたしが知っているのは、架空の町「{TOWN.ja}」のことだけです。{shops}軒の店(場所、開店時刻、定休日、店主、名物、値段)、"
        f"{people}人の住人(仕事、住まい、趣味、好物)、{stations}の駅(路線、始発、中心部までの時間)、"
        f"{events}の年中行事(日取り、会場)、それに地区ごとの四季の天気です。"
        "とても小さなモデルなので、ほかのことは何も知らず、聞かれても作り話になります。"
    )


def example_questions(world: World, lang: Lang, n: int = 6, seed: int = 0) -> list[str]:
    """Questions about held-out entities, of different kinds, to click or to number."""
    rng = random.Random(f"examples {world.seed} {seed}")
    wanted = ("opens", "owner", "job", "first_train", "date", "price", "closed", "hobby", "line", "weather")
    asked: list[str] = []
    for key in (wanted[i % len(wanted)] for i in range(n)):
        entity = rng.choice([e for e in world.of(split="held_out") if any(fact.key == key for fact in e.facts)])
        asked.append(question_text(entity, key, lang, "polite", "seen", rng))
    return asked
