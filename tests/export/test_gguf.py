"""A GGUF file holds the same model: transformers and llama.cpp agree, for every architecture that is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.export import models
from tomoni.errors import ModelError
from tomoni.export import architectures, gguf
from tomoni.export.llamacpp import LlamaCpp

GEMMA = {
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    "query_pre_attn_scalar": 8,
}
ROWS = [models.word(1, 3), models.word(2, 70)]
LONG = [models.word(3, 200)]
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
        ("llama", {"num_key_value_heads": 4, "head_dim": 16, "rms_norm_eps": 1e-2}),
        ("mistral", {"sliding_window": None}),
        ("qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
        ("qwen3", {}),
        ("gemma3_text", GEMMA),
        ("gpt_neox", {}),
        ("gpt_neox", {"use_parallel_residual": False, "rotary_pct": 1.0}),
    ],
)
def test_llamacpp_gives_the_logprobs_of_transformers(
    tmp_path: Path, architecture: str, changes: dict[str, Any]
) -> None:
    model = _model(architecture, changes)
    models.written(tmp_path / "m.gguf", model, tiny.tokenizer())
    # llama.cpp computes GELU by its approximation with tanh, from a table in float16
    bound = 5e-3 if architecture in ("gpt_neox", "gemma3_text") else 5e-4
    assert models.largest_difference(model, tmp_path / "m.gguf", ROWS) < bound


@pytest.mark.parametrize(
    "rope",
    [
        LINEAR,
        LLAMA3,
        YARN,
        YARN | {"beta_fast": 32.0, "beta_slow": 1},
        YARN | {"attention_factor": 1.6},
        YARN | {"attention_factor": 0.7, "mscale": 2.0, "mscale_all_dim": 1.0},
        YARN | {"mscale": 3.0, "mscale_all_dim": 0.5},
        YARN | {"mscale": 3.0},
        YARN | {"factor": None},
    ],
)
def test_scaled_rotary_embeddings_are_carried_over(tmp_path: Path, rope: dict[str, Any]) -> None:
    model = models.model("llama", head_dim=32, rope_parameters=rope)
    plain = models.model("llama", head_dim=32)
    models.written(tmp_path / "m.gguf", model, tiny.tokenizer())
    assert models.largest_difference(model, tmp_path / "m.gguf", LONG) < 5e-4
    assert models.largest_difference(plain, tmp_path / "m.gguf", LONG) > 5e-3  # so the scaling matters here


def _model(architecture: str, changes: dict[str, Any]) -> Any:
    """Also of architectures that tests.tiny has no shape for."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(tiny.SHAPES, architecture, tiny.SHAPES.get(architecture, {}))
        return models.model(architecture, **changes)


def test_rows_that_do_not_divide_into_blocks_stay_f16_and_llamacpp_reads_them(tmp_path: Path) -> None:
    model = models.model("llama", intermediate_size=48)  # the rows of the down projection are 48 numbers
    plan = models.written(tmp_path / "m.gguf", model, tiny.tokenizer(), "q8_0")
    kept = {name for name, form in plan.forms.items() if form == "F16"}
    assert kept == {"blk.0.ffn_down.weight", "blk.1.ffn_down.weight"}
    assert "2 of 15 matrices stay F16" in " ".join(plan.notes) and "[32, 48]" in " ".join(plan.notes)
    assert models.largest_difference(model, tmp_path / "m.gguf", ROWS, exact=False) < 0.5


def test_a_form_that_no_matrix_can_take_is_refused_before_anything_is_written() -> None:
    model = models.model("llama", hidden_size=40, num_attention_heads=4, num_key_value_heads=2, intermediate_size=80)
    with pytest.raises(ModelError, match=r"rows are no multiple of 32 numbers \(hidden_size 40\)"):
        gguf.plan_of(model, tiny.tokenizer(), tiny.CHATML, "q4_0")


def test_weights_too_large_for_f16_are_refused_and_fit_bf16(tmp_path: Path) -> None:
    model = models.model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e5
    with pytest.raises(ModelError, match=r"blk.0.ffn_up.weight has numbers that F16 cannot hold \(1e\+05\)"):
        gguf.plan_of(model, tiny.tokenizer(), tiny.CHATML, "f16")
    gguf.plan_of(model, tiny.tokenizer(), tiny.CHATML, "bf16")


