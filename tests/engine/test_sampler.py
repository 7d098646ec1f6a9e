"""The sampler against transformers' `generate` and plain forward passes, on every tiny architecture."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import LogitsProcessorList
from transformers.generation import logits_process as theirs

from tests import tiny
from tomoni.engine import draw
from tomoni.engine.draw import Sampling
from tomoni.engine.sampler import Sampler
from tomoni.errors import ConfigError, ModelError, UserError

GREEDY = Sampling(max_new_tokens=24, temperature=0)
END = 258
TEXTS = ("a", "日本語で話す", "x" * 17, "the window is sixteen tokens and this is longer", "y" * 40, "🙂")
PROMPTS = [tiny.tokenizer().encode(text) for text in TEXTS]


def sampler(model: Any = None, **options: Any) -> Sampler:
    return Sampler(model or tiny.model(), tiny.tokenizer(), **{"eos_ids": [END], **options})


def generated(model: Any, prompt: list[int], count: int) -> list[int]:
    """transformers' own greedy answer."""
    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)).long(), max_new_tokens=count, do_sample=False,
        eos_token_id=END, pad_token_id=259,
    )  # fmt: skip
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("max_batch", [1, 4, 64])
def test_greedy_answers_are_those_of_generate_however_the_prompts_are_batched(
    architecture: str, max_batch: int
) -> None:
    model = tiny.model(architecture)
    answers = sampler(model, max_batch=max_batch).sample(PROMPTS, GREEDY)
    assert [answer.tokens.tolist() for answer in answers] == [generated(model, prompt, 24) for prompt in PROMPTS]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_prompts_that_enter_and_leave_midway_change_no_other_answer(architecture: str) -> None:
    model = tiny.model(architecture)
    under_test = sampler(model)
    told: dict[str, list[int]] = {}
    arrivals = {0: [0, 3], 3: [4], 5: [1, 2], 20: [5]}
    for step in range(60):
        for number in arrivals.get(step, ()):
            under_test.add(PROMPTS[number], GREEDY, str(number))
        if step == 9:
            under_test.cancel("3")
        for increment in under_test.step():
            told.setdefault(increment.id, []).extend([] if increment.token is None else [increment.token])
    assert under_test.idle
    for number in (0, 1, 2, 4, 5):
        assert told[str(number)] == generated(model, PROMPTS[number], 24)
    assert told["3"] == generated(model, PROMPTS[3], 24)[:9]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_logprobs_are_those_of_a_plain_forward_pass_whatever_the_temperature(architecture: str) -> None:
    model = tiny.model(architecture)
    how = Sampling(max_new_tokens=20, temperature=1.7, top_k=50, repetition_penalty=1.2, logprobs=True)
    for prompt, answer in zip(PROMPTS, sampler(model).sample(PROMPTS, how), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer.tokens.tolist()])).logits[0].double()
        # float64, by the definition: p = exp(x) / sum exp(x)
        weights = np.exp(logits.numpy())
        expected = [
            math.log(weights[len(prompt) - 1 + i, token] / weights[len(prompt) - 1 + i].sum())
            for i, token in enumerate(answer.tokens)
        ]
        assert answer.logprobs == pytest.approx(expected, abs=1e-4)


def test_an_answer_depends_on_seed_and_id_but_not_on_what_else_is_in_the_batch() -> None:
    how = Sampling(max_new_tokens=20, temperature=1.0, seed=3)
    alone = sampler().sample([PROMPTS[1]], how, ids=["it"])[0].tokens.tolist()
    among = sampler().sample([*PROMPTS, PROMPTS[1]], how, ids=[*"abcdef", "it"])[-1].tokens.tolist()
    other_id = sampler().sample([PROMPTS[1]], how, ids=["other"])[0].tokens.tolist()
    other_seed = sampler().sample([PROMPTS[1]], Sampling(max_new_tokens=20, seed=4), ids=["it"])[0].tokens.tolist()
    assert alone == among
    assert alone != other_id
    assert alone != other_seed


