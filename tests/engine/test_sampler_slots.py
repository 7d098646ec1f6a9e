"""The decoder in slots: against the way transformers runs the same model, and what it promises beyond answers."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from tests import tiny
from tests.engine.items import engine, random_items
from tests.engine.test_sampler import END, GREEDY, PROMPTS, generated, sampler
from tomoni import losses
from tomoni.engine.decode import SlotDecoder, slot_decoder
from tomoni.engine.draw import Sampling
from tomoni.engine.kernels import library
from tomoni.engine.matrices import FloatMatrix, Int8Matrix
from tomoni.engine.quantized import quality_loss
from tomoni.engine.sampler import Sampler
from tomoni.engine.slots import Piece, Slots
from tomoni.errors import ModelError, UserError

FAMILY = ("llama", "qwen3", "mistral")
needs_compiler = pytest.mark.skipif(library() is None, reason="no C compiler here")


@pytest.fixture(autouse=True, params=[pytest.param("c", marks=needs_compiler), "pytorch"])
def layers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to run the layers."""
    if request.param == "pytorch":
        monkeypatch.setattr("tomoni.engine.decode.compiled_layers", lambda *given: None)
    return str(request.param)


def fallback(model: Any, **options: Any) -> Sampler:
    """The sampler without its own decoder."""
    made = sampler(model, **options)
    made.__dict__["_slots"] = None
    return made


def decoder(model: Any) -> SlotDecoder:
    found = slot_decoder(model, "float32")
    assert found is not None
    return found


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_models_of_the_llama_family_have_the_decoder_and_others_have_not(architecture: str) -> None:
    assert (slot_decoder(tiny.model(architecture), "float32") is not None) == (architecture in FAMILY)


def test_other_types_growing_rotations_and_models_that_differ_in_their_arithmetic_are_left_to_transformers() -> None:
    assert slot_decoder(tiny.model().bfloat16(), "float32") is None
    growing = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert slot_decoder(tiny.model(rope_parameters=growing), "float32") is None
    odd = tiny.model()
    odd.lm_head.register_forward_hook(lambda module, given, out: out.tanh())
    assert slot_decoder(odd, "float32") is None


def test_qwen2_s_biases_take_part() -> None:
    model = tiny.model("llama", attention_bias=True, mlp_bias=True)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.5)
    decoder(model)
    answers = sampler(model).sample(PROMPTS, GREEDY)
    assert [answer.tokens.tolist() for answer in answers] == [generated(model, prompt, 24) for prompt in PROMPTS]


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 5), st.sampled_from([0.0, 1.0])),
        st.tuples(st.just("cancel"), st.integers(0, 9), st.just(0.0)),
        st.tuples(st.just("step"), st.integers(1, 6), st.just(0.0)),
    ),
    min_size=3,
    max_size=25,
)


def played(under_test: Sampler, actions: list[tuple[str, int, float]]) -> dict[str, tuple[list[int], str, str | None]]:
    told: dict[str, tuple[list[int], str, str | None]] = {}

    def step() -> None:
        for increment in under_test.step():
            tokens, text, finished = told.get(increment.id, ([], "", None))
            assert finished is None  # nothing after the end
            more = [] if increment.token is None else [increment.token]
            told[increment.id] = (tokens + more, text + increment.text, increment.finished)

    added = 0
    for kind, number, temperature in actions:
        if kind == "add":
            how = Sampling(max_new_tokens=3 + 4 * number, temperature=temperature, seed=number, stop=("e",))
            under_test.add(PROMPTS[number], how, str(added))
            added += 1
        elif kind == "cancel":
            under_test.cancel(str(number))
        else:
            for _ in range(number):
                step()
    while not under_test.idle:
        step()
    return told


@pytest.mark.parametrize("architecture", FAMILY)
@settings(max_examples=15, deadline=None)
@given(actions=ACTIONS, max_batch=st.sampled_from([1, 3, 64]), max_prefill=st.sampled_from([5, 64, 1024]))
def test_whatever_is_added_and_cancelled_the_answers_are_those_of_transformers_own_layers(
    architecture: str, actions: list[tuple[str, int, float]], max_batch: int, max_prefill: int
) -> None:
    model = tiny.model(architecture)
    told = played(sampler(model, max_batch=max_batch, max_prefill=max_prefill), actions)
    plain = played(fallback(model), [action for action in actions if action[0] != "step"])
    cancelled = {name for name, (_, _, finished) in (told | plain).items() if finished == "cancelled"}
    assert {name: answer for name, answer in told.items() if name not in cancelled} == {
        name: answer for name, answer in plain.items() if name not in cancelled
    }
    for name in cancelled & set(told):
        whole = fallback(model).sample([PROMPTS[0]], GREEDY)  # the model is intact
        assert whole[0].tokens.tolist() == generated(model, PROMPTS[0], 24)
        assert told[name][2] in ("cancelled", "stop", "length")


