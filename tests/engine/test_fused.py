"""The decoder of our own against transformers' modules: values and gradients, in float64 where rounding would hide."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from tests import tiny
from tests.engine.items import engine, random_items
from tomoni import losses
from tomoni.engine import blueprint, fused, head
from tomoni.engine.batch import Tile
from tomoni.engine.engine import Engine
from tomoni.engine.flat import FlatDecoder
from tomoni.engine.forward import Forward, without_adapter
from tomoni.engine.trained import choose
from tomoni.settings.sft import Config

OURS = ("llama", "mistral", "qwen2", "qwen3")
QWEN2 = {"num_key_value_heads": 2, "tie_word_embeddings": True}


def built(architecture: str, **changes: Any) -> Any:
    if architecture != "qwen2":
        return tiny.model(architecture, **changes)
    tiny.SHAPES["qwen2"] = QWEN2
    try:
        return tiny.model("qwen2", **changes)
    finally:
        del tiny.SHAPES["qwen2"]


def tile(tokens_NT: Tensor) -> Tile:
    rows, length = tokens_NT.shape
    every = torch.arange(rows * length)
    return Tile(tuple(range(rows)), tokens_NT, torch.full((rows,), length), None, every, every)


def double(architecture: str, *, lora: bool = False, targets: Any = "all-linear", **changes: Any) -> Any:
    model = built(architecture, **changes)
    if lora:
        config = LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=7, target_modules=targets)
        torch.manual_seed(1)
        model = get_peft_model(model, config)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.1)
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):  # transformers' own computes in float32 whatever it is given
            module.forward = partial(rms_norm, shape=module.weight.shape, norm=module, epsilon=module.variance_epsilon)
    return model.double()


def rms_norm(x: Tensor, *, shape: Any, norm: Any, epsilon: float) -> Tensor:
    return torch.nn.functional.rms_norm(x, shape, norm.weight, epsilon)


def assert_same_as_modules(model: Any, widths: tuple[tuple[int, int], ...]) -> None:
    """Hidden states and the gradient of every trained weight, over rectangles of (rows, tokens)."""
    torch.manual_seed(0)
    tiles = [tile(torch.randint(0, 256, shape)) for shape in widths]
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    plan = blueprint.read(without_adapter(model))
    assert plan is not None
    decoder = FlatDecoder(plan)
    decoder.refresh()
    ours_ND = decoder.hidden(tiles)
    body = without_adapter(model).base_model
    theirs_ND = torch.cat([body(input_ids=one.tokens_NT).last_hidden_state.flatten(0, 1) for one in tiles])
    torch.testing.assert_close(ours_ND, theirs_ND, rtol=1e-9, atol=1e-9)
    direction_ND = torch.randn_like(ours_ND)
    ours = torch.autograd.grad(ours_ND, list(weights.values()), direction_ND, allow_unused=True)
    theirs = torch.autograd.grad(theirs_ND, list(weights.values()), direction_ND, allow_unused=True)
    for name, one, other in zip(weights, ours, theirs, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("lora", [False, True], ids=["all", "lora"])
@pytest.mark.parametrize("architecture", OURS)
def test_hidden_states_and_gradients_are_those_of_the_models_own_modules(architecture: str, lora: bool) -> None:
    assert_same_as_modules(double(architecture, lora=lora, sliding_window=None), ((1, 13), (3, 7), (2, 1)))


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["k_proj", "up_proj"]], ids=" and ".join)
def test_an_adapter_on_some_projections_of_an_input_learns_as_in_the_modules(targets: list[str]) -> None:
    assert_same_as_modules(double("qwen2", lora=True, targets=targets), ((1, 13), (3, 7)))


@pytest.mark.parametrize("kept", [0, 2**24], ids=["computed again", "kept"])
@pytest.mark.parametrize("block", [1, 200, 2**19])
def test_no_size_of_block_shows_in_attention(monkeypatch: pytest.MonkeyPatch, block: int, kept: int) -> None:
    monkeypatch.setattr(fused, "BLOCK", block)
    monkeypatch.setattr(fused, "KEPT", kept)
    assert_same_as_modules(double("llama"), ((1, 45), (2, 20)))


def test_biases_and_their_gradients_are_those_of_the_modules() -> None:
    model = double("llama", attention_bias=True, mlp_bias=True)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_()
    assert_same_as_modules(model, ((2, 9),))


def test_a_rotation_that_is_scaled_is_the_models_own() -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}
    assert_same_as_modules(double("llama", rope_parameters=rope), ((1, 40),))


def test_frozen_layers_below_the_trained_ones_get_no_gradient() -> None:
    model = double("llama").requires_grad_(False)
    model.base_model.layers[1].requires_grad_(True)
    assert_same_as_modules(model, ((2, 11),))


def test_activations_that_are_not_kept_give_the_same_bits() -> None:
    items = random_items(5)
    found = []
    for again in (False, True):
        one = engine(tiny.model(), gradient_checkpointing=again)
        assert one.forward.flat is not None
        one.forward_backward(items, losses.nll)
        found.append({name: weight.grad for name, weight in one.trained.items()})
    for name, gradient in found[0].items():
        assert gradient is not None
        assert torch.equal(gradient, found[1][name]), name


def forward(model: Any, **options: Any) -> Forward:
    return Forward(model, **options)


def test_it_stands_in_for_the_family_and_for_nothing_else() -> None:
    assert all(forward(built(architecture)).flat is not None for architecture in OURS)
    assert forward(tiny.model("gemma3_text")).flat is None
    assert forward(tiny.model("gpt_neox")).flat is None
    assert forward(tiny.model(attention_dropout=0.1)).flat is None
    assert forward(tiny.model(hidden_act="gelu")).flat is None
    assert forward(tiny.model(), own_type=False).flat is None
    assert forward(tiny.model().bfloat16()).flat is None
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert forward(tiny.model(rope_parameters=dynamic)).flat is None


@pytest.mark.parametrize("train", ["lora", "rslora", "dora", "ia3", "prompt_tuning"])
def test_of_adapters_it_takes_plain_lora(train: str) -> None:
    part = Config(model_name_or_path="m", train_file="t", output_dir="o", train=train)
    model = choose(tiny.model(), part).model
    assert (forward(model).flat is not None) == (train in ("lora", "rslora"))


def test_lora_with_dropout_takes_the_models_own_pass() -> None:
    part = Config(model_name_or_path="m", train_file="t", output_dir="o", train="lora", lora_dropout=0.1)
    assert forward(choose(tiny.model(), part).model).flat is None


def test_rows_longer_than_the_models_window_take_the_models_own_pass() -> None:
    model = tiny.model("mistral")  # its window is 16
    items = random_items(4, longest=40)
    ours = engine(model)
    assert ours.forward.flat is not None
    plain = engine(copy.deepcopy(model))
    plain.forward.flat = None
    values = [one.evaluate(items, losses.nll)["loss"].value for one in (ours, plain)]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def lora_engine(seed: int = 0) -> Engine:
    cfg = Config(model_name_or_path="m", train_file="t", output_dir="o", train="lora", threads=1, seed=seed)
    chosen = choose(tiny.model(), cfg)
    return Engine(chosen.model, trained=chosen.parameters, cfg=cfg, keep_reference=True)


def test_the_folded_adapter_follows_every_step_and_the_reference_stays() -> None:
    ours, plain = lora_engine(), lora_engine()
    plain.forward.flat = None
    items = random_items(6)
    for step in range(4):
        one, other = (each.forward_backward(items, losses.nll)["loss"].value for each in (ours, plain))
        assert one == pytest.approx(other, rel=1e-4), step
        for each in (ours, plain):
            each.optim_step(0.01)
    assert one < ours.forward_backward(random_items(6, seed=9), losses.nll)["loss"].value
    start = lora_engine().logprobs(items)
    for now, then in zip(ours.logprobs(items, of="reference"), start, strict=True):
        torch.testing.assert_close(torch.tensor(now[0]), torch.tensor(then[0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trained", [False, True], ids=["head frozen", "head trained"])
@pytest.mark.parametrize("limits", [(2**25, 2**20), (2**25, 300), (10, 300)], ids=["whole", "parts", "again"])
def test_the_heads_gradients_are_those_of_autograd(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], trained: bool
) -> None:
    monkeypatch.setattr(head, "CHUNK_LOGITS", limits[0])
    monkeypatch.setattr(head, "CACHED_LOGITS", limits[1])
    torch.manual_seed(0)
    hidden_PD = torch.randn(75, 8, dtype=torch.float64, requires_grad=True)
    weight_VD = torch.randn(30, 8, dtype=torch.float64, requires_grad=trained)
    targets_P = torch.randint(0, 30, (75,))
    direction_P = torch.randn(75, dtype=torch.float64)
    leaves = [hidden_PD, weight_VD] if trained else [hidden_PD]

    logits_PV = hidden_PD @ weight_VD.t()
    expected_P = logits_PV.log_softmax(-1)[torch.arange(75), targets_P]
    expected = torch.autograd.grad(expected_P, leaves, direction_P)
    found_P, correct_P = head.LinearLogprobs.apply(hidden_PD, weight_VD, targets_P)  # type: ignore[no-untyped-call]
    found = torch.autograd.grad(found_P, leaves, direction_P)

    torch.testing.assert_close(found_P, expected_P)
    assert torch.equal(correct_P.bool(), logits_PV.argmax(-1) == targets_P)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