def test_several_answers_to_one_prompt_differ_and_are_reproduced() -> None:
    how = Sampling(max_new_tokens=10)
    first = [answer.tokens.tolist() for answer in sampler().sample([PROMPTS[1]] * 8, how)]
    again = [answer.tokens.tolist() for answer in sampler(max_batch=3).sample([PROMPTS[1]] * 8, how)]
    assert first == again
    assert len({tuple(tokens) for tokens in first}) == 8


def test_sampling_leaves_random_streams_modes_gradients_and_weights_as_they_were() -> None:
    model = tiny.model("llama", attention_dropout=0.5)
    model.train()
    model.model.layers[0].eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    answers = sampler(model).sample(PROMPTS, Sampling(max_new_tokens=5, temperature=0))
    assert torch.equal(torch_state, torch.random.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # type: ignore[arg-type, index]
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert answers[0].tokens.tolist() == generated(model.eval(), PROMPTS[0], 5)  # and no dropout
    model.train()
    model(torch.tensor([PROMPTS[1]]), labels=torch.tensor([PROMPTS[1]])).loss.backward()  # training goes on


@pytest.mark.parametrize(
    ("how", "warpers"),
    [
        (Sampling(temperature=0.5), [theirs.TemperatureLogitsWarper(0.5)]),
        (Sampling(top_k=5), [theirs.TopKLogitsWarper(5)]),
        (Sampling(top_p=0.7), [theirs.TopPLogitsWarper(0.7)]),
        (Sampling(min_p=0.2), [theirs.MinPLogitsWarper(0.2)]),
        (
            Sampling(temperature=2.0, top_k=20, top_p=0.8, min_p=0.1),
            [theirs.TemperatureLogitsWarper(2.0), theirs.TopKLogitsWarper(20), theirs.TopPLogitsWarper(0.8), theirs.MinPLogitsWarper(0.1)],
        ),
    ],
    ids=["temperature", "top_k", "top_p", "min_p", "all"],
)  # fmt: skip
def test_the_distribution_is_that_of_transformers(how: Sampling, warpers: list[Any]) -> None:
    logits = torch.randn(6, 64, generator=torch.Generator().manual_seed(0)) * 3
    expected = LogitsProcessorList(warpers)(None, logits.clone()).softmax(-1)  # type: ignore[arg-type]
    ours = draw.distribution(logits, how)
    assert torch.allclose(ours / ours.sum(-1, keepdim=True), expected, atol=1e-6)


def test_penalties_make_what_was_said_less_likely() -> None:
    logits = torch.tensor([[2.0, 1.8, -1.0, -1.2]])
    told = {"prompts": [[0]], "answers": [[2]], "draws": [0.5]}
    # 2.0 / 1.5 = 1.33 < 1.8: the prompt's token loses
    assert draw.choose(logits, Sampling(temperature=0, repetition_penalty=1.5), **told).tolist() == [1]
    # presence looks at the answer only: token 0 is in the prompt and stays
    assert draw.choose(logits, Sampling(temperature=0, presence_penalty=2.0), **told).tolist() == [0]
    said = {"prompts": [[3]], "answers": [[0]], "draws": [0.5]}
    assert draw.choose(logits, Sampling(temperature=0, presence_penalty=0.3), **said).tolist() == [1]
    # a negative logit is multiplied: -1.0 * 1.5 = -1.5 < -1.2
    low = torch.tensor([[-1.0, -1.2]])
    pick = draw.choose(low, Sampling(temperature=0, repetition_penalty=1.5), prompts=[[0]], answers=[[]], draws=[0.5])
    assert pick.tolist() == [1]


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).log().expand(4000, 4)
    draws = [draw.uniform(draw.key(0, "prompt"), position) for position in range(4000)]
    counts = Counter(draw.choose(logits, Sampling(), draws, prompts=[[]] * 4000, answers=[[]] * 4000).tolist())
    # five standard deviations of a binomial: 5 * sqrt(4000 * .5 * .5) = 158
    assert abs(counts[0] - 2000) < 158
    assert abs(counts[1] - 1200) < 145
    assert counts[3] == 0