def test_the_memory_of_keys_and_values_stays_where_it_is_over_all_steps() -> None:
    under_test = sampler()
    for number, prompt in enumerate(PROMPTS):
        under_test.add(prompt, Sampling(max_new_tokens=20 + number, temperature=0))
    under_test.step()
    assert under_test._slots is not None
    places = set()
    while not under_test.idle:
        under_test.step()
        places.add(under_test._slots.slots.memory_LSYCd.data_ptr())
    assert len(places) == 1


def test_rows_longer_than_the_room_and_more_rows_than_slots_make_it_grow_a_few_times_only() -> None:
    model = tiny.model(max_position_embeddings=2048)
    under_test = sampler(model)
    for number in range(20):
        under_test.add([1 + number] * 5, Sampling(max_new_tokens=400, temperature=0))
    sizes = []
    told: dict[str, list[int]] = {}
    while not under_test.idle:
        for increment in under_test.step():
            told.setdefault(increment.id, []).append(increment.token or 0)
        assert under_test._slots is not None
        sizes.append(tuple(under_test._slots.slots.memory_LSYCd.shape))
    assert len(set(sizes)) <= 4
    assert told["7"] == generated(model, [8] * 5, 400)


def test_a_long_prompt_does_not_stop_the_answers_that_run() -> None:
    under_test = sampler(tiny.model(max_position_embeddings=4096), max_prefill=64)
    under_test.add(PROMPTS[0], Sampling(max_new_tokens=60, temperature=1.0, seed=1), "running")
    under_test.step()
    under_test.add([65] * 1000, Sampling(max_new_tokens=1, temperature=0), "long")
    seen = []
    while "long" not in seen:
        told = [increment.id for increment in under_test.step()]
        assert "running" in told  # a token in every step
        seen += told
    # 1000 tokens of 64 a step: the 16th step ends them
    assert seen.count("running") == 16


def test_a_short_prompt_behind_a_long_one_does_not_wait_for_it() -> None:
    under_test = sampler(tiny.model(max_position_embeddings=4096), max_prefill=64)
    under_test.add([65] * 1000, GREEDY, "long")
    under_test.step()
    under_test.add(PROMPTS[1], GREEDY, "short")
    assert [increment.id for increment in under_test.step()] == ["short"]


def test_an_answer_cancelled_while_its_prompt_is_computed_leaves_the_others_with_the_same_prompt() -> None:
    model = tiny.model()
    under_test = sampler(model, max_prefill=8)
    for name in ("one", "two"):
        under_test.add(PROMPTS[3], GREEDY, name)
    under_test.step()
    under_test.cancel("one")
    told: dict[str, list[Any]] = {"one": [], "two": []}
    while not under_test.idle:
        for increment in under_test.step():
            told[increment.id].append(increment)
    assert [increment.finished for increment in told["one"]] == ["cancelled"]
    assert [increment.token for increment in told["two"]] == generated(model, PROMPTS[3], 24)


def test_the_same_prompt_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    extend = SlotDecoder.extend

    def counted(self: SlotDecoder, pieces: Any, **options: Any) -> Any:
        computed.extend(len(piece.tokens) for piece in pieces)
        return extend(self, pieces, **options)

    under_test = sampler()
    assert under_test._slots is not None
    monkeypatch.setattr(SlotDecoder, "extend", counted)
    under_test.sample([PROMPTS[3]] * 7, Sampling(max_new_tokens=3))
    assert computed == [len(PROMPTS[3])]


def test_weights_that_change_between_answers_are_taken_up() -> None:
    model = get_peft_model(tiny.model(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))  # type: ignore[arg-type]
    under_test = sampler(model.eval())
    before = under_test.sample([PROMPTS[1]], GREEDY)[0].tokens.tolist()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora" in name:
                weight.mul_(3)
    after = under_test.sample([PROMPTS[1]], GREEDY)[0].tokens.tolist()
    assert after == generated(model, PROMPTS[1], 24)
    assert before != after


