"""The distance from the start and the entropy of what was sampled, against plain transformers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.engine.items import settings
from tests.methods.rollouts import Scored, config, engine, prompts
from tomoni import losses
from tomoni.engine.engine import Engine
from tomoni.rewards.looking import look
from tomoni.rewards.rollouts import from_start, roll_out
from tomoni.rows import Item, Row

REWARD = Scored(lambda answer: float(len(answer.completion)))


def plain(model: Any, row: Row) -> np.ndarray:
    """float64 log-probabilities of the sampled tokens."""
    with torch.no_grad():
        tokens = torch.tensor(row.tokens.astype(np.int64))
        logprobs = model.eval()(tokens[None]).logits[0].double().log_softmax(-1)
    return np.array([float(logprobs[place - 1, row.tokens[place]]) for place in np.flatnonzero(row.weights)])


def moved(built: Engine, items: Sequence[Item], *, steps: int = 3) -> None:
    trained = [
        item.with_rows([row.with_(behaviour=None, weights=np.r_[0, np.ones(len(row) - 1)].astype(np.float32))])
        for item in items
        for row in item.rows[:1]
    ]
    for _ in range(steps):
        built.forward_backward(trained, losses.nll)
        built.optim_step(3e-3)


def entropy_of(rows: Sequence[Row], policy: Any) -> float:
    return -float(np.concatenate([plain(policy, row) for row in rows]).mean())


def distance_of(rows: Sequence[Row], policy: Any, start: Any) -> float:
    gaps = [plain(policy, row) - plain(start, row) for row in rows]
    every = np.concatenate(gaps)
    # what is left of d when exp(-d) - 1, which is 0 in expectation, has explained what it can
    surplus = np.exp(-every) - 1
    part, _ = np.polyfit(surplus, every, 1)
    return float((every - part * surplus).sum() / len(rows))


@pytest.mark.parametrize("method", ["grpo", "rloo", "bestofn"])
def test_at_the_start_the_distance_is_nothing(method: str) -> None:
    cfg = config(method)
    built = engine(cfg)
    rollout = roll_out(built, built.sampler(), prompts("一つ目", "two"), cfg, REWARD, step=0)
    assert from_start(built, rollout.items)["kl_from_start"].value < 1e-6


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_distance_and_entropy_are_those_that_plain_transformers_finds(temperature: float) -> None:
    cfg = config("grpo", temperature=temperature)
    start = tiny.model()
    built = engine(cfg, copy.deepcopy(start))
    asked = prompts("一つ目", "two", "3")
    moved(built, asked)
    rollout = roll_out(built, built.sampler(), asked, cfg, REWARD, step=1)
    found = from_start(built, rollout.items)
    policy = Tempered(built.model, temperature)
    firsts = [item.rows[0] for item in rollout.items]
    kl = distance_of(firsts, policy, Tempered(start, temperature))
    assert found["kl_from_start"].value == pytest.approx(kl, rel=1e-3) and kl > 0.01
    told = [row for item in rollout.items for row in item.rows] if temperature == 1.0 else firsts
    entropy = entropy_of(told, policy)  # the sampler told all of them only where it draws from the model itself
    assert found["entropy"].value == pytest.approx(entropy, rel=1e-3)


class Tempered:
    def __init__(self, model: Any, temperature: float) -> None:
        self.model, self.temperature = model, temperature

    def eval(self) -> Tempered:
        return self

    def __call__(self, tokens: torch.Tensor) -> Any:
        out = self.model.eval()(tokens)
        out.logits = out.logits / self.temperature
        return out


@pytest.mark.parametrize("reference", ["ema", "another"])
def test_the_start_stays_what_the_distance_is_from_when_the_reference_is_something_else(reference: str) -> None:
    cfg = config("rloo")
    start, other = tiny.model(), tiny.model(seed=9)
    built = Engine(
        (model := copy.deepcopy(start)),
        trained=dict(model.named_parameters()),
        cfg=cfg,
        keep_reference=True,
        reference_engine=Engine(other, trained={}, cfg=settings()) if reference == "another" else None,
        tokenizer=tiny.tokenizer(),
    )
    asked = prompts("一つ目", "two")
    moved(built, asked)
    if reference == "ema":
        built.move_reference(0.7)
    rollout = roll_out(built, built.sampler(), asked, cfg, REWARD, step=1)
    kl = distance_of([item.rows[0] for item in rollout.items], built.model, start)
    assert from_start(built, rollout.items)["kl_from_start"].value == pytest.approx(kl, rel=1e-3)
    looked = look(built, asked, cfg, REWARD)
    assert looked["kl_from_start"].value != pytest.approx(looked["objective/kl"].value, rel=0.05)


def test_a_look_tells_each_prompts_own_numbers_and_adds_them_in_order() -> None:
    cfg = config("grpo")
    built = engine(cfg)
    asked = prompts("一つ目", "two", "3")
    whole, parts = (
        look(built, asked, cfg, REWARD),
        look(built, asked[:2], cfg, REWARD) + look(built, asked[2:], cfg, REWARD),
    )
    assert whole.each == parts.each and whole["reward"] == parts["reward"]  # type: ignore[attr-defined]
    assert whole["reward"].value == pytest.approx(np.mean(whole.each["reward"]))
    assert len(whole.each["log_length"]) == 3