@pytest.mark.parametrize(
    ("quantization", "held", "not_held"),
    # the next larger half-precision number of the scale is infinity: 65520 and more, for the largest of a block of 32
    [("q8_0", 127 * 65_504.0, 127 * 65_521.0), ("q4_0", 8 * 65_504.0, 8 * 65_521.0), ("q5_1", 65_504.0, -65_521.0)],
)
def test_numbers_whose_blocks_scale_is_infinite_are_refused(quantization: str, held: float, not_held: float) -> None:
    from gguf import GGMLQuantizationType, quants

    model = models.model("llama", hidden_size=64, intermediate_size=128)
    weight = model.model.layers[0].mlp.up_proj.weight
    for number, fits in ((held, True), (not_held, False)):
        with torch.no_grad():
            weight[0, 0] = number
        form = GGMLQuantizationType[quantization.upper()]
        with np.errstate(over="ignore", invalid="ignore"):
            read = quants.dequantize(quants.quantize(weight.detach().numpy(), form), form)
        assert np.isfinite(read).all() == fits
        if fits:
            gguf.plan_of(model, tiny.tokenizer(), tiny.CHATML, quantization)
        else:
            with pytest.raises(ModelError, match=f"{quantization.upper()} cannot hold"):
                gguf.plan_of(model, tiny.tokenizer(), tiny.CHATML, quantization)


def test_what_is_looked_at_without_weights_is_what_is_written_with_them() -> None:
    for architecture, changes in (("llama", {"rope_parameters": LLAMA3}), ("gpt_neox", {}), ("gemma3_text", GEMMA)):
        model = _model(architecture, changes)
        with torch.device("meta"):
            empty = type(model)(model.config)
        forms, _ = gguf.forms_of(empty, "f16")
        assert list(forms) == list(gguf.plan_of(model, tiny.tokenizer(), tiny.CHATML, "f16").forms)
        assert set(forms) == {name for name, _ in architectures.tensors(model)}


@pytest.mark.parametrize("quantization", ["f16", "bf16", "q8_0", "q5_1", "q4_0"])
def test_each_form_is_read_by_llamacpp_and_no_larger_than_was_said(tmp_path: Path, quantization: str) -> None:
    model = models.model("llama", hidden_size=64, intermediate_size=128)
    plan = models.written(tmp_path / "m.gguf", model, tiny.tokenizer(), quantization)
    size = (tmp_path / "m.gguf").stat().st_size
    assert size <= plan.bytes <= gguf.largest_size(model, quantization)
    moved = models.largest_difference(model, tmp_path / "m.gguf", ROWS, exact=False)
    assert 1e-6 < moved < {"f16": 0.02, "bf16": 0.1, "q8_0": 0.1, "q5_1": 0.6, "q4_0": 1.2}[quantization]


def test_a_finer_form_is_nearer_to_the_model(tmp_path: Path) -> None:
    model = models.model("llama", hidden_size=64, intermediate_size=128)
    moved = []
    for quantization in ("f32", "q8_0", "q4_0"):
        models.written(tmp_path / f"{quantization}.gguf", model, tiny.tokenizer(), quantization)
        moved.append(models.largest_difference(model, tmp_path / f"{quantization}.gguf", ROWS))
    assert moved == sorted(moved) and moved[0] * 10 < moved[1]


@pytest.mark.parametrize(
    ("architecture", "changes", "said"),
    [
        ("gemma2", {}, "does not know the architecture 'gemma2'"),
        ("gemma3_text", {"query_pre_attn_scalar": 8}, "are not five of every 6"),
        ("gemma3_text", GEMMA | {"query_pre_attn_scalar": 256}, "scaled by 256, not by the head's size 8"),
        ("llama", {"hidden_act": "gelu"}, "its activation is 'gelu'"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "'dynamic'"),
        ("llama", {"rope_parameters": YARN | {"truncate": False}}, "not cut off at whole dimensions"),
        ("llama", {"rope_parameters": YARN | {"beta_fast": 6.0}}, "has beta_fast 6; llama.cpp computes it with 32"),
        ("qwen3", {"rope_parameters": YARN | {"beta_slow": 2}}, "has beta_slow 2; llama.cpp computes it with 1"),
        ("qwen3", {"rope_parameters": LLAMA3}, "'llama3'"),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}, "a sliding window only"),
    ],
)
def test_what_llamacpp_would_compute_otherwise_is_refused(
    architecture: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said) as refused:
        gguf.refuse(_model(architecture, changes), tiny.tokenizer())
    assert "--to hf" in refused.value.next_step


def test_a_sliding_window_that_llamacpp_has_not_becomes_the_context_of_the_file(tmp_path: Path) -> None:
    plan = models.written(tmp_path / "m.gguf", models.model("mistral"), tiny.tokenizer())
    assert plan.notes == [
        "the model looks back 16 tokens only (sliding window), which llama.cpp does not do for it: the context in the "
        "file is 16 tokens"
    ]


def test_a_file_that_llamacpp_cannot_load_is_said_and_tomoni_lives_on(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\xff" * 200)
    with pytest.raises(ModelError, match=r"llama.cpp cannot load broken.gguf"):
        LlamaCpp(tmp_path / "broken.gguf")
