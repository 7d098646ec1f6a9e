"""What ten judgements, or three corrections, do to the demo's model: measured by the hidden taste itself, on prompts that
nobody judged."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.loop.workspaces import asked
from tomoni.cli.demo import TUNING
from tomoni.cli.demo_asking import drawn, greedy, write
from tomoni.evaluate.subject import Subject, open_subject
from tomoni.feedback.entries import NewPrompt
from tomoni.feedback.store import Store
from tomoni.loop import practice
from tomoni.loop.learn import Plan, learn
from tomoni.records import Judgement, Kind
from tomoni.registry import Registry
from tomoni.run import start
from tomoni.settings.sft import Config
from tomoni.world import bundled_world, held_out_questions, is_right, taste_of, tuning_questions
from tomoni.world.polite import read as manners

pytestmark = pytest.mark.slow

WORLD = bundled_world()
MEASURED = list(held_out_questions(WORLD, 300, 77))
Texts = Sequence[str]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    write(folder / "tuning.jsonl", tuning_questions(WORLD, 600, 0))
    start(
        Config(
            model_name_or_path="bundled:small",
            train_file=(str(folder / "tuning.jsonl"),),
            output_dir=str(folder / "run"),
            threads=1,
            **TUNING,
        )
    )
    return folder / "run"


def workspace(path: Path, model: Path) -> tuple[Path, str]:
    path.mkdir()
    registry = Registry.open(path)
    registry.promote(registry.register(model).id)
    questions = tuning_questions(WORLD, 300, 21, conversations=0)
    with Store.open(path) as store:
        person = store.add_person("Aoi", role="owner").id
        store.add_prompts([NewPrompt(asked(one["messages"][0]["content"]), "world") for one in questions])
        held_out = held_out_questions(WORLD, 40, 21)
        store.add_prompts([NewPrompt(asked(one["messages"][0]["content"]), "world", held_out=True) for one in held_out])
    return path, person


def said(path: Path, person: str, model: Subject, count: int, say: Callable[[Texts, int], Any], *, seed: int) -> None:
    """`say` gives a judgement's (kind, answers, value) for different answers to a prompt, or None to go on."""
    with Store.open(path) as store:
        prompts = [row.messages for row in store.prompts(held_out=False)]
        random.Random(seed).shuffle(prompts)
        made = 0
        for one in practice.draw(model, prompts[: 8 * count], 6, seed=seed):
            found = say(list(dict.fromkeys(one.texts)), made)
            if found is None or made == count:
                continue
            kind, answers, value = found
            order = tuple(range(len(answers)))
            judgement = Judgement(
                f"j{made}", person, one.prompt, answers, order, kind, value, extra={"purpose": "train"}
            )
            store.judge(judgement, key=f"k{made}")
            made += 1
    assert made == count


def pressed(path: Path) -> tuple[dict[str, Any], Subject]:
    folder = learn(Plan(path, threads=1))
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result, open_subject(Registry.open(path).get(result["version"]).model)


def facts(model: Subject) -> float:
    return float(
        np.mean([is_right(text, one, WORLD) for text, one in zip(greedy(model, MEASURED), MEASURED, strict=True)])
    )


@pytest.mark.parametrize("number", [3, 5])
def test_ten_noisy_judgements_make_answers_that_this_person_likes_better(
    tuned: Path, tmp_path: Path, number: int
) -> None:
    taste, rng = taste_of(number), random.Random(number)

    def prefers(texts: Texts, _: int) -> Any:
        if len(texts) < 2:
            return None
        verdict = taste.prefers(texts[0], texts[1], rng)
        return Kind.COMPARISON, tuple(texts[:2]), {"verdict": verdict, "strength": 1}

    path, person = workspace(tmp_path / "w", tuned)
    before = open_subject(tuned)
    said(path, person, before, 10, prefers, seed=number)
    result, after = pressed(path)
    new, old = ([one[0] for one in drawn(model, MEASURED, 1, seed=seed)] for model, seed in ((after, 2), (before, 1)))
    won = [np.sign(taste.score(a) - taste.score(b)) / 2 + 0.5 for a, b in zip(new, old, strict=True)]
    assert np.mean(won) - 2 * np.std(won) / len(won) ** 0.5 > 0.55
    assert facts(after) > facts(before) - 0.08
    assert result["seconds"] < 120


def test_three_corrections_to_polite_japanese_make_all_japanese_answers_polite(tuned: Path, tmp_path: Path) -> None:
    def corrects(texts: Texts, _: int) -> Any:
        polite = next((text for text in texts if practice.in_japanese(asked(text)) and manners(text).polite), None)
        rude = next((text for text in texts if practice.in_japanese(asked(text)) and not manners(text).polite), None)
        return None if polite is None or rude is None else (Kind.CORRECTION, (rude,), {"answer": 0, "text": polite})

    path, person = workspace(tmp_path / "w", tuned)
    before = open_subject(tuned)
    said(path, person, before, 3, corrects, seed=0)
    result, after = pressed(path)
    japanese = [one for one in MEASURED if one["lang"] == "ja"]
    shares = [
        np.mean([manners(texts[0]).polite for texts in drawn(model, japanese, 1, seed=3)]) for model in (before, after)
    ]
    assert shares[0] < 0.7 < 0.9 < shares[1]
    assert facts(after) > facts(before) - 0.05
    assert all(practice.in_japanese(asked(trial["prompt"][0]["content"])) for trial in result["trials"])
