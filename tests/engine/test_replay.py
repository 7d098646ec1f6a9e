"""What is replayed adds its own gradient to every update, whatever the method, and changes nothing else of it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tests.engine.items import engine, random_items, settings
from tests.engine.test_engine import assert_identical, plain_logprobs, plain_loss, weights
from tomoni import losses
from tomoni.engine.engine import Engine
from tomoni.engine.forward import ScoreHead
from tomoni.engine.frozen import Below
from tomoni.engine.replay import DRAWS, LOSS, Replay
from tomoni.engine.trained import choose
from tomoni.errors import Diverged
from tomoni.losses import preference
from tomoni.rows import Item, with_reference

pytestmark = pytest.mark.usefixtures("small_lanes")

COEF = 0.7


def again(count: int = 7, *, batch_size: int = 4, seed: int = 5) -> Replay:
    return Replay(random_items(count, seed=99), batch_size=batch_size, coef=COEF, seed=seed)


def by_hand(model: nn.Module, items: list[Item], replayed: list[Item], *, score: float = 1.0) -> dict[str, Tensor]:
    """In float64, one row at a time: the gradient of score * mean nll of the items + COEF * mean nll of the replayed."""
    plain = model.double()
    (score * plain_loss(plain, items) + COEF * plain_loss(plain, replayed)).backward()
    return {name: weight.grad for name, weight in plain.named_parameters() if weight.grad is not None}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name].double(), gradient, rtol=2e-3, atol=2e-6, msg=name)


def gradients(built: Engine) -> dict[str, Tensor]:
    return {name: weight.grad.clone() for name, weight in built.trained.items() if weight.grad is not None}


@pytest.mark.parametrize(("threads", "budget"), [(1, 1), (1, 10_000), (2, 10_000)])
def test_the_gradient_is_the_sum_that_is_computed_by_hand(threads: int, budget: int) -> None:
    items, model = random_items(9), tiny.model()
    built = Engine(
        model,
        trained=dict(model.named_parameters()),
        cfg=settings(tokens_per_microbatch=budget).model_copy(update={"threads": threads}),
    )
    replay = again()
    built.forward_backward(items, losses.nll)
    stats = replay.add_to(built)
    assert_close(gradients(built), by_hand(tiny.model(), items, replay.batch(0)))
    expected = plain_loss(tiny.model().double(), replay.batch(0))
    assert stats[LOSS].value == pytest.approx(float(expected.detach()), rel=1e-5)


def test_beside_a_preference_it_is_the_sum_too() -> None:
    """The method's own loss by hand: DPO of one pair, whose reference is the start: - log sigmoid(0), slope - beta / 2."""
    (pair,), model, beta = random_items(1, rows=2), tiny.model(), 0.3
    built = engine(model, keep_reference=True)
    given = with_reference([pair], built.logprobs([pair], of="reference"))
    built.forward_backward(given, partial(preference.dpo, beta=beta))
    replay = again()
    replay.add_to(built)

    plain = tiny.model().double()
    chosen, rejected = (
        (plain_logprobs(plain, row) * torch.tensor(row.weights.astype(np.float64))).sum() for row in pair.rows
    )
    (-beta / 2 * (chosen - rejected) + COEF * plain_loss(plain, replay.batch(0))).backward()
    expected = {name: weight.grad for name, weight in plain.named_parameters() if weight.grad is not None}
    assert_close(gradients(built), expected)


def test_the_sum_is_clipped_and_its_norm_is_told() -> None:
    items, model = random_items(5), tiny.model()
    built = engine(model, max_grad_norm=1e-3)
    built.replay = again()
    built.forward_backward(items, losses.nll)
    stats = built.optim_step(0.0)
    expected = by_hand(tiny.model(), items, again().batch(0))
    norm = sum(float(gradient.pow(2).sum()) for gradient in expected.values()) ** 0.5
    assert stats["grad_norm"].value == pytest.approx(norm, rel=1e-4)
    moments = sum(float(state["exp_avg"].pow(2).sum()) for state in built.optimizer.state.values()) ** 0.5
    assert moments == pytest.approx((1 - 0.9) * 1e-3, rel=1e-3)


def test_a_policy_at_another_temperature_replays_its_texts_as_they_are() -> None:
    """A policy that samples at temperature 2 is softmax(logits / 2); what the model knows of texts is softmax(logits)."""
    built = engine(tiny.model(), temperature=2.0)
    replay = again()
    built.forward_backward(random_items(3), losses.nll)
    stats = replay.add_to(built)
    expected = plain_loss(tiny.model().double(), replay.batch(0))
    assert stats[LOSS].value == pytest.approx(float(expected.detach()), rel=1e-5)
    assert built.temperature == 2.0


