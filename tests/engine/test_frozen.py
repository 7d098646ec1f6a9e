"""Frozen layers that run once a row, against the same training without it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, XGLMConfig, XGLMForCausalLM

from tests import tiny
from tests.engine.items import random_items, settings
from tomoni import losses
from tomoni.engine import lanes
from tomoni.engine.engine import Engine
from tomoni.engine.forward import ScoreHead, decoder_layers
from tomoni.engine.frozen import Below, fingerprint
from tomoni.engine.kept import KeptOutputs
from tomoni.engine.trained import choose
from tomoni.losses import Outputs, Rows, Term
from tomoni.rows import Item, Row

LAYERS = 4
every_architecture = pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)


def model(architecture: str = "llama", **changes: Any) -> Any:
    if architecture == "gemma3_text":
        changes = {"layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2)} | changes
    return tiny.model(architecture, num_hidden_layers=LAYERS, **changes)


def bert() -> BertForMaskedLM:
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=tiny.VOCABULARY,
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=64,
    )
    return BertForMaskedLM(config).eval()


def part(built: Any, train: str, *, threads: int = 1, **options: Any) -> Engine:
    """An engine that trains a part of a model."""
    cfg = settings(train=train, learning_rate=1e-2, **options).model_copy(update={"threads": threads})
    trained = choose(built, cfg)
    return Engine(trained.model, trained=trained.parameters, cfg=cfg)


def below(
    engine: Engine, folder: Path | None = None, *, half: bool = False, room: int = 10**9, **options: Any
) -> Below:
    store = None
    if folder is not None:
        store = KeptOutputs(folder, width=32, dtype="float16" if half else "float32", room=room)
    return Below(engine.forward, engine.frozen_layers, autocast=engine.autocast, half=half, kept=store, **options)


def keeping(engine: Engine, folder: Path, **options: Any) -> Engine:
    engine.keep_frozen(below(engine, folder, **options))
    assert engine.below is not None
    return engine


def gradients(engine: Engine) -> dict[str, Tensor]:
    return {name: weight.grad.clone() for name, weight in engine.trained.items() if weight.grad is not None}


def assert_alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys() and one
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=2e-3, atol=5e-6, msg=name)


def updates(engine: Engine, count: int, items: Sequence[Item]) -> dict[str, Tensor]:
    """The trained weights after so many updates of four items each."""
    for step in range(engine.updates, engine.updates + count):
        engine.forward_backward([items[(4 * step + place) % len(items)] for place in range(4)], losses.nll)
        engine.optim_step(1e-2)
    return {name: weight.detach().clone() for name, weight in engine.trained.items()}


def assert_identical(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# -- what is frozen --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "train", "frozen"),
    [
        ("llama", "top:1", 3),
        ("llama", "top:4", 0),
        ("llama", "all", 0),
        ("llama", "lora", 0),
        ("llama", "embeddings", 0),  # the head is tied to them; what it trains enters the first layer
        ("llama", "names:^model\\.norm", 4),
        ("llama", "names:layers.2.mlp", 2),
        ("llama", "prompt_tuning", 0),
        ("mistral", "embeddings", 0),
        ("mistral", "head", 4),
        ("gpt_neox", "head", 4),
        ("gpt_neox", "top:3", 1),
    ],
)
def test_layers_count_as_frozen_up_to_the_first_that_anything_trained_reaches(
    architecture: str, train: str, frozen: int
) -> None:
    assert part(model(architecture), train).frozen_layers == frozen


def test_one_trained_norm_in_the_lowest_layer_leaves_nothing_frozen_below_it() -> None:
    assert part(model(), "names:layers\\.(0\\.input_layernorm|3\\.)").frozen_layers == 0


# -- the same result -------------------------------------------------------------------------------------------------


@every_architecture
@pytest.mark.parametrize(("train", "budget"), [("top:1", 60), ("top:3", 10_000)])
def test_loss_and_gradient_are_those_without_it_when_states_are_computed_and_when_they_are_read(
    architecture: str, train: str, budget: int, tmp_path: Path
) -> None:
    items = random_items(7, rows=2)
    plain = part(model(architecture), train, tokens_per_microbatch=budget)
    expected = plain.forward_backward(items, losses.nll)
    kept = keeping(part(model(architecture), train, tokens_per_microbatch=budget), tmp_path)
    for _ in ("computed", "read"):
        stats = kept.forward_backward(items, losses.nll)
        assert stats["loss"].value == pytest.approx(expected["loss"].value, rel=1e-5)
        assert_alike(gradients(plain), gradients(kept))


@pytest.mark.parametrize("train", ["head", "names:^(model|gpt_neox)\\.(norm|final_layer_norm)"])
@pytest.mark.parametrize("architecture", ["mistral", "gpt_neox"])
def test_with_all_layers_frozen_none_of_them_runs_again(architecture: str, train: str, tmp_path: Path) -> None:
    items = random_items(5)
    plain, kept = part(model(architecture), train), keeping(part(model(architecture), train), tmp_path)
    for engine in (plain, kept, kept):
        engine.forward_backward(items, losses.nll)
    assert_alike(gradients(plain), gradients(kept))


@every_architecture
def test_looking_sees_the_same(architecture: str, tmp_path: Path) -> None:
    items = random_items(4, rows=2)
    plain, kept = part(model(architecture), "top:1"), keeping(part(model(architecture), "top:1"), tmp_path)
    for _ in ("computed", "read"):
        assert kept.evaluate(items, losses.nll)["loss"].value == pytest.approx(
            plain.evaluate(items, losses.nll)["loss"].value, rel=1e-5
        )
        for verb in (Engine.logprobs, Engine.features):
            for one, other in zip(verb(kept, items), verb(plain, items), strict=True):
                for row, same in zip(one, other, strict=True):
                    np.testing.assert_allclose(row, same, rtol=1e-4, atol=1e-4)


@every_architecture
def test_rows_computed_together_as_on_an_accelerator_give_the_same(architecture: str, tmp_path: Path) -> None:
    items = random_items(7, rows=2)
    plain, kept = part(model(architecture), "top:2"), keeping(part(model(architecture), "top:2"), tmp_path)
    assert kept.below is not None
    kept.below.together = True
    for engine in (plain, kept, kept):
        engine.forward_backward(items, losses.nll)
    assert_alike(gradients(plain), gradients(kept))
    assert kept.below.kept is not None and len(kept.below.kept) == 14


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_the_frozen_layers_weights_are_not_used_again_once_all_rows_are_kept(
    architecture: str, threads: int, tmp_path: Path
) -> None:
    items = random_items(6)
    engine = keeping(part(model(architecture), "top:2", threads=threads), tmp_path)
    engine.forward_backward(items, losses.nll)
    first = gradients(engine)
    with torch.no_grad():
        for layer in list(decoder_layers(engine.model))[:2]:
            for weight in layer.parameters():
                weight.fill_(float("nan"))
    engine.forward_backward(items, losses.nll)
    assert_identical(first, gradients(engine))


def cross_entropy(outputs: Outputs, rows: Rows) -> dict[str, Term]:
    assert outputs.scores_N is not None
    return {"loss": Term(nn.functional.cross_entropy(outputs.scores_N, rows.label_N, reduction="sum"), "item")}


def labelled(count: int) -> list[Item]:
    """Pairs of texts of different length: tokens of two segments, and a class."""
    items = []
    for item in random_items(count):
        row = item.rows[0]
        segments = (np.arange(len(row)) > len(row) // 2).astype(np.int8)
        items.append(Item(item.id, (Row(row.tokens, row.weights, row.tokens, segments, label=int(row.tokens[0]) % 3),)))
    return items


@pytest.mark.parametrize("train", ["nothing", "top:2"])
def test_an_encoder_with_a_head_gets_its_masks_and_segments(train: str, tmp_path: Path) -> None:
    items = labelled(7)
    losses_of = []
    for keep in (False, True):
        built = bert()
        trained = {} if train == "nothing" else choose(built, settings(train=train)).parameters
        if train == "nothing":
            built.requires_grad_(False)
        engine = Engine(built, trained=trained, cfg=settings(), score_head=ScoreHead(3, pool="mean"))
        assert engine.frozen_layers == (LAYERS if train == "nothing" else LAYERS - 2)
        if keep:
            keeping(engine, tmp_path)
        losses_of.append([])
        for _ in range(3):
            # dropout draws in the upper layers are keyed, so they are the same with and without
            losses_of[-1].append(engine.forward_backward(items, cross_entropy)["loss"].value)
            engine.optim_step(1e-2)
    np.testing.assert_allclose(losses_of[0], losses_of[1], rtol=1e-4)


def test_segments_belong_to_the_key_of_a_row(tmp_path: Path) -> None:
    engine = keeping(
        Engine(bert().requires_grad_(False), trained={}, cfg=settings(), score_head=ScoreHead(3)), tmp_path
    )
    (item,) = labelled(1)
    other = item.with_rows([item.rows[0].with_(segments=None)])
    one, two = engine.scores([item])[0][0], engine.scores([other])[0][0]
    assert np.abs(one - two).max() > 1e-4


def test_a_model_whose_upper_layers_read_past_the_ones_below_is_run_whole(tmp_path: Path) -> None:
    """The last layer adds what the second gave: the trial sees that the cut model differs."""
    built = model("gpt_neox")
    given: list[Tensor] = []
    layers = decoder_layers(built)
    layers[1].register_forward_hook(lambda module, arguments, out: given.append(out))
    layers[3].register_forward_hook(lambda module, arguments, out: out + given[-1])
    engine = part(built, "top:1")
    assert engine.frozen_layers == 3 and not below(engine, tmp_path).works


# -- dropout ---------------------------------------------------------------------------------------------------------


def test_nothing_below_the_first_trained_layer_draws() -> None:
    """Embedding and layers with heavy dropout, only the head trained: the training loss is the one without dropout."""
    items = random_items(5)
    engine = part(model("gpt_neox", hidden_dropout=0.5, attention_dropout=0.5), "head")
    assert engine.forward_backward(items, losses.nll)["loss"].value == pytest.approx(
        engine.evaluate(items, losses.nll)["loss"].value, rel=1e-6
    )


def test_a_draw_in_the_bodys_own_code_before_the_layers_is_frozen_too() -> None:
    """XGLM drops out embeddings in its own forward pass, by no module."""
    config = XGLMConfig(
        vocab_size=tiny.VOCABULARY, d_model=32, ffn_dim=64, num_layers=LAYERS, attention_heads=4, dropout=0.5
    )
    torch.manual_seed(1)
    engine = part(XGLMForCausalLM(config), "names:^model.layer_norm")
    assert engine.frozen_layers == LAYERS
    items = random_items(5)
    assert engine.forward_backward(items, losses.nll)["loss"].value == pytest.approx(
        engine.evaluate(items, losses.nll)["loss"].value, rel=1e-6
    )


def test_trained_layers_draw_the_same_with_and_without(tmp_path: Path) -> None:
    items = random_items(5)
    dropout = {"hidden_dropout": 0.3, "attention_dropout": 0.3}
    plain = part(model("gpt_neox", **dropout), "top:2")
    kept = keeping(part(model("gpt_neox", **dropout), "top:2"), tmp_path)
    drawn = plain.forward_backward(items, losses.nll)["loss"].value
    assert drawn != pytest.approx(plain.evaluate(items, losses.nll)["loss"].value, rel=1e-3)
    for _ in ("computed", "read"):
        assert kept.forward_backward(items, losses.nll)["loss"].value == pytest.approx(drawn, rel=1e-5)
        assert_alike(gradients(plain), gradients(kept))


# -- to the bit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "half", "threads"),
    [("llama", False, 1), ("llama", True, 1), ("gpt_neox", False, 1), ("llama", False, 2), ("gpt_neox", False, 2)],
)
def test_weights_do_not_depend_on_who_filled_the_store_and_when(
    architecture: str, half: bool, threads: int, tmp_path: Path
) -> None:
    """Not on looking first (other rows beside each other), not on a store of another run, on none, or on a full one."""
    items = random_items(10)
    stores = [("new", 10**9), ("looked", 10**9), ("new", 10**9), ("no room", 0), ("little room", 9000)]
    found = []
    for name, room in stores if threads == 1 else stores[:2]:
        engine = part(model(architecture), "top:2", threads=threads)
        keeping(engine, tmp_path / name, room=room, half=half)
        if name == "looked":
            engine.evaluate(items[::-1], losses.nll)
            engine.logprobs(items[3:5])
        found.append(updates(engine, 5 if threads == 1 else 3, items))
    for other in found[1:]:
        assert_identical(found[0], other)


@pytest.mark.parametrize("room", [10**9, 20_000, 0])
def test_lanes_compute_nothing_themselves(room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a step runs in lanes, all rows are ready before they begin, kept or not; the result is that of one lane."""
    monkeypatch.setattr(lanes, "TOKENS_A_LANE", 1)
    items = random_items(8)
    one = keeping(part(model(), "top:2"), tmp_path / "one", room=room)
    one.forward_backward(items, losses.nll)
    two = keeping(part(model(), "top:2", threads=2), tmp_path / "two", room=room)
    computing: list[str] = []
    assert two.below is not None
    compute = two.below._compute

    def recorded(rows: Sequence[Row]) -> list[Tensor]:
        computing.extend([threading.current_thread().name] * len(rows))
        return compute(rows)

    monkeypatch.setattr(two.below, "_compute", recorded)
    for _ in range(2):
        two.forward_backward(items, losses.nll)
        assert_alike(gradients(one), gradients(two))
        assert two.below._held == {}
    assert len(computing) >= 8 and set(computing) == {threading.current_thread().name}


