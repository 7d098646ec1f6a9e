"""A real pretrained Llama goes in and comes out: stories260K."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from tests.realdata import stories
from tomoni import hub
from tomoni.engine import models, saving
from tomoni.engine.sampler import Sampler, Sampling
from tomoni.engine.trained import choose
from tomoni.settings.common import TrainedPart

pytestmark = pytest.mark.realdata

# what llama2.c itself prints for this model at temperature 0, from its author's tests
BEGINNING = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a"
)
STORY = (
    "Once upon a time, there was a boy named Tom. Tom had a red ball. He liked to play with the ball in the park. "
    'One day, the ball was gone. Tom was sad. His mom said, "Let\'s look for it."'
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield stories.convert(tmp_path_factory.mktemp("stories"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return models.load(hub.locate(folder))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return [1, *tokenizer(text, add_special_tokens=False).input_ids]


def test_logits_are_those_of_float64_numpy_on_the_original_weights(model: Any, tokenizer: Any) -> None:
    tokens = _tokens(tokenizer, STORY)
    expected = stories.logits(stories.read(stories.source() / "stories260K.bin"), tokens)
    with torch.no_grad():
        found = model(torch.tensor([tokens])).logits[0].double().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


def test_text_becomes_the_original_tokenizers_pieces_and_back(tokenizer: Any) -> None:
    found = dict(enumerate(piece for piece, _ in stories.pieces(stories.source() / "stories260K_tok512.bin")))
    tokens = tokenizer("Once upon a time, 東京", add_special_tokens=False).input_ids
    pieces = [found[token] for token in tokens]
    assert "".join(pieces[: pieces.index(",")]).replace(stories.SPACE, " ") == " Once upon a time"
    assert pieces[-6:] == [f"<0x{byte:02X}>" for byte in "東京".encode()]
    assert tokenizer.decode(tokens) == "Once upon a time, 東京"


def test_it_continues_once_upon_a_time_as_llama2_c_does(model: Any, tokenizer: Any) -> None:
    prompt = torch.tensor([_tokens(tokenizer, "Once upon a time")])
    out = model.generate(prompt, max_new_tokens=64, do_sample=False)
    assert tokenizer.decode(out[0], skip_special_tokens=True).startswith(BEGINNING)


def test_a_real_story_is_far_likelier_than_its_words_in_another_order(model: Any, tokenizer: Any) -> None:
    words = re.findall(r"\S+", STORY)
    order = np.random.default_rng(0).permutation(len(words))
    story, shuffled = (_mean_logprob(model, tokenizer, text) for text in (STORY, " ".join(words[i] for i in order)))
    assert story > -2.5
    assert story > shuffled + 1
    assert shuffled > -math.log(512)


def _mean_logprob(model: Any, tokenizer: Any, text: str) -> float:
    tokens = torch.tensor(_tokens(tokenizer, text))
    with torch.no_grad():
        logprobs = model(tokens[None]).logits[0, :-1].log_softmax(-1)
    return float(logprobs.gather(1, tokens[1:, None]).mean())


def test_a_part_of_it_trains_and_the_saved_model_is_the_trained_one(
    folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    trained = choose(models.load(hub.locate(folder)), TrainedPart(train="lora", lora_r=4))
    tokens = torch.tensor([_tokens(tokenizer, "Once upon a time, Tom went to Tokyo.")])
    optimizer = torch.optim.AdamW(trained.parameters.values(), lr=0.01)
    losses = []
    for _ in range(20):
        loss = trained.model(tokens, labels=tokens).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] / 2
    saving.save_model(saving.merge(trained.model), tokenizer, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    with torch.no_grad():
        torch.testing.assert_close(plain(tokens).logits, trained.model(tokens).logits, rtol=0, atol=1e-3)


def test_the_sampler_continues_it_with_the_space_that_belongs_there(model: Any, tokenizer: Any) -> None:
    prompt = _tokens(tokenizer, "Once upon a time")
    (answer,) = Sampler(model, tokenizer).sample([prompt], Sampling(max_new_tokens=64, temperature=0.0))
    assert ("Once upon a time" + answer.text).startswith(BEGINNING)