def test_a_value_head_is_not_touched_by_it() -> None:
    def values(outputs: losses.Outputs, rows: losses.Rows) -> dict[str, losses.Term]:
        assert outputs.scores_P is not None
        return {"value": losses.Term((outputs.scores_P[:, 0] - 1).pow(2).sum(), "token")}

    built = engine(tiny.model(), score_head=ScoreHead(1, per="token"))
    built.forward_backward(random_items(3), values)
    before = gradients(built)
    again().add_to(built)
    after = gradients(built)
    assert torch.equal(before["score.weight"], after["score.weight"])
    assert not torch.equal(before["model.norm.weight"], after["model.norm.weight"])


def test_with_an_adapter_and_kept_layers_it_is_the_same_update() -> None:
    def update(keep: bool) -> dict[str, Tensor]:
        trained = choose(tiny.model(), settings(train="lora", lora_r=4), seed=0)
        built = Engine(trained.model, trained=trained.parameters, cfg=settings(train="lora", lora_r=4))
        if keep:
            built.keep_frozen(Below(built.forward, built.frozen_layers, autocast=False, half=False, kept=None))
        built.replay = again()
        for _ in range(2):
            built.forward_backward(random_items(3), losses.nll)
            built.optim_step(1e-2)
        return {name: weight.detach().clone() for name, weight in built.trained.items()}

    plain, kept = update(False), update(True)
    assert any("lora" in name for name in plain)
    for name, weight in plain.items():
        torch.testing.assert_close(kept[name], weight, rtol=2e-3, atol=1e-5, msg=name)


def test_memory_that_runs_out_while_replaying_loses_nothing_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    items, replay = random_items(6), again()

    def update(fails: int) -> tuple[dict[str, Tensor], int]:
        built = engine(tiny.model())
        built.forward_backward(items, losses.nll)
        plainly, left = built._outputs, fails

        def scarce(batch: object) -> object:
            nonlocal left
            if left:
                left -= 1
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
            return plainly(batch)  # type: ignore[arg-type]

        monkeypatch.setattr(built, "_outputs", scarce)
        replay.add_to(built)
        return gradients(built), built.budget

    (whole, budget), (cut, less) = update(0), update(1)
    assert less < budget
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, rtol=2e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("replayed", [True, False])
def test_a_record_that_is_not_finite_is_named_whichever_side_it_is_on(replayed: bool) -> None:
    items, others = random_items(4), random_items(4, seed=9)
    bad = others if replayed else items
    row = bad[2].rows[0]
    bad[2] = Item("the-bad-one", (row.with_(weights=np.where(row.weights > 0, np.inf, 0).astype(np.float32)),))
    model = tiny.model()
    before = weights(model)
    built = engine(model)
    built.replay = Replay(others, batch_size=4, coef=COEF, seed=0)
    built.forward_backward(items, losses.nll)
    with pytest.raises(Diverged, match="the-bad-one") as caught:
        built.optim_step(1e-2)
    assert caught.value.record_ids == ("the-bad-one",)
    assert_identical(before, weights(model))


def test_which_rows_an_update_gets_hangs_on_seed_and_number_alone() -> None:
    ids = [[item.id for item in again().batch(update)] for update in range(7)]
    assert [[item.id for item in again().batch(update)] for update in reversed(range(7))] == ids[::-1]
    assert [[item.id for item in again(seed=6).batch(update)] for update in range(7)] != ids
    seen = sorted(id for batch in ids for id in batch)
    assert seen == sorted(4 * [item.id for item in random_items(7)])  # 28 places, 7 rows: each as often


def test_the_ids_are_told_once() -> None:
    built = engine(tiny.model())
    built.replay = again()
    built.forward_backward(random_items(2), losses.nll)
    built.optim_step(1e-3)
    assert built.replay.take() == tuple(item.id for item in again().batch(0))
    assert built.replay.take() == ()


def test_its_dropout_is_drawn_apart_from_the_methods_own() -> None:
    """The same rows on both sides, with the same draws, would have the same loss."""
    model = tiny.model("llama", attention_dropout=0.4)
    built = engine(model)
    items = random_items(4)
    own = built.forward_backward(items, losses.nll)["loss"].value
    same = built.forward_backward(items, losses.nll)["loss"].value
    other = built.forward_backward(items, losses.nll, first_draw=DRAWS)["loss"].value
    assert own == same != other
