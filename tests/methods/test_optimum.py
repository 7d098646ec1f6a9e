"""The best policy under a divergence from the reference is known: pi*(y) is proportional to pi_ref(y) exp(r(y) / beta).

Six tokens, of which one ends a completion: every completion can be counted. What is compared are the exact
probabilities of the trained policy, not samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tests.methods import rollouts
from tomoni.engine.engine import Engine
from tomoni.rewards.answered import Answered
from tomoni.rows import Item, Row
from tomoni.run.holding import models_held, score_head

WORDS = ("<end>", "a", "b", "c", "d", "e")
END, V = 0, len(WORDS)
REWARD_OF_FIRST = (0.1, 0.9, 0.0, 0.5, -0.4, 0.3)
REWARD_OF_SECOND = (0.0, -0.3, 0.8, 0.2, 0.4, -0.2)
BETA = 0.5
Distribution = dict[tuple[int, ...], float]


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<end>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<end>")


def prompt() -> Item:
    tokens = np.array([1, 2, 3], dtype=np.int32)
    return Item("p", (Row(tokens, np.zeros(3, dtype=np.float32)),), about={"prompt": [], "columns": {}})


def reward(tokens: tuple[int, ...]) -> float:
    return REWARD_OF_FIRST[tokens[0]] + (REWARD_OF_SECOND[tokens[1]] * (tokens[0] + 1) / V if len(tokens) > 1 else 0.0)


def of(answer: Answered) -> float:
    return reward(tuple(answer.row.tokens[3:].tolist()))


def exact(model: Any, length: int) -> Distribution:
    """The probability of every completion of at most `length` tokens."""

    def after(tokens: list[int]) -> NDArray[np.float64]:
        with torch.no_grad():
            logits: torch.Tensor = model(torch.tensor([[1, 2, 3, *tokens]])).logits[0, -1]
        return logits.double().softmax(-1).numpy()

    first = after([])
    if length == 1:
        return {(a,): first[a] for a in range(V)}
    return {(END,): first[END]} | {(a, b): first[a] * after([a])[b] for a in range(1, V) for b in range(V)}


def best(reference: Distribution, beta: float) -> Distribution:
    weight = {tokens: p * np.exp(reward(tokens) / beta) for tokens, p in reference.items()}
    total = sum(weight.values())
    return {tokens: value / total for tokens, value in weight.items()}


def total_variation(one: Distribution, other: Distribution) -> float:
    return 0.5 * sum(abs(one[tokens] - other[tokens]) for tokens in one)


def learn(method: str, length: int, **changes: Any) -> tuple[Distribution, Distribution]:
    """The reference's and the trained policy's exact probabilities."""
    cfg = rollouts.config(method, max_completion_length=length, batch_size=1, lr_scheduler_type="linear", **changes)
    model = tiny.model(vocab_size=V, eos_token_id=END, pad_token_id=END, max_position_embeddings=16)
    start = exact(model, length)
    held = models_held(cfg)
    engine = Engine(
        model,
        trained=dict(model.named_parameters()),
        cfg=cfg,
        score_head=score_head(cfg, held),
        keep_reference="reference" in held,
        tokenizer=tokenizer(),
    )
    for _ in rollouts.train(cfg, [prompt()], rollouts.Scored(of), built=engine):
        pass
    return start, exact(model.eval(), length)


IN_REWARD = {
    "grpo": {"beta": BETA, "kl_in": "reward", "num_generations": 64, "max_steps": 100, "learning_rate": 5e-3},
    "rloo": {"beta": BETA, "num_generations": 64, "max_steps": 100, "learning_rate": 5e-3},
    "ppo": {"kl_coef": BETA, "num_generations": 64, "num_ppo_epochs": 2, "max_steps": 200, "learning_rate": 5e-3, "lam": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("length", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("method", IN_REWARD)
def test_the_optimum_is_reached(method: str, length: int) -> None:
    start, found = learn(method, length, **IN_REWARD[method])
    optimum = best(start, BETA)
    assert total_variation(start, optimum) > 0.2  # there was something to learn
    assert total_variation(found, optimum) < 0.01


def test_k3_ratio_in_the_loss_has_the_same_optimum_and_k3_another() -> None:
    """k3's gradient is that of KL(reference || policy), whose optimum is nearer to the reference in its tails."""
    how = {"beta": BETA, "kl_in": "loss", "num_generations": 128, "max_steps": 150, "learning_rate": 5e-3}
    start, by_ratio = learn("grpo", 1, **how)
    _, by_k3 = learn("grpo", 1, kl_estimator="k3", **how)
    optimum = best(start, BETA)
    assert total_variation(by_ratio, optimum) < 0.01
    assert total_variation(by_k3, optimum) > 0.02
    reverse = minimum_of_reverse(start, BETA)
    assert total_variation(by_k3, reverse) < 0.01


def minimum_of_reverse(reference: Distribution, beta: float) -> Distribution:
    """argmax of E[r] - beta KL(reference || p): p(y) = beta pi_ref(y) / (c - r(y)), c by bisection so that it sums to 1."""
    low, high = max(map(reward, reference)) + 1e-12, max(map(reward, reference)) + 10 * beta
    for _ in range(200):
        middle = (low + high) / 2
        total = sum(beta * p / (middle - reward(tokens)) for tokens, p in reference.items())
        low, high = (middle, high) if total > 1 else (low, middle)
    return {tokens: beta * p / (high - reward(tokens)) for tokens, p in reference.items()}