def test_an_impossible_token_is_never_drawn_at_the_borders() -> None:
    logits = torch.tensor([[0.0, 0.5, 0.5, 0.0]]).log()
    for edge in (0.5 / 2**48, 1 - 0.5 / 2**48):
        assert draw.choose(logits, Sampling(), [edge], prompts=[[]], answers=[[]]).item() in (1, 2)


class Scripted(torch.nn.Module):
    """A model that says a fixed text: its logits name the token after the prompt's and the answer's so far."""

    def __init__(self, script: list[int], prompt: int) -> None:
        super().__init__()
        self.real = tiny.model()
        self.config, self.generation_config = self.real.config, self.real.generation_config
        self.script, self.prompt = script, prompt

    def forward(self, input_ids: Any, position_ids: Any, logits_to_keep: int = 0, **rest: Any) -> Any:
        out = self.real(input_ids=input_ids, position_ids=position_ids, **rest)
        at = int(position_ids[0, -1]) + 1 - self.prompt
        out.logits = torch.full_like(out.logits[:, -1:], -9.0)
        out.logits[..., self.script[at]] = 9.0
        return out


def says(text: str, **how: Any) -> tuple[list[str], Any]:
    """The increments' texts and the last increment, of a model that says `text`."""
    tokenizer = tiny.tokenizer()
    script = [*tokenizer.encode(text), END]
    under_test = sampler(Scripted(script, prompt=2))
    under_test.add(tokenizer.encode("Q:"), Sampling(**{"max_new_tokens": 500, "temperature": 0, **how}))
    told = []
    while not under_test.idle:
        told += under_test.step()
    return [increment.text for increment in told], told[-1]


def test_no_increment_splits_a_character() -> None:
    text = "日本語と絵文字🙂、ﾊﾝｶｸ、が、👩‍👩‍👧 end"
    texts, last = says(text)
    assert "".join(texts) == text
    assert not any("\ufffd" in part for part in texts)
    assert last.finished == "stop"
    assert len(texts) == len(text.encode()) + 1  # a byte a token: most increments are empty


def test_a_character_cut_off_by_the_length_is_shown_as_broken() -> None:
    texts, last = says("日本", max_new_tokens=4)
    assert "".join(texts) == "日\ufffd"
    assert last.finished == "length"


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one\n\ntwo", ("\n\n",), "one"),
        ("値段は三百円です。次は", ("。次",), "値段は三百円です"),
        ("ab abc abcd abcde", ("abcde", "zz"), "ab abc abcd "),
        ("aaab", ("aab",), "a"),
        ("first, second", ("second", "first, s"), ""),
    ],
)
def test_a_stop_string_ends_the_answer_and_no_part_of_it_is_told(
    text: str, stop: tuple[str, ...], expected: str
) -> None:
    texts, last = says(text + " and more", stop=stop)
    assert "".join(texts) == expected
    assert last.finished == "stop"


def test_the_beginning_of_a_stop_string_is_told_when_the_answer_ends_there() -> None:
    texts, last = says("see you </s", stop=("</stop>",))
    assert "".join(texts) == "see you </s"
    assert last.finished == "stop"


def test_what_ends_an_answer_comes_from_config_tokenizer_and_template() -> None:
    model = tiny.model()
    model.generation_config.eos_token_id = [7, 8]
    under_test = Sampler(model, tiny.tokenizer())
    assert under_test.eos_ids >= {7, 8, END}