@pytest.mark.parametrize("queued", [False, True], ids=["asked after", "queued before"])
def test_a_sampler_that_is_kept_over_a_training_step_answers_with_the_new_weights(queued: bool) -> None:
    model = tiny.model()
    training = engine(model)
    under_test = sampler(model)
    before = under_test.sample([PROMPTS[1]], GREEDY)[0].tokens.tolist()
    if queued:
        under_test.add(PROMPTS[1], GREEDY, "it")
    training.forward_backward(random_items(6), losses.nll)
    training.optim_step(0.05)
    model.eval()
    if not queued:
        under_test.add(PROMPTS[1], GREEDY, "it")
    after = []
    while not under_test.idle:
        after += [increment.token for increment in under_test.step()]
    assert after == generated(model, PROMPTS[1], 24)
    assert before != after


# -- int8 ----------------------------------------------------------------------------------------------------------------


def test_an_int8_product_differs_by_no_more_than_the_rounding_of_both_sides() -> None:
    random = torch.Generator().manual_seed(0)
    weight, x = torch.randn(24, 40, generator=random), torch.randn(5, 40, generator=random)
    exact = x.double().numpy() @ weight.double().numpy().T
    found = Int8Matrix(weight)(x).double().numpy()
    # half a unit of each side: |x| u_w / 2 + |w| u_x / 2 + u_x u_w / 4, summed over the 40 inputs
    unit_w = np.abs(weight.numpy()).max(1) / 127
    unit_x = np.abs(x.numpy()).max(1) / 127
    bound = (
        np.abs(x.numpy()).sum(1)[:, None] * unit_w / 2
        + np.abs(weight.numpy()).sum(1) * unit_x[:, None] / 2
        + 40 * unit_w * unit_x[:, None] / 4
    )
    assert (np.abs(found - exact) <= bound * 1.0001).all()
    assert np.abs(found - exact).max() > 0  # it is rounded


def test_an_int8_product_of_whole_numbers_is_exact_with_bias_and_zeros() -> None:
    weight = torch.tensor([[127.0, -3.0, 0.0], [1.0, 127.0, 5.0]])
    x = torch.tensor([[127.0, 2.0, -1.0], [0.0, 0.0, 0.0]])
    bias = torch.tensor([1.0, -1.0])
    # 127*127 - 3*2 + 1 = 16124; 127 + 254 - 5 - 1 = 375
    assert torch.allclose(Int8Matrix(weight, bias)(x), torch.tensor([[16124.0, 375.0], [1.0, -1.0]]))
    assert torch.allclose(FloatMatrix(weight, bias)(x), torch.tensor([[16124.0, 375.0], [1.0, -1.0]]))


def test_an_int8_row_does_not_depend_on_the_rows_beside_it() -> None:
    random = torch.Generator().manual_seed(0)
    matrix, x = Int8Matrix(torch.randn(64, 32, generator=random)), torch.randn(9, 32, generator=random)
    assert all(torch.equal(matrix(x)[at : at + 1], matrix(x[at : at + 1])) for at in range(9))


def test_int8_answers_come_with_a_small_loss_of_quality() -> None:
    model = tiny.model()
    texts = [prompt + generated(model, prompt, 40) for prompt in PROMPTS]
    found = quality_loss(model, texts)
    assert found.tokens == sum(len(text) - 1 for text in texts)
    with torch.no_grad():  # the loss by transformers
        sums = [
            float(model(torch.tensor([text]), labels=torch.tensor([text])).loss) * (len(text) - 1) for text in texts
        ]
    assert found.loss == pytest.approx(sum(sums) / found.tokens, abs=1e-4)
    assert found.loss_int8 == pytest.approx(found.loss, abs=0.05)
    assert 0 < found.divergence < 0.02
    assert found.same_likeliest > 0.9
    answers = sampler(model, weights="int8").sample(PROMPTS, GREEDY)
    assert all(len(answer.tokens) == 24 or answer.tokens[-1] == END for answer in answers)


def test_int8_is_refused_where_it_cannot_be_with_what_the_model_is() -> None:
    with pytest.raises(ModelError, match="GPTNeoXForCausalLM in float32 on cpu"):
        sampler(tiny.model("gpt_neox"), weights="int8")
    with pytest.raises(ModelError, match="LlamaForCausalLM in bfloat16 on cpu"):
        sampler(tiny.model().bfloat16(), weights="int8")
    with pytest.raises(ModelError):
        quality_loss(tiny.model("gpt_neox"), [[1, 2]])
    with pytest.raises(UserError, match="no text"):
        quality_loss(tiny.model(), [[1]])


