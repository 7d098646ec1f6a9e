"""BERT's layers over all tokens at once: the same as the model's own forward pass, row by row, for every relative."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests import tiny
from tomoni.engine import kernels
from tomoni.engine.batch import collate
from tomoni.engine.engine import Engine
from tomoni.engine.forward import Forward, ScoreHead
from tomoni.losses import classes
from tomoni.rows import Item, Row
from tomoni.settings.classify import Config

FLAT = ("bert", "roberta", "distilbert", "electra")
CPU = torch.device("cpu")
needs_kernels = pytest.mark.skipif(kernels.library() is None, reason=str(kernels.reason()))


def items(count: int = 7, *, seed: int = 0) -> list[Item]:
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        length = int(rng.integers(3, 30))
        segments = (np.arange(length) > length // 2).astype(np.int8)
        row = Row(
            rng.integers(0, 256, length).astype(np.int32),
            np.zeros(length, dtype=np.float32),
            segments=segments,
            label=number % 3,
        )
        made.append(Item(str(number), (row,)))
    return made


def body(architecture: str) -> Any:
    made: Any = tiny.encoder(architecture, masked=False)
    made.pooler = None
    return made


def cfg(**changes: Any) -> Config:
    return Config(model_name_or_path="m", train_file="t", output_dir="o", threads=1, **changes)


def own_states(model: Any, row: Row) -> torch.Tensor:
    """[T, D] of one row alone, by the model's own code."""
    given: dict[str, Any] = {"input_ids": torch.from_numpy(row.tokens.astype(np.int64))[None]}
    if getattr(model.config, "type_vocab_size", 0) > 1 and row.segments is not None:
        given["token_type_ids"] = torch.from_numpy(row.segments.astype(np.int64))[None]
    states: torch.Tensor = model(**given).last_hidden_state[0]
    return states


@pytest.mark.parametrize("architecture", tiny.ENCODERS)
def test_it_stands_in_for_the_relatives_it_knows_and_for_no_other(architecture: str) -> None:
    assert (Forward(body(architecture)).encoder is not None) == (architecture in FLAT)


@pytest.mark.parametrize("architecture", tiny.ENCODERS)
@pytest.mark.parametrize("pool", ["first", "mean"])
def test_scores_and_gradients_are_those_of_each_row_alone_by_the_models_own_code(architecture: str, pool: Any) -> None:
    model, plain = body(architecture), body(architecture)
    spec = ScoreHead(3, "row", pool)
    engine = Engine(model, trained=dict(model.named_parameters()), cfg=cfg(), score_head=spec)
    head = nn.Linear(32, 3)
    assert engine.score is not None
    head.load_state_dict(engine.score.state_dict())
    total = torch.zeros(())
    for item in items():
        states = own_states(plain, item.rows[0])
        scores = head(states[0] if pool == "first" else states.mean(0))
        total = total + nn.functional.cross_entropy(scores[None], torch.tensor([item.rows[0].label]))
        (found,) = engine.scores([item])[0]
        np.testing.assert_allclose(found, scores.detach().numpy(), rtol=1e-3, atol=1e-5)
    (total / 7).backward()
    for budget in (1, 64, 10_000):
        engine.budget = budget
        assert engine.forward_backward(items(), classes.softmax_classes)["loss"].value == pytest.approx(
            float(total.detach()) / 7, rel=1e-4
        )
        for name, weight in plain.named_parameters():
            if weight.grad is not None and weight.grad.abs().max() > 1e-6:
                torch.testing.assert_close(engine.trained[name].grad, weight.grad, rtol=5e-3, atol=2e-6, msg=name)


@pytest.mark.parametrize("architecture", FLAT)
def test_the_last_layer_alone_at_the_first_token_is_the_whole_ones(architecture: str) -> None:
    forward = Forward(body(architecture))
    assert forward.encoder is not None
    batch = collate(items(), causal=False, limit=10_000, device=CPU, cost=0)
    with torch.no_grad():
        firsts = forward.firsts(batch)
        for number, item in enumerate(items()):
            torch.testing.assert_close(firsts[number], own_states(forward.model, item.rows[0])[0], rtol=1e-3, atol=1e-4)