def test_a_full_context_ends_the_answer_and_a_longer_prompt_is_refused() -> None:
    model = tiny.model(max_position_embeddings=32)
    answer = sampler(model).sample([[65] * 30], Sampling(max_new_tokens=50, temperature=0))[0]
    assert (len(answer.tokens), answer.finish) == (2, "length")
    for size in (32, 100):
        with pytest.raises(UserError, match=f"{size} tokens and the model's context is 32"):
            sampler(model).add([65] * size, GREEDY)


def test_bad_prompts_and_options_are_refused_with_the_value() -> None:
    under_test = sampler()
    with pytest.raises(UserError, match="empty"):
        under_test.add([], GREEDY)
    with pytest.raises(ModelError, match="token 260"):
        under_test.add([1, 260], GREEDY)
    with pytest.raises(ConfigError, match=r"(?s)temperature is -1.*top_p is 0"):
        Sampling(temperature=-1, top_p=0)
    with pytest.raises(UserError):
        under_test.sample([[1], []], GREEDY)
    assert under_test.idle  # nothing half added


def test_a_model_that_gives_no_numbers_is_refused() -> None:
    model = tiny.model()
    model.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="not a number"):
        sampler(model).sample([[1]], GREEDY)


def test_cancelling_tells_so_once_for_waiting_and_running_answers() -> None:
    under_test = sampler(max_batch=1)
    under_test.add([1], Sampling(max_new_tokens=99, temperature=0), "running")
    under_test.add([2], GREEDY, "waiting")
    under_test.step()
    for name in ("running", "waiting", "waiting", "unknown"):
        under_test.cancel(name)
    assert sorted((increment.id, increment.finished) for increment in under_test.step()) == [
        ("running", "cancelled"),
        ("waiting", "cancelled"),
    ]
    assert under_test.idle


def test_the_batch_and_token_bounds_hold() -> None:
    under_test = sampler(max_batch=4, max_tokens=100)
    for number in range(6):
        under_test.add([1] * 10, Sampling(max_new_tokens=20, temperature=1, seed=number))
    told = under_test.step()
    assert len(told) == 3  # 30 tokens each


def test_lora_acts_in_prefill_and_in_every_step() -> None:
    model = get_peft_model(tiny.model(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))  # type: ignore[arg-type]
    answers = sampler(model.eval(), max_batch=4).sample(PROMPTS, GREEDY)
    assert [answer.tokens.tolist() for answer in answers] == [generated(model, prompt, 24) for prompt in PROMPTS]


def test_the_virtual_tokens_of_prompt_tuning_are_given_once() -> None:
    model = get_peft_model(tiny.model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)).eval()  # type: ignore[arg-type]
    answers = sampler(model, max_batch=4).sample(PROMPTS, Sampling(max_new_tokens=8, temperature=0))
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        tokens = list(prompt)
        for expected in answer.tokens:  # the whole sequence anew for each token
            with torch.no_grad():
                assert int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()) == expected
            tokens.append(int(expected))


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_the_likeliest_tokens_are_told_to_who_asks_and_to_nobody_else(architecture: str) -> None:
    model = tiny.model(architecture)
    under_test = sampler(model)
    under_test.add(PROMPTS[1], Sampling(max_new_tokens=6, temperature=2.0, logprobs=True, top_logprobs=3), "asks")
    under_test.add(PROMPTS[2], Sampling(max_new_tokens=6, temperature=2.0), "does not")
    told: dict[str, list[Any]] = {"asks": [], "does not": []}
    while not under_test.idle:
        for increment in under_test.step():
            told[increment.id].append(increment)
    assert all(increment.likeliest == () for increment in told["does not"])
    tokens = list(PROMPTS[1])
    for increment in told["asks"]:
        with torch.no_grad():
            weights = np.exp(model(torch.tensor([tokens])).logits[0, -1].double().numpy())
        expected = {token: math.log(weights[token] / weights.sum()) for token in np.argsort(-weights)[:3]}
        assert [token for token, _ in increment.likeliest] == list(expected)
        assert [value for _, value in increment.likeliest] == pytest.approx(list(expected.values()), abs=1e-4)
        tokens.append(increment.token)