@pytest.mark.parametrize("half", [False, True])
def test_a_resumed_training_ends_with_the_bits_of_one_that_was_not(half: bool, tmp_path: Path) -> None:
    """Whether it finds the store, finds it gone, or finds that it may keep nothing now."""
    items = random_items(10)
    whole = keeping(part(model(), "top:1"), tmp_path / "a", half=half)
    expected = updates(whole, 6, items)
    first = keeping(part(model(), "top:1"), tmp_path / "b", half=half)
    updates(first, 3, items)
    (tmp_path / "saved").mkdir()
    first.save(tmp_path / "saved")
    for folder in (tmp_path / "b", tmp_path / "gone", None):
        second = part(model(), "top:1")
        if folder is not None:
            keeping(second, folder, half=half)
        second.load(tmp_path / "saved")
        assert_identical(expected, updates(second, 3, items))


def test_a_training_that_began_without_keeping_goes_on_without(tmp_path: Path) -> None:
    items = random_items(10)
    expected = updates(part(model(), "top:1"), 6, items)
    first = part(model(), "top:1")
    updates(first, 3, items)
    (tmp_path / "saved").mkdir()
    first.save(tmp_path / "saved")
    second = keeping(part(model(), "top:1"), tmp_path / "store", half=True)
    second.load(tmp_path / "saved")
    assert_identical(expected, updates(second, 3, items))


