"""A prompt that an item's rows begin with is computed once: the same values and gradients as row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.engine.items import engine, random_items
from tests.engine.items import settings as engine_settings
from tests.engine.test_fused import OURS, built, double
from tomoni import losses
from tomoni.engine import blueprint
from tomoni.engine.batch import collate
from tomoni.engine.engine import Engine
from tomoni.engine.flat import RECTANGLE_COST, FlatDecoder
from tomoni.engine.forward import ScoreHead, without_adapter
from tomoni.engine.trained import choose
from tomoni.losses import preference
from tomoni.rows import Item, Row

LONG = RECTANGLE_COST * 3  # a prompt that is worth computing once


def group(prompt: int, answers: Sequence[int], *, seed: int = 0, id: str = "group") -> Item:
    """Rows that begin with the same `prompt` tokens; their own differ from the first on, and are trained."""
    rng = np.random.default_rng(seed)
    begin = rng.integers(0, 200, prompt)

    def row(number: int, length: int) -> Row:
        own = rng.integers(0, 256, length)
        own[0] = 200 + number
        weights = np.concatenate([np.zeros(prompt), np.ones(length)]).astype(np.float32)
        weights[0] = 0
        return Row(np.concatenate([begin, own]).astype(np.int32), weights)

    return Item(id, tuple(row(number, length) for number, length in enumerate(answers)))


GROUPS = [
    group(LONG, (5, 9), id="a pair"),
    group(LONG + 17, (3, 1, 12, 7), seed=1, id="four answers"),
    group(2, (6, 4), seed=2, id="hardly a prompt"),
    Item("alone", random_items(1, seed=5)[0].rows),
]


def plain(one: Engine) -> Engine:
    """The same engine, every row computed whole."""
    one._shares = lambda rows: False  # type: ignore[method-assign]
    return one


def pair_loss(outputs: losses.Outputs, rows: losses.Rows) -> dict[str, losses.Term]:
    """Not linear in a row's log-probability, so that a gradient which lands in a wrong row shows."""
    sums_N = rows.sum_per_row(outputs.logprobs_P)
    return {"loss": losses.Term((sums_N.square() * torch.arange(1, len(sums_N) + 1)).sum(), "token")}


def learnt(one: Engine, items: Sequence[Item], loss: Any = pair_loss) -> tuple[float, dict[str, torch.Tensor]]:
    value = one.forward_backward(items, loss)["loss"].value
    return value, {name: weight.grad.clone() for name, weight in one.trained.items() if weight.grad is not None}


def assert_alike(found: tuple[float, dict[str, torch.Tensor]], expected: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1].keys() == expected[1].keys() and found[1]
    for name, gradient in found[1].items():
        size = float(expected[1][name].abs().max())
        torch.testing.assert_close(gradient, expected[1][name], rtol=1e-4, atol=2e-5 * max(size, 1e-3), msg=lambda text, name=name: f"{name}: {text}")  # fmt: skip


def one_of(architecture: str, train: str = "all", **changes: Any) -> Engine:
    cfg = engine_settings(train=train, **changes)
    chosen = choose(built(architecture, sliding_window=None), cfg)
    return Engine(chosen.model, trained=chosen.parameters, cfg=cfg, keep_reference=True)


@pytest.mark.parametrize("train", ["all", "lora", "top:1"])
@pytest.mark.parametrize("architecture", OURS)
def test_losses_and_gradients_are_those_of_whole_rows(architecture: str, train: str) -> None:
    assert_alike(learnt(one_of(architecture, train), GROUPS), learnt(plain(one_of(architecture, train)), GROUPS))


@pytest.mark.parametrize("architecture", ["gemma3_text", "gpt_neox"])
def test_a_model_that_our_decoder_does_not_stand_in_for_computes_whole_rows(architecture: str) -> None:
    one = engine(tiny.model(architecture))
    assert not one._shares([row for item in GROUPS for row in item.rows])
    assert_alike(learnt(one, GROUPS), learnt(plain(engine(tiny.model(architecture))), GROUPS))