def test_answers_with_names_of_their_own_can_share_their_draws() -> None:
    how = Sampling(max_new_tokens=12, temperature=1.5, seed=5)
    under_test = sampler()
    under_test.add(PROMPTS[1], how, "one", draws="0")
    under_test.add(PROMPTS[1], how, "another", draws="0")
    under_test.add(PROMPTS[1], how, "a third", draws="1")
    told: dict[str, list[int | None]] = {}
    while not under_test.idle:
        for increment in under_test.step():
            told.setdefault(increment.id, []).append(increment.token)
    assert told["one"] == told["another"] != told["a third"]


@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 1e-300},
        {"temperature": 8.7e-178},
        {"temperature": 1e-40},
        {"top_p": 1e-300},
        {"min_p": 0.9999999999},
    ],
)
def test_values_that_float32_takes_for_nothing_give_the_likeliest_tokens_and_disturb_nobody(
    how: dict[str, float],
) -> None:
    under_test = sampler()
    under_test.add(PROMPTS[1], Sampling(max_new_tokens=12, **how), "extreme")
    under_test.add(PROMPTS[1], GREEDY, "greedy")
    under_test.add(PROMPTS[2], Sampling(max_new_tokens=12, temperature=1.3, seed=3), "other", draws="0")
    told: dict[str, list[int]] = {"extreme": [], "greedy": [], "other": []}
    while not under_test.idle:
        for increment in under_test.step():
            assert increment.token is not None
            told[increment.id].append(increment.token)
    assert told["extreme"] == told["greedy"][:12]
    alone = sampler().sample([PROMPTS[2]], Sampling(max_new_tokens=12, temperature=1.3, seed=3))[0]
    assert told["other"] == alone.tokens.tolist()


def test_a_small_temperature_is_the_formula_in_float64() -> None:
    logits = torch.tensor([[3.0, 2.996, 1.0, -40.0]])
    for temperature in (0.02, 0.0099, 0.004):
        weights = np.exp((logits.double().numpy() - 3.0) / temperature)
        found = draw.distribution(logits, Sampling(temperature=temperature))
        assert found.numpy() == pytest.approx(weights / weights.sum(), rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("compiled", [True, False])
@given(st.integers(1, 700), st.integers(0, 2**32 - 1), st.floats(0.05, 20), st.floats(0.1, 40))
@settings(max_examples=60, deadline=None)
def test_a_draw_is_the_inverse_of_the_cumulated_weights_in_float64(
    compiled: bool, width: int, seed: int, temperature: float, spread: float
) -> None:
    """By numpy: the first token whose cumulated weight exceeds the draw's share; beside a border either side may be it."""
    random = np.random.default_rng(seed)
    logits = (random.normal(size=(5, width)) * spread).astype(np.float32)
    logits[:, random.random(width) < 0.3] = -np.inf  # impossible
    logits[:, random.integers(width)] = 1.0
    draws = random.random(5)
    with contextlib.ExitStack() as stack:
        if not compiled:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr(draw, "kernels_for", lambda *tensors: None)
        how = Sampling(temperature=temperature)
        found = draw.choose(torch.tensor(logits), how, draws.tolist(), prompts=[[]] * 5, answers=[[]] * 5).tolist()
        told = draw.logprobs(torch.tensor(logits), torch.tensor(found)).tolist()
    for row, (token, value) in enumerate(zip(found, told, strict=True)):
        exact = logits[row].astype(np.float64)
        weights = np.exp((exact - exact.max()) / temperature)
        cumulated = weights.cumsum() / weights.sum()
        assert weights[token] > 0
        assert cumulated[token] > draws[row] - 1e-5
        assert (cumulated[token] - weights[token] / weights.sum()) < draws[row] + 1e-5
        assert value == pytest.approx(
            exact[token] - exact.max() - math.log(np.exp(exact - exact.max()).sum()), abs=2e-4
        )