def test_float16_is_near_and_takes_half(tmp_path: Path) -> None:
    items = random_items(6)
    plain = part(model(), "top:1").forward_backward(items, losses.nll)["loss"].value
    sizes = {}
    for half in (False, True):
        engine = keeping(part(model(), "top:1"), tmp_path / str(half), half=half)
        assert engine.forward_backward(items, losses.nll)["loss"].value == pytest.approx(plain, rel=2e-3)
        sizes[half] = sum(path.stat().st_size for path in (tmp_path / str(half)).glob("*.states"))
    assert sizes[False] == sum(item.tokens for item in items) * 32 * 4 == 2 * sizes[True]


def test_states_that_float16_cannot_hold_are_not_kept_and_that_is_said_once(tmp_path: Path) -> None:
    items = random_items(4)
    built = model("gpt_neox")
    with torch.no_grad():
        built.get_input_embeddings().weight[items[0].rows[0].tokens[0]] = 1e6
    said: list[str] = []
    plain = part(built, "top:1").evaluate(items, losses.nll)["loss"].value
    engine = keeping(part(built, "top:1"), tmp_path, half=True, say=said.append)
    for _ in range(2):
        assert engine.evaluate(items, losses.nll)["loss"].value == pytest.approx(plain, rel=1e-2)
    assert len(said) == 1 and "float16" in said[0]


