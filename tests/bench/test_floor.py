"""The operations that a step must do, against counts by hand and against what PyTorch counts in a real step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from bench.floor import Trained, step, steps
from bench.shapes import Shape, save

# hidden 4, intermediate 8, one head: matrices of 16, 16, 16, 16, 32, 32, 32 numbers = 160 a layer
TINY = Shape(hidden=4, intermediate=8, layers=3, heads=1, kv_heads=1, vocabulary=10)


def test_all_weights_cost_three_products_a_matrix_and_attention_six() -> None:
    # one row of 5 tokens, 2 of them trained: 15 pairs of positions in the causal half
    matrices = 2 * 5 * 160 * 3  # forward, input's gradient, weight's gradient
    attention = 2 * 15 * 4 * 6
    head = 2 * 2 * 4 * 10 * 3
    assert step(TINY, [(5, 2)], Trained(embeddings=True)) == 3 * (matrices + attention) + head


def test_lora_costs_no_gradient_of_the_matrices_and_none_below_the_first_layer() -> None:
    matrices = 2 * 5 * 160 * 2
    below = 2 * 5 * 48  # the input's gradient of the first layer's q, k, v
    attention = 2 * 15 * 4 * 6
    head = 2 * 2 * 4 * 10 * 2
    widths = 4 * 8 + 3 * 12  # inputs and outputs of q, k, v, o and of gate, up, down
    thin = min(3 * 2 * 5 * widths, 2 * 2 * 5 * widths + 2 * 160)
    assert step(TINY, [(5, 2)], Trained(lora=1)) == 3 * (matrices + attention + thin) - below + head


def test_frozen_layers_cost_one_product_and_nothing_where_their_outputs_are_kept() -> None:
    rows = [(5, 2)]
    once = step(TINY, rows, Trained(layers=1))
    again = step(TINY, rows, Trained(layers=1, frozen_kept=True))
    assert once - again == 2 * (2 * 5 * 160 + 2 * 15 * 4 * 2)


def test_a_run_counts_frozen_layers_until_they_are_kept() -> None:
    rows = [(5, 2)]
    first, later = (step(TINY, rows, Trained(layers=1, frozen_kept=kept)) for kept in (False, True))
    assert steps(TINY, [rows] * 4, "top:1", kept_from=1) == first + 3 * later
    assert steps(TINY, [rows] * 4, "top:1") == 4 * first


def test_rows_add_up() -> None:
    what = Trained(embeddings=True)
    assert step(TINY, [(5, 2), (9, 4)], what) == step(TINY, [(5, 2)], what) + step(TINY, [(9, 4)], what)


@pytest.mark.parametrize("lora", [0, 2])
def test_the_count_is_what_pytorch_counts_in_a_plain_step(tmp_path: Path, lora: int) -> None:
    shape = Shape(hidden=32, intermediate=48, layers=2, heads=4, kv_heads=2, vocabulary=300, context=64)
    save(shape, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    if lora:
        model = get_peft_model(model, LoraConfig(r=lora, target_modules="all-linear"))
    tokens = torch.arange(24)[None]
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    # plain attention computes both halves; the head is run at all 24 positions here, trained or not
    both_halves = 2 * 6 * 2.0 * (24 * 24 - 24 * 25 // 2) * 32
    widths = sum(inputs + outputs for inputs, outputs in shape.linear)
    beside = 2 * 3 * 2.0 * 24 * lora * widths
    counted = step(shape, [(24, 24)], Trained(embeddings=True) if not lora else Trained(lora=lora))
    if lora:
        numbers = sum(inputs * outputs for inputs, outputs in shape.linear)
        folded = 2 * (2 * 2.0 * 24 * lora * widths + 2.0 * lora * numbers)
        counted += beside - min(beside, folded)  # PEFT's form is the one beside the matrix
        counted -= 2.0 * 24 * lora * 3 * 32  # A of the first layer's q, k, v gives nothing to what is below
    assert counter.get_total_flops() == pytest.approx(counted + both_halves, rel=1e-9)