def test_products_see_no_padding_and_the_last_layer_feeds_one_token_a_row() -> None:
    """Counted: rows that enter each product, for 7 rows of different lengths in one micro-batch."""
    model = body("bert")
    engine = Engine(model, trained=dict(model.named_parameters()), cfg=cfg(), score_head=ScoreHead(3, "row", "first"))
    seen: dict[str, int] = {}

    def count(name: str, module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        seen[name] = seen.get(name, 0) + given[0].shape[0]

    for number, layer in enumerate(model.encoder.layer):
        layer.intermediate.dense.register_forward_pre_hook(partial(count, f"up {number}"))
    engine.scores(items())
    assert seen == {"up 0": sum(item.tokens for item in items()), "up 1": 7}


def test_dropout_is_drawn_by_seed_step_and_micro_batch_and_only_in_training() -> None:
    def losses(seed: int) -> list[float]:
        model: Any = tiny.encoder("bert", masked=False, dropout=0.3)
        model.pooler = None
        engine = Engine(
            model, trained=dict(model.named_parameters()), cfg=cfg(seed=seed), score_head=ScoreHead(3, "row", "first")
        )
        found = []
        for _ in range(2):
            found.append(engine.forward_backward(items(), classes.softmax_classes)["loss"].value)
            engine.evaluate(items(), classes.softmax_classes)
            engine.optim_step(0.0)
        found.append(engine.evaluate(items(), classes.softmax_classes)["loss"].value)
        return found

    one, again = losses(0), losses(0)
    assert one == again
    assert len({round(value, 6) for value in one}) == 3


def trained_engine(
    threads: int, *, dropout: float, pool: Any = "first", architecture: str = "bert", seed: int = 0
) -> Engine:
    model: Any = tiny.encoder(architecture, masked=False, dropout=dropout)
    model.pooler = None
    settings = cfg(seed=seed).model_copy(update={"threads": threads})
    return Engine(model, trained=dict(model.named_parameters()), cfg=settings, score_head=ScoreHead(3, "row", pool))


def gradients(engine: Engine) -> dict[str, torch.Tensor]:
    engine.forward_backward(items(), classes.softmax_classes)
    return {name: weight.grad.clone() for name, weight in engine.trained.items() if weight.grad is not None}


@needs_kernels
@pytest.mark.parametrize("pool", ["first", "mean"])
@pytest.mark.parametrize("architecture", FLAT)
def test_two_lanes_give_what_one_pass_gives(architecture: str, pool: str, small_lanes: None) -> None:
    with patched_lanes() as seen:
        side = trained_engine(2, dropout=0.0, pool=pool, architecture=architecture)
        found, told = gradients(side), side.evaluate(items(), classes.softmax_classes)["loss"].value
    assert seen == [2]
    whole = trained_engine(1, dropout=0.0, pool=pool, architecture=architecture)
    expected = gradients(whole)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
    assert told == pytest.approx(whole.evaluate(items(), classes.softmax_classes)["loss"].value, rel=1e-5)


@contextlib.contextmanager
def patched_lanes() -> Iterator[list[int]]:
    """How many lanes each step was dealt into."""
    seen: list[int] = []
    whole = Engine._in_lanes

    def counted(self: Engine, parts: Any, *rest: Any) -> Any:
        seen.append(len(parts))
        return whole(self, parts, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_in_lanes", counted)
        yield seen


@needs_kernels
def test_lanes_draw_by_keys_of_their_own_and_the_same_again(small_lanes: None) -> None:
    with patched_lanes() as seen:
        one, again, other = (gradients(trained_engine(2, dropout=0.3, seed=seed)) for seed in (0, 0, 1))
        engine = trained_engine(2, dropout=0.3)
        torch.rand(5)  # a stream that others move
        assert all(torch.equal(found, one[name]) for name, found in gradients(engine).items())
    assert seen == [2, 2, 2, 2]
    assert all(torch.equal(again[name], gradient) for name, gradient in one.items())
    assert not any(torch.equal(other[name], gradient) for name, gradient in one.items() if gradient.abs().sum() > 0)


@needs_kernels
def test_a_run_taken_up_again_draws_what_it_would_have_drawn(small_lanes: None, tmp_path: Path) -> None:
    def learn(engine: Engine, steps: int) -> Engine:
        for _ in range(steps):
            engine.forward_backward(items(), classes.softmax_classes)
            engine.optim_step(1e-2)
        return engine

    with patched_lanes() as seen:
        whole = learn(trained_engine(2, dropout=0.3), 3)
        learn(trained_engine(2, dropout=0.3), 2).save(tmp_path)
        again = trained_engine(2, dropout=0.3, seed=0)
        again.load(tmp_path)
        learn(again, 1)
    assert seen == [2] * 6
    assert all(torch.equal(again.trained[name], weight) for name, weight in whole.trained.items())


@needs_kernels
def test_what_draws_from_the_common_generator_runs_in_one_lane(small_lanes: None) -> None:
    hooked, long = trained_engine(2, dropout=0.3), trained_engine(2, dropout=0.3)
    hooked.forward.encoder.layers[0].up.register_forward_hook(lambda *_: None)  # type: ignore[union-attr]
    assert hooked.forward.lanes(items(), autocast=False) == 1
    assert long.forward.lanes(items(), autocast=True) == 1
    assert long.forward.lanes(items(), autocast=False) == 2
    row = Row(np.zeros(1025, np.int32), np.zeros(1025, np.float32), label=0)
    assert long.forward.lanes([*items(), Item("long", (row,))], autocast=False) == 1
    deberta = tiny.encoder("deberta-v2", masked=False, dropout=0.3)
    other = Engine(deberta, trained=dict(deberta.named_parameters()), cfg=cfg().model_copy(update={"threads": 2}),
                   score_head=ScoreHead(3, "row", "first"))  # fmt: skip
    assert other.forward.lanes(items(), autocast=False) == 1
