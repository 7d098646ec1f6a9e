"""A text as one vector, against transformers' own hidden states of each text alone."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model

from tests import tiny
from tomoni.engine.pooled import Pooled, groups


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_pooled_states_are_those_of_each_text_alone(architecture: str) -> None:
    model = tiny.model(architecture)
    prompts = [list(range(5, 5 + size)) for size in (3, 40, 9, 1)]
    answers = [list(range(60, 60 + size)) for size in (7, 20, 1, 30)]
    found = Pooled(model).answers(prompts, answers)
    texts = Pooled(model).texts(answers)
    for prompt, answer, one, text in zip(prompts, answers, found, texts, strict=True):
        with torch.no_grad():
            out = model(torch.tensor([prompt + answer]), output_hidden_states=True)
            alone = model(torch.tensor([answer]), output_hidden_states=True)
        assert one == pytest.approx(out.hidden_states[1][0, len(prompt) :].mean(0).numpy(), abs=1e-4)
        assert text == pytest.approx(alone.hidden_states[-1][0].mean(0).numpy(), abs=1e-4)


def test_an_adapter_is_part_of_what_is_pooled_and_virtual_tokens_are_not_averaged() -> None:
    prompt, answer = list(range(5, 12)), list(range(60, 69))
    plain = Pooled(tiny.model()).answers([prompt], [answer])[0]
    lora = get_peft_model(tiny.model(), LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    assert abs(Pooled(lora).answers([prompt], [answer])[0] - plain).max() > 1e-3
    tuned = get_peft_model(tiny.model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with torch.no_grad():
        virtual = tuned.get_prompt(1)
        embedded = tuned.get_base_model().get_input_embeddings()(torch.tensor([prompt + answer]))
        states = tuned.get_base_model()(
            inputs_embeds=torch.cat([virtual, embedded], 1), output_hidden_states=True
        ).hidden_states[1]
    found = Pooled(tuned).answers([prompt], [answer])[0]
    assert found == pytest.approx(states[0, 4 + len(prompt) :].mean(0).numpy(), abs=1e-4)


def test_nothing_cannot_be_averaged() -> None:
    with pytest.raises(ValueError, match="nothing to average"):
        Pooled(tiny.model()).answers([[1, 2]], [[]])


def test_rows_are_grouped_by_length_within_the_limit_and_each_is_in_one_group() -> None:
    lengths = [3, 50, 7, 7, 120, 1, 49]
    found = list(groups(lengths, 100))
    assert sorted(index for group in found for index in group) == list(range(7))
    assert all(len(group) == 1 or max(lengths[index] for index in group) * len(group) <= 100 for group in found)
