"""Answers as a model sees them: against one plain pass a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import tiny
from tomoni.engine.reading import middle_layer, read_answers
from tomoni.rows import Row


def rows() -> list[Row]:
    draws = np.random.default_rng(0)
    made = []
    for prompt, answer in ((3, 2), (1, 9), (12, 1), (5, 5)):
        weights = np.r_[np.zeros(prompt), np.ones(answer)].astype(np.float32)
        made.append(Row(draws.integers(0, 250, prompt + answer).astype(np.int32), weights))
    return made


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
@pytest.mark.parametrize("budget", [1, 40, 4096])
def test_states_and_log_probabilities_are_those_of_one_row_alone(kind: str, budget: int) -> None:
    model = tiny.model(kind)
    read = read_answers(model, rows(), budget=budget)
    for index, row in enumerate(rows()):
        with torch.no_grad():
            output = model(torch.from_numpy(row.tokens.astype(np.int64))[None], output_hidden_states=True)
        answer = np.flatnonzero(row.weights)
        states = output.hidden_states[middle_layer(model) + 1][0, answer].double().mean(0)
        logprobs = torch.log_softmax(output.logits[0].double(), -1)
        total = sum(float(logprobs[place - 1, row.tokens[place]]) for place in answer)
        assert read.features_ND[index] == pytest.approx(states.numpy(), abs=1e-5)
        assert read.logprob_N[index] == pytest.approx(total, abs=1e-4)
        assert read.tokens_N[index] == len(answer)


def test_reading_leaves_no_trace_on_the_model() -> None:
    model = tiny.model("llama").train()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    read_answers(model, rows())
    assert model.training
    assert torch.equal(before, torch.random.get_rng_state())
    assert not any(layer._forward_hooks for layer in model.modules())


def test_a_row_without_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="no answer"):
        read_answers(tiny.model("llama"), [Row(np.arange(3, dtype=np.int32), np.zeros(3, dtype=np.float32))])