@pytest.mark.parametrize("lora", [False, True], ids=["all", "lora"])
@pytest.mark.parametrize("architecture", OURS)
def test_hidden_states_and_gradients_equal_whole_rows_in_float64(architecture: str, lora: bool) -> None:
    model = double(architecture, lora=lora, sliding_window=None)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    plan = blueprint.read(without_adapter(model))
    assert plan is not None
    decoder = FlatDecoder(plan)
    decoder.refresh()
    items = [item for item in GROUPS if len(item.rows) > 1]
    found = []
    for share in (True, False):
        laid = collate(items, causal=True, limit=10_000, device=torch.device("cpu"), cost=RECTANGLE_COST, share=share)
        hidden_ND = decoder.hidden(laid.tiles)
        at_P = torch.empty(len(laid.targets_P), dtype=torch.long)
        start = 0
        for tile in laid.tiles:
            at_P[tile.place_Q] = tile.source_Q + start
            start += tile.tokens_NT.numel()
        states_PD = hidden_ND[at_P]
        torch.manual_seed(0)
        found.append((states_PD, torch.autograd.grad(states_PD, weights, torch.randn_like(states_PD), allow_unused=True)))  # fmt: skip
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-10, atol=1e-10)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("budget", [1, 90, 100_000])
def test_no_size_of_micro_batch_shows(budget: int) -> None:
    whole = learnt(plain(one_of("llama")), GROUPS, losses.nll)
    assert_alike(learnt(one_of("llama", tokens_per_microbatch=budget), GROUPS, losses.nll), whole)


def test_lanes_give_the_same() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        cfg = engine_settings().model_copy(update={"threads": 2})
        model = tiny.model()
        found = learnt(Engine(model, trained=dict(model.named_parameters()), cfg=cfg), GROUPS * 3, losses.nll)
    finally:
        torch.set_num_threads(before)
    assert_alike(found, learnt(plain(one_of("llama")), GROUPS * 3, losses.nll))


def test_log_probabilities_are_those_of_whole_rows() -> None:
    one, other = one_of("qwen3"), plain(one_of("qwen3"))
    for of in ("policy", "reference"):
        for rows, whole in zip(one.logprobs(GROUPS, of=of), other.logprobs(GROUPS, of=of), strict=True):  # type: ignore[arg-type]
            for found, expected in zip(rows, whole, strict=True):
                np.testing.assert_allclose(found, expected, atol=2e-5)
    kept, alone = (each.logprobs(GROUPS, of="reference", keep=True) for each in (one, other))
    for rows, whole in zip(kept, alone, strict=True):
        for found, expected in zip(rows, whole, strict=True):
            np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_a_score_for_each_row_is_that_of_the_whole_row(pool: Any) -> None:
    """Mean pooling reads the prompt's states too, so it computes whole rows."""
    found = []
    for one in (engine(tiny.model(), score_head=ScoreHead(1, pool=pool)), plain(engine(tiny.model(), score_head=ScoreHead(1, pool=pool)))):  # fmt: skip
        assert one.score is not None
        torch.nn.init.constant_(one.score.weight, 0.3)
        found.append(one.scores(GROUPS))
    for rows, whole in zip(*found, strict=True):
        for one_C, other_C in zip(rows, whole, strict=True):
            np.testing.assert_allclose(one_C, other_C, rtol=1e-4, atol=1e-5)


def test_a_score_for_each_token_is_that_of_the_whole_row() -> None:
    found = []
    for share in (True, False):
        one = engine(tiny.model(), score_head=ScoreHead(1, per="token"))
        assert one.score is not None
        torch.nn.init.constant_(one.score.weight, 0.3)
        found.append((one if share else plain(one)).logprobs_and_scores(GROUPS))
    for rows, whole in zip(*found, strict=True):
        for pair, other in zip(rows, whole, strict=True):
            for value, expected in zip(pair, other, strict=True):
                np.testing.assert_allclose(value, expected, rtol=1e-4, atol=2e-5)