def test_pieces_of_a_prompt_give_what_the_whole_gives() -> None:
    under_test = decoder(tiny.model("mistral"))
    prompt = PROMPTS[4]
    with torch.no_grad():
        whole = under_test.extend([Piece(under_test.slots.new(len(prompt)), prompt, True)])
        row = under_test.slots.new(len(prompt))
        for start in range(0, len(prompt), 7):
            last = start + 7 >= len(prompt)
            found = under_test.extend([Piece(row, prompt[start : start + 7], last)])
            assert last or not len(found)
    assert torch.allclose(found, whole, atol=1e-4)


@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=20),
    leaving=st.lists(st.integers(0, 19), max_size=6),
    ends=st.lists(st.integers(1, 20), max_size=3).map(sorted),
)
@settings(max_examples=60, deadline=None)
def test_rows_that_move_side_by_side_keep_what_they_remember(
    lengths: list[int], leaving: list[int], ends: list[int]
) -> None:
    slots = Slots(1, 2, 1, room=512, slots=2)
    rows = []
    for number, length in enumerate(lengths):
        row = slots.new(length)
        slots.memory_LSYCd[0, row.slot, :, :length] = number
        row.length = length
        rows.append((number, row))
    slots.settle([row for _, row in rows])
    for number in sorted(set(leaving) & set(range(len(rows) - 1)), reverse=True):
        slots.free(rows.pop(number)[1])
    other = slots.new(3)
    slots.memory_LSYCd[0, other.slot, :, :3] = -1
    other.length = 3
    slots.settle([row for _, row in rows], [end for end in ends if end <= len(lengths)])
    assert sorted(row.slot for _, row in rows) == list(range(len(rows)))
    for number, row in [*rows, (-1, other)]:
        assert (slots.memory_LSYCd[0, row.slot, :, : row.length] == number).all()


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_token_s_logits_are_the_same_to_the_last_bit_whatever_stands_beside_it(
    layers: str, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layers != "c":
        pytest.skip("PyTorch's products round by the shape of the batch")
    model = tiny.model("qwen3", vocab_size=300, hidden_size=72, intermediate_size=100, num_hidden_layers=3)
    texts = [[(7 * at + 13 * start) % 300 for at in range(60 + 5 * start)] for start in range(14)]
    under_test = slot_decoder(model, weights)
    assert under_test is not None

    def behind(rows: list[int], pieces: int, threads: int) -> torch.Tensor:
        """The logits behind text 3's last token, which is decoded after the others came in so many pieces."""
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            places = [under_test.slots.new(len(texts[row])) for row in rows]
            for piece in range(pieces):
                under_test.extend(
                    [
                        Piece(place, _part(texts[row][:-1], piece, pieces), False)
                        for row, place in zip(rows, places, strict=True)
                    ]
                )
            found_NV = under_test.decode(places, [texts[row][-1] for row in rows])
            for place in places:
                under_test.slots.free(place)
            return found_NV[rows.index(3)]
        finally:
            torch.set_num_threads(before)

    alone_V = behind([3], 1, 1)
    monkeypatch.setattr("tomoni.engine.compiled.SMALL", 1)  # else so little work is one thread's
    for rows, pieces, threads in (([3], 4, 1), ([0, 3], 1, 1), (list(range(14)), 1, 1), (list(range(14)), 3, 3)):
        assert torch.equal(behind(rows, pieces, threads), alone_V), (rows, pieces, threads)
    monkeypatch.setattr("tomoni.engine.compiled.openmp", lambda: (None, None, None))  # threads of its own
    assert torch.equal(behind(list(range(14)), 2, 3), alone_V)


def _part(tokens: list[int], index: int, parts: int) -> list[int]:
    return tokens[len(tokens) * index // parts : len(tokens) * (index + 1) // parts]


_NEAR = {"float32": 1e-5, "int8": 2e-2}  # int8: an input that lies between two whole numbers may go either way


def _off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_c_and_pytorch_agree(layers: str, weights: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if layers != "c":
        pytest.skip("needs both")
    model = tiny.model("mistral", sliding_window=20, vocab_size=300)
    by_c = slot_decoder(model, weights)
    monkeypatch.setattr("tomoni.engine.decode.compiled_layers", lambda *given: None)
    by_pytorch = slot_decoder(model, weights)
    assert by_c is not None
    assert by_pytorch is not None
    found = []
    for under_test in (by_c, by_pytorch):
        places = [under_test.slots.new(50) for _ in range(3)]
        pieces = [Piece(place, [(3 * at + row) % 300 for at in range(45)], True) for row, place in enumerate(places)]
        found.append(torch.cat([under_test.extend(pieces), under_test.decode(places, [5, 6, 7])]))
    assert _off(*found) < _NEAR[weights]


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of x86")
@pytest.mark.parametrize("processor", ["haswell", "x86-64"])
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_older_processors_get_the_same_numbers(
    layers: str,
    weights: Any,
    processor: str,
    built_for: Callable[[str], ctypes.CDLL],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if layers != "c":
        pytest.skip("needs a compiler")
    model = tiny.model("qwen3", vocab_size=300, hidden_size=72, intermediate_size=100)
    texts = [[(7 * at + 13 * start) % 300 for at in range(50)] for start in range(9)]

    def logits() -> torch.Tensor:
        under_test = slot_decoder(model, weights)
        assert under_test is not None
        places = [under_test.slots.new(50) for _ in texts]
        return under_test.extend([Piece(place, text, True) for place, text in zip(places, texts, strict=True)])

    expected = logits()
    built = built_for(processor)
    monkeypatch.setattr("tomoni.engine.compiled.library", lambda: built)
    assert _off(logits(), expected) < _NEAR[weights]


def test_an_answer_in_a_full_batch_is_the_one_that_is_made_alone_with_the_same_logprobs(layers: str) -> None:
    if layers != "c":
        pytest.skip("PyTorch's products round by the shape of the batch")
    model = tiny.model()
    how = Sampling(max_new_tokens=30, temperature=1.4, seed=3, logprobs=True)
    prompts = [*PROMPTS, *PROMPTS[:2]]  # two are asked twice, so they share a row at first
    together = sampler(model, max_batch=5, max_prefill=7).sample(prompts, how)
    for number, answer in enumerate(together):
        alone = sampler(model).sample([prompts[number]], how, ids=[str(number)])[0]
        assert answer.tokens.tolist() == alone.tokens.tolist()
        assert answer.logprobs.tolist() == alone.logprobs.tolist()  # to the last bit


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("name", ["q_proj", "v_proj", "up_proj", "down_proj"])
def test_weights_that_go_bad_are_noticed_in_every_matrix(weights: Any, name: str) -> None:
    model = tiny.model()
    under_test = sampler(model, weights=weights)
    under_test.sample([PROMPTS[1]], GREEDY)
    with torch.no_grad():
        next(weight for key, weight in model.named_parameters() if name in key)[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not a number"):
        under_test.sample([PROMPTS[1]], GREEDY)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("llama", {"sliding_window": 8}),  # Llama's code reads no window
        (
            "qwen3",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 28},
        ),  # all layers see everything
    ],
)
def test_a_window_that_the_model_does_not_use_is_not_used_here(architecture: str, options: dict[str, Any]) -> None:
    model = tiny.model(architecture, **options)
    prompt = [(5 * at) % 200 for at in range(40)]
    assert sampler(model).sample([prompt], GREEDY)[0].tokens.tolist() == generated(model, prompt, 24)


def test_a_layer_of_another_shape_is_left_to_pytorch() -> None:
    model = tiny.model("llama", num_hidden_layers=2)
    mlp = model.model.layers[1].mlp
    width = mlp.gate_proj.in_features
    for name, shape in (("gate_proj", (width, 50)), ("up_proj", (width, 50)), ("down_proj", (50, width))):
        setattr(mlp, name, torch.nn.Linear(*shape, bias=False))
    assert sampler(model).sample([PROMPTS[1]], GREEDY)[0].tokens.tolist() == generated(model, PROMPTS[1], 24)


def test_what_a_caller_gets_wrong_is_an_error_and_never_memory_of_somebody_else() -> None:
    under_test = decoder(tiny.model())
    row = under_test.slots.new(10)
    with pytest.raises(ValueError, match="two pieces of one row"):
        under_test.extend([Piece(row, [1, 2], False), Piece(row, [3], True)])
    for token in (-100, 10**9):
        with pytest.raises(IndexError):
            under_test.extend([Piece(row, [1, token], True)])
    with pytest.raises(IndexError):
        under_test.extend([Piece(row, [1] * (under_test.slots.room + 1), True)])
