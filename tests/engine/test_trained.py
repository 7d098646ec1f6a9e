"""What of a model is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests import tiny
from tomoni.engine.trained import Trained, choose
from tomoni.errors import ModelError
from tomoni.settings.common import ADAPTERS, TrainedPart

TOKENS = torch.arange(3, 15)[None]


def _choose(train: str, architecture: str = "llama", *, seed: int = 0, **options: Any) -> Trained:
    return choose(tiny.model(architecture), TrainedPart(train=train, **options), seed=seed)


def _changed_by_a_step(trained: Trained) -> set[str]:
    """Names of the weights that plain gradient descent on everything with requires_grad changes."""
    before = {name: weight.detach().clone() for name, weight in trained.model.named_parameters()}
    trained.model(TOKENS).logits.logsumexp(-1).sum().backward()
    with torch.no_grad():
        for weight in trained.model.parameters():
            if weight.grad is not None:
                weight -= weight.grad
    return {name for name, weight in trained.model.named_parameters() if not torch.equal(weight, before[name])}


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_all_trains_every_weight(architecture: str) -> None:
    trained = _choose("all", architecture)
    assert list(trained.parameters) == [name for name, _ in trained.model.named_parameters()]
    assert trained.trainable == trained.total == sum(p.numel() for p in tiny.model(architecture).parameters())


@pytest.mark.parametrize(
    ("architecture", "layer", "norm"),
    [
        ("llama", "model.layers.1.", "model.norm."),
        ("qwen3", "model.layers.1.", "model.norm."),
        ("gemma3_text", "model.layers.1.", "model.norm."),
        ("gpt_neox", "gpt_neox.layers.1.", "gpt_neox.final_layer_norm."),
        ("mistral", "model.layers.1.", "model.norm."),
    ],
)
def test_top_1_trains_the_last_layer_and_the_final_norm_only(architecture: str, layer: str, norm: str) -> None:
    trained = _choose("top:1", architecture)
    names = [name for name, _ in trained.model.named_parameters()]
    assert list(trained.parameters) == [name for name in names if name.startswith((layer, norm))]
    assert _changed_by_a_step(trained) <= set(trained.parameters)
    assert all(
        weight.requires_grad == (name in trained.parameters) for name, weight in trained.model.named_parameters()
    )


def test_the_counts_of_a_part_are_those_counted_by_hand() -> None:
    trained = _choose("top:1", "mistral")
    attention = 32 * 32 + 2 * 32 * 16 + 32 * 32  # 4 heads of 8; 2 for keys and values
    mlp, norms = 3 * 32 * 64, 3 * 32
    assert trained.trainable == attention + mlp + norms
    assert trained.total == 2 * (attention + mlp + 2 * 32) + 32 + 2 * 260 * 32


def test_top_2_of_two_layers_leaves_only_embeddings_and_head_frozen() -> None:
    trained = _choose("top:2", "mistral")
    frozen = {name for name, weight in trained.model.named_parameters() if not weight.requires_grad}
    assert frozen == {"model.embed_tokens.weight", "lm_head.weight"}
    with pytest.raises(ModelError, match="top:3 of a model with 2 layers"):
        _choose("top:3")


def test_head_and_embeddings_are_one_weight_where_they_are_tied() -> None:
    assert list(_choose("head", "gpt_neox").parameters) == ["lm_head.weight"]
    assert list(_choose("embeddings", "gpt_neox").parameters) == ["gpt_neox.embed_in.weight"]
    assert list(_choose("embeddings", "llama").parameters) == ["model.embed_tokens.weight"]
    with pytest.raises(ModelError, match="tied to its embeddings"):
        _choose("head", "llama")


def test_names_trains_what_matches_and_an_empty_match_shows_names() -> None:
    assert set(_choose(r"names:layers\.0\.mlp\.(up|down)").parameters) == {
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
    }
    with pytest.raises(ModelError, match="matches none of 20 weights") as nothing:
        _choose("names:attn_typo")
    assert "model.layers.0.mlp.up_proj.weight" in nothing.value.choices
    assert len(nothing.value.choices) == 11  # embeddings, nine of one layer, norm
    with pytest.raises(ValidationError, match="no regular expression"):
        TrainedPart(train="names:(")


@pytest.mark.parametrize("train", ADAPTERS)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_an_adapter_trains_its_own_weights_only(architecture: str, train: str) -> None:
    trained = _choose(train, architecture, lora_r=2)
    base = sum(p.numel() for p in tiny.model(architecture).parameters())
    assert trained.adapter
    assert trained.total == base + trained.trainable
    changed = _changed_by_a_step(trained)
    assert changed
    assert changed <= set(trained.parameters)


@pytest.mark.parametrize("train", [kind for kind in ADAPTERS if kind != "prompt_tuning"])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_new_adapter_changes_no_logit(architecture: str, train: str) -> None:
    trained = _choose(train, architecture)
    torch.testing.assert_close(trained.model(TOKENS).logits, tiny.model(architecture)(TOKENS).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("train", ADAPTERS)
def test_a_new_adapter_depends_on_its_seed_and_on_nothing_else(train: str) -> None:
    torch.manual_seed(1)
    first = _choose(train, seed=7)
    torch.manual_seed(2)
    stream = torch.get_rng_state()
    again, other = _choose(train, seed=7), _choose(train, seed=8)
    assert torch.equal(torch.get_rng_state(), stream)
    assert list(first.parameters) == list(again.parameters)
    assert all(torch.equal(first.parameters[name], again.parameters[name]) for name in first.parameters)
    if train != "ia3":  # it starts from ones
        assert any(not torch.equal(first.parameters[name], other.parameters[name]) for name in first.parameters)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_all_linear_is_every_linear_layer_but_the_head(architecture: str) -> None:
    model = tiny.model(architecture)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    trained = _choose("lora", architecture)
    adapted = {name.removeprefix("base_model.model.").split(".lora_")[0] for name in trained.parameters}
    assert adapted == linear - {"lm_head"}


def test_lora_on_named_layers_has_the_size_counted_by_hand() -> None:
    trained = _choose("lora", lora_r=4, lora_target_modules=("q_proj", "v_proj"))
    assert trained.trainable == 2 * (4 * (32 + 32) + 4 * (32 + 16))
    (config,) = trained.model.peft_config.values()
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 32, 0.0)


def test_an_unknown_target_lists_the_linear_layers() -> None:
    with pytest.raises(ModelError, match=r"no linear layer .qproj. \(did you mean .q_proj") as unknown:
        _choose("lora", lora_target_modules=("qproj",))
    assert unknown.value.choices == (
        "all-linear",
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    )
    with pytest.raises(ModelError, match="lm_head is tied to the embeddings"):
        _choose("lora", "llama", lora_target_modules=("lm_head",))


def test_a_loaded_adapter_is_trained_further_only_under_its_own_kind() -> None:
    trained = _choose("dora", lora_r=2)
    trained.model.requires_grad_(False)
    further = choose(trained.model, TrainedPart(train="dora"))
    assert list(further.parameters) == list(trained.parameters)
    for other in ("all", "lora", "top:1"):
        with pytest.raises(ModelError, match=r"carries an adapter .dora"):
            choose(trained.model, TrainedPart(train=other))