# -- the key ---------------------------------------------------------------------------------------------------------


def key(built: Any, train: str = "top:1", **options: Any) -> str:
    engine = part(built, train)
    return fingerprint(engine.forward, engine.frozen_layers, **{"autocast": False, "half": False} | options)


def test_whatever_changes_the_states_changes_the_stores_name() -> None:
    same = key(model())
    assert key(model()) == same
    one_number = model()
    with torch.no_grad():
        one_number.model.layers[1].mlp.up_proj.weight[3, 5] += 1e-3
    embedding = model()
    with torch.no_grad():
        embedding.get_input_embeddings().weight[200, 0] = 0
    theta = model()
    theta.config.rms_norm_eps = 1e-3
    others = [key(one_number), key(embedding), key(theta), key(model(seed=1)), key(model(), "top:2")]
    others += [key(model(), half=True), key(model(), autocast=True), key(model(attn_implementation="eager"))]
    assert len({same, *others}) == 1 + len(others)


def test_training_does_not_change_the_stores_name() -> None:
    engine = part(model(), "top:2")
    before = fingerprint(engine.forward, 2, autocast=False, half=False)
    updates(engine, 2, random_items(4))
    assert fingerprint(engine.forward, 2, autocast=False, half=False) == before


def test_the_model_is_whole_again_after_every_pass(tmp_path: Path) -> None:
    """Nothing of the cut stays on a layer, so that saving, sampling and copying see the model as it is."""
    engine = keeping(part(model("gpt_neox"), "top:1"), tmp_path)
    for _ in range(2):
        engine.forward_backward(random_items(3), losses.nll)
        assert not any("forward" in vars(layer) for layer in decoder_layers(engine.model))