def test_a_preference_loss_is_the_same() -> None:
    pairs = [item.with_rows([row.with_(reference=np.zeros(len(row), np.float32)) for row in item.rows]) for item in (GROUPS[0], GROUPS[2])]  # fmt: skip

    def loss(outputs: losses.Outputs, rows: losses.Rows) -> dict[str, losses.Term]:
        return preference.dpo(outputs, rows, beta=0.1)

    assert_alike(learnt(one_of("llama"), pairs, loss), learnt(plain(one_of("llama")), pairs, loss))


# -- what is laid out ------------------------------------------------------------------------------------------------


def laid_out(items: Sequence[Item], share: bool = True) -> Any:
    return collate(items, causal=True, limit=10_000, device=torch.device("cpu"), cost=RECTANGLE_COST, share=share)


def tokens(batch: Any) -> int:
    return sum(tile.tokens_NT.numel() for tile in batch.tiles)


def test_a_prompt_is_laid_out_once() -> None:
    item = group(LONG, (10,) * 8)
    assert tokens(laid_out([item], share=False)) == 8 * (LONG + 10)
    assert tokens(laid_out([item])) == LONG + 8 * 10


@pytest.mark.parametrize(
    "item",
    [
        Item("one row", group(LONG, (4,)).rows),
        Item("nothing in common", random_items(1, seed=1, shortest=60, longest=60, rows=3)[0].rows),
        group(3, (4, 4)),
        Item("trained early", tuple(row.with_(weights=np.eye(1, len(row), 1, dtype=np.float32)[0]) for row in group(LONG, (4, 4)).rows)),
    ],
    ids=lambda item: item.id,
)  # fmt: skip
def test_rows_that_have_little_in_common_are_laid_out_whole(item: Item) -> None:
    assert tokens(laid_out([item])) == tokens(laid_out([item], share=False))


def test_segments_and_long_rows_in_a_window_are_laid_out_whole() -> None:
    item = group(LONG, (4, 4))
    marked = item.with_rows([row.with_(segments=np.zeros(len(row), dtype=np.int8)) for row in item.rows])
    assert tokens(laid_out([marked])) == tokens(laid_out([marked], share=False))
    windowed = engine(tiny.model("mistral"))  # its window is 16
    assert windowed.forward.flat is not None
    assert not windowed._shares(item.rows)
    assert_alike(learnt(windowed, [item], losses.nll), learnt(plain(engine(tiny.model("mistral"))), [item], losses.nll))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 120), st.lists(st.integers(1, 9), min_size=1, max_size=5)), min_size=1, max_size=4))  # fmt: skip
def test_each_trained_position_is_predicted_from_where_it_should_be(shapes: list[tuple[int, list[int]]]) -> None:
    items = [group(prompt, answers, seed=seed, id=str(seed)) for seed, (prompt, answers) in enumerate(shapes)]
    found = laid_out(items)
    assert tokens(found) <= tokens(laid_out(items, share=False))
    rows = [row for item in items for row in item.rows]
    wanted = [(row.tokens[: place + 1], place) for row in rows for place in np.flatnonzero(row.weights)]
    seen = 0
    for tile in found.tiles:
        width = tile.tokens_NT.shape[1]
        for source, place in zip(tile.source_Q.tolist(), tile.place_Q.tolist(), strict=True):
            line, column = divmod(source, width)
            before = [] if tile.behind is None else found.tiles[tile.behind].tokens_NT[0].tolist()
            row_tokens, position = wanted[place]
            assert before + tile.tokens_NT[line, : column + 1].tolist() == row_tokens[:position].tolist()
            assert int(found.targets_P[place]) == row_tokens[position]
            seen += 1
    assert seen == len(wanted)


def test_no_tile_stands_behind_a_later_one() -> None:
    for number, tile in enumerate(laid_out(GROUPS).tiles):
        assert tile.behind is None or tile.behind < number
