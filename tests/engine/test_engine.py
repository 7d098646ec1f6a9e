"""The engine against the plain computation: one row at a time, by the model's own forward pass, in float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertForMaskedLM

from tests import tiny
from tests.engine.items import engine, random_items, settings
from tomoni import losses
from tomoni.engine import engine as engine_module
from tomoni.engine import head, moments
from tomoni.engine.engine import Engine
from tomoni.engine.forward import ScoreHead, decoder_layers
from tomoni.errors import CheckpointError, Diverged, RunError
from tomoni.rows import Item, Row, with_reference

every_architecture = pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)


def plain_logprobs(model: nn.Module, row: Row) -> Tensor:
    """[T] by the definition: token i given tokens before it; 0 for the first."""
    logits = model(torch.tensor(row.tokens[None].astype(np.int64))).logits[0]
    logprobs = logits.double().log_softmax(-1)
    return torch.stack(
        [torch.zeros((), dtype=torch.float64)] + [logprobs[i - 1, row.tokens[i]] for i in range(1, len(row))]
    )


def plain_loss(model: nn.Module, items: Sequence[Item]) -> Tensor:
    total, count = torch.zeros((), dtype=torch.float64), 0.0
    for item in items:
        for row in item.rows:
            weights = torch.tensor(row.weights.astype(np.float64)) * item.weight
            total = total - (weights * plain_logprobs(model, row)).sum()
            count += float(weights.sum())
    return total / count


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def assert_identical(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@every_architecture
@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_loss_and_gradient_are_those_of_the_plain_computation_whatever_the_micro_batch(
    architecture: str, budget: int
) -> None:
    items = random_items(9)
    plain = tiny.model(architecture)
    expected = plain_loss(plain, items)
    expected.backward()

    model = tiny.model(architecture)
    stats = engine(model, tokens_per_microbatch=budget).forward_backward(items, losses.nll)

    assert stats["loss"].value == pytest.approx(float(expected.detach()), rel=1e-5)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(model)[name], gradient, rtol=2e-3, atol=2e-6, msg=name)


@every_architecture
def test_logprobs_are_those_of_the_plain_computation_at_trained_positions_and_zero_elsewhere(architecture: str) -> None:
    items = random_items(5, rows=2)
    model = tiny.model(architecture)
    found = engine(model, tokens_per_microbatch=70).logprobs(items)
    for item, rows in zip(items, found, strict=True):
        for row, logprobs in zip(item.rows, rows, strict=True):
            expected = plain_logprobs(model, row).detach().numpy() * (row.weights != 0)
            np.testing.assert_allclose(logprobs, expected, rtol=1e-4, atol=1e-5)


def test_items_of_weight_two_count_as_if_they_stood_there_twice() -> None:
    one, two = random_items(2)
    heavy = Item(one.id, one.rows, weight=2.0)
    doubled = engine(tiny.model()).evaluate([one, Item("again", one.rows), two], losses.nll)
    assert engine(tiny.model()).evaluate([heavy, two], losses.nll)["loss"].value == pytest.approx(
        doubled["loss"].value, rel=1e-6
    )


def test_token_accuracy_is_the_share_of_trained_tokens_that_are_the_most_probable() -> None:
    items = random_items(4)
    model = tiny.model()
    right = total = 0
    for item in items:
        row = item.rows[0]
        best = model(torch.tensor(row.tokens[None].astype(np.int64))).logits[0].argmax(-1).numpy()
        for i in range(1, len(row)):
            if row.weights[i]:
                total += 1
                right += int(best[i - 1] == row.tokens[i])
    assert engine(model).evaluate(items, losses.nll)["mean_token_accuracy"].value == pytest.approx(right / total)


def scaled_logits(architecture: str) -> nn.Module:
    scaling = {
        "gemma2": {"final_logit_softcapping": 0.5},
        "granite": {"logits_scaling": 8.0},
        "cohere": {"logit_scale": 0.06},
    }
    config = AutoConfig.for_model(architecture, **{**tiny.SHARED, "head_dim": 8, **scaling[architecture]})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("architecture", ["gemma2", "granite", "cohere"])
def test_architectures_that_scale_their_logits_take_the_plain_pass_or_agree_with_it(architecture: str) -> None:
    model = scaled_logits(architecture)
    items = random_items(3)
    built = engine(model)
    assert not built.forward.split
    assert built.evaluate(items, losses.nll)["loss"].value == pytest.approx(
        float(plain_loss(model, items).detach()), rel=1e-5
    )


def test_an_encoder_predicts_its_targets_in_place_and_never_sees_padding() -> None:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    model = BertForMaskedLM(config).eval()
    rng = np.random.default_rng(0)
    rows = []
    for length in (5, 9, 13):
        targets = rng.integers(5, 50, length).astype(np.int32)
        chosen = (rng.random(length) < 0.4).astype(np.float32)
        chosen[1] = 1
        rows.append(Row(np.where(chosen > 0, 4, targets).astype(np.int32), chosen, targets=targets))
    expected = torch.zeros((), dtype=torch.float64)
    for row in rows:
        logprobs = model(torch.tensor(row.tokens[None].astype(np.int64))).logits[0].double().log_softmax(-1)
        expected -= sum(logprobs[i, row.targets[i]] for i in range(len(row)) if row.weights[i])
    items = [Item(str(index), (row,)) for index, row in enumerate(rows)]
    stats = engine(model).evaluate(items, losses.nll)
    assert stats["loss"].sum == pytest.approx(float(expected.detach()), rel=1e-5)


def test_the_head_in_chunks_gives_the_same_loss_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    items = random_items(6)
    whole = tiny.model()
    stats = engine(whole).forward_backward(items, losses.nll)
    monkeypatch.setattr(head, "CHUNK_LOGITS", 5 * tiny.VOCABULARY)
    chunked = tiny.model()
    again = engine(chunked).forward_backward(items, losses.nll)
    assert again["loss"].value == pytest.approx(stats["loss"].value, rel=1e-6)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(chunked)[name], gradient, rtol=1e-4, atol=1e-6)


def test_activation_checkpointing_changes_no_gradient() -> None:
    items = random_items(4)
    plain, saving = tiny.model(attention_dropout=0.3), tiny.model(attention_dropout=0.3)
    engine(plain).forward_backward(items, losses.nll)
    engine(saving, gradient_checkpointing=True).forward_backward(items, losses.nll)
    assert_identical(gradients(plain), gradients(saving))


def test_one_update_is_adamw_by_its_published_equations_with_clipping_and_no_decay_on_vectors() -> None:
    items = random_items(4)
    model = tiny.model()
    built = engine(model, weight_decay=0.1, max_grad_norm=0.5, adam_beta2=0.95)
    before = weights(model)
    built.forward_backward(items, losses.nll)
    raw = {name: gradient.double() for name, gradient in gradients(model).items()}
    stats = built.optim_step(1e-2)
    norm = float(sum((gradient**2).sum() for gradient in raw.values()) ** 0.5)
    assert norm > 0.5
    assert stats["grad_norm"].value == pytest.approx(norm, rel=1e-5)
    for name, gradient in raw.items():
        clipped = gradient * (0.5 / norm)
        # Loshchilov and Hutter 2019, algorithm 2, first step: both bias-corrected moments are g and g^2
        decay = 0.1 if gradient.dim() > 1 else 0.0
        expected = before[name].double() * (1 - 1e-2 * decay) - 1e-2 * clipped / (clipped.abs() + 1e-8)
        torch.testing.assert_close(model.get_parameter(name).double(), expected, rtol=1e-3, atol=2e-6)


def run(built: Engine, first: int, last: int, *, watch: bool = False) -> None:
    for step in range(first, last):
        built.forward_backward(random_items(5, seed=step), losses.nll)
        built.optim_step(1e-2)
        if watch:
            built.evaluate(random_items(3, seed=99), losses.nll)
            built.logprobs(random_items(3, seed=98))
            built.features(random_items(2, seed=97))
            torch.rand(3)


def test_a_resumed_run_is_bit_identical_with_dropout_and_micro_batches(tmp_path: Path) -> None:
    shape = {"attention_dropout": 0.2}
    whole = engine(tiny.model(**shape), tokens_per_microbatch=50)
    run(whole, 0, 6)
    first = engine(tiny.model(**shape), tokens_per_microbatch=50)
    run(first, 0, 3)
    first.save(tmp_path)
    second = engine(tiny.model(seed=5, **shape))
    second.load(tmp_path)
    run(second, 3, 6)
    assert_identical(weights(whole.model), weights(second.model))
    after = moments.named(second.optimizer, second.trained)
    for name, tensor in moments.named(whole.optimizer, whole.trained).items():
        assert torch.equal(tensor, after[name]), name


def test_watching_changes_no_weight() -> None:
    blind, watched = (engine(tiny.model(attention_dropout=0.2)) for _ in range(2))
    run(blind, 0, 3)
    run(watched, 0, 3, watch=True)
    assert_identical(weights(blind.model), weights(watched.model))


def test_dropout_is_on_in_training_and_off_in_looking() -> None:
    items = random_items(4)
    built = engine(tiny.model(attention_dropout=0.5))
    without = engine(tiny.model()).evaluate(items, losses.nll)["loss"].value
    assert built.evaluate(items, losses.nll)["loss"].value == pytest.approx(without, rel=1e-6)
    first = built.forward_backward(items, losses.nll)["loss"].value
    assert first != without
    assert built.forward_backward(items, losses.nll)["loss"].value == first  # the same update draws the same numbers
    built.optim_step(0.0)
    assert built.forward_backward(items, losses.nll)["loss"].value != first


def test_an_item_given_twice_is_answered_twice() -> None:
    one, other = random_items(2)
    built = engine(tiny.model())
    first, again, alone = built.logprobs([one, one, other])
    assert np.array_equal(first[0], again[0])
    np.testing.assert_allclose(alone[0], built.logprobs([other])[0][0], atol=1e-5)


def test_experts_are_not_taken_for_layers() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(8))

    model = nn.Module()
    model.layers = nn.ModuleList(Layer() for _ in range(2))
    assert decoder_layers(model) is model.layers


def test_a_changed_micro_batch_size_is_taken_at_resume_and_an_unchanged_one_goes_on_as_found(tmp_path: Path) -> None:
    first = engine(tiny.model(), tokens_per_microbatch=64)
    first.budget = 48  # found after running out of memory
    first.save(tmp_path)
    for asked, taken in ((64, 48), (None, 48), (32, 32), (128, 128)):
        again = engine(tiny.model(), tokens_per_microbatch=asked)
        again.load(tmp_path)
        assert again.budget == taken


def test_a_checkpoint_from_before_the_first_update_takes_the_moments_away_again(tmp_path: Path) -> None:
    fresh, used = engine(tiny.model()), engine(tiny.model())
    used.save(tmp_path)
    run(used, 0, 2)
    used.load(tmp_path)
    run(used, 0, 2)
    run(fresh, 0, 2)
    assert_identical(weights(fresh.model), weights(used.model))


def test_layers_without_trained_weights_run_without_dropout() -> None:
    items = random_items(4)
    model = tiny.model(attention_dropout=0.5)
    for weight in model.parameters():
        weight.requires_grad_(False)
    trained = {
        name: weight.requires_grad_()
        for name, weight in model.named_parameters()
        if name.startswith("lm_head") or "embed" in name
    }
    built = Engine(model, trained=trained, cfg=settings())
    assert built.forward_backward(items, losses.nll)["loss"].value == pytest.approx(
        built.evaluate(items, losses.nll)["loss"].value
    )


def test_the_reference_is_the_policy_at_the_start_of_the_run() -> None:
    items = random_items(3)
    built = engine(tiny.model(), keep_reference=True)
    start = built.logprobs(items)
    run(built, 0, 2)
    for (then,), (reference,), (now,) in zip(
        start, built.logprobs(items, of="reference"), built.logprobs(items), strict=True
    ):
        assert np.array_equal(then, reference)
        assert not np.allclose(then, now)
    assert np.array_equal(with_reference(items, start)[0].rows[0].reference, start[0][0])  # type: ignore[arg-type]


@pytest.mark.parametrize("allowed", [1, 60])
def test_out_of_memory_halves_the_micro_batch_and_goes_on_with_the_same_step(
    monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    items = random_items(8, shortest=20)
    whole = tiny.model()
    stats = engine(whole).forward_backward(items, losses.nll)
    model = tiny.model()
    built = engine(model, tokens_per_microbatch=4096)
    plain_outputs = Engine._outputs

    def limited(self: Engine, batch: engine_module.MicroBatch) -> losses.Outputs:
        if len(batch.items) > 1 and sum(item.tokens for item in batch.items) > allowed:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return plain_outputs(self, batch)

    monkeypatch.setattr(Engine, "_outputs", limited)
    again = built.forward_backward(items, losses.nll)
    assert built.budget < 4096
    assert again["loss"].value == pytest.approx(stats["loss"].value, rel=1e-6)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(model)[name], gradient, rtol=1e-3, atol=1e-6)


def test_the_micro_batch_found_is_kept_with_the_checkpoint(tmp_path: Path) -> None:
    first = engine(tiny.model())
    first.budget = 123
    first.save(tmp_path)
    second = engine(tiny.model())
    second.load(tmp_path)
    assert second.budget == 123


def test_a_single_item_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Engine, batch: object) -> None:
        raise MemoryError("no")

    monkeypatch.setattr(Engine, "_outputs", never)
    with pytest.raises(RunError, match="item-0"):
        engine(tiny.model()).forward_backward(random_items(1), losses.nll)


def test_looking_halves_its_own_micro_batch_when_memory_runs_out_and_never_the_trainings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = random_items(8, shortest=20)
    expected = engine(tiny.model()).evaluate(items, losses.nll)["loss"].value
    built = engine(tiny.model(), tokens_per_microbatch=4096)
    plain_outputs = Engine._outputs

    def limited(self: Engine, batch: engine_module.MicroBatch) -> losses.Outputs:
        if len(batch.items) > 2:
            raise RuntimeError("MPS backend out of memory")
        return plain_outputs(self, batch)

    monkeypatch.setattr(Engine, "_outputs", limited)
    assert built.evaluate(items, losses.nll)["loss"].value == pytest.approx(expected, rel=1e-6)
    assert len(built.logprobs(items)) == 8
    assert built.looking_budget < 4096
    assert built.budget == 4096


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_an_infinite_loss_whose_gradient_is_finite_changes_no_weight(policy: str) -> None:
    def infinite(outputs: losses.Outputs, rows: losses.Rows) -> dict[str, losses.Term]:
        return losses.nll(outputs, rows) | {"constant": losses.Term(torch.tensor(float("inf")), "item")}

    items = random_items(3)
    model = tiny.model()
    before = weights(model)
    built = engine(model, on_nonfinite=policy)
    built.forward_backward(items, infinite)
    if policy == "stop":
        with pytest.raises(Diverged, match="item-0"):
            built.optim_step(1e-2)
    else:
        assert built.optim_step(1e-2)["skipped"].value == 1
    assert_identical(before, weights(model))


def test_an_optimizer_that_does_not_fit_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    built = engine(tiny.model())
    built.forward_backward(random_items(2), losses.nll)

    def no_room() -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(built.optimizer, "step", no_room)
    with pytest.raises(RunError, match="optimizer's moments") as caught:
        built.optim_step(1e-2)
    assert "lora" in str(caught.value)


@pytest.mark.parametrize("planted", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_changes_no_weight_and_names_its_records(planted: float) -> None:
    items = random_items(6)
    row = items[3].rows[0]
    bad = Item("the-bad-one", (row.with_(weights=np.where(row.weights > 0, planted, 0).astype(np.float32)),))
    items[3] = bad
    model = tiny.model()
    before = weights(model)
    built = engine(model, tokens_per_microbatch=40)
    built.forward_backward(items, losses.nll)
    with pytest.raises(Diverged, match="the-bad-one") as caught:
        built.optim_step(1e-2)
    assert caught.value.record_ids == ("the-bad-one",)
    assert_identical(before, weights(model))

    skipping = engine(model, on_nonfinite="skip")
    skipping.forward_backward(items, losses.nll)
    assert skipping.optim_step(1e-2)["skipped"].value == 1
    assert_identical(before, weights(model))
    skipping.forward_backward(items[:3], losses.nll)
    assert skipping.optim_step(1e-2)["skipped"].value == 0
    assert not torch.equal(before["lm_head.weight" if "lm_head.weight" in before else "model.embed_tokens.weight"],
                           weights(model)["model.embed_tokens.weight"])  # fmt: skip


def test_a_score_per_row_reads_the_last_real_token_and_learns() -> None:
    items = random_items(6, rows=2)
    built = engine(tiny.model(), score_head=ScoreHead(1))
    found = built.scores(items)
    for item, rows in zip(items, found, strict=True):
        for row, score in zip(item.rows, rows, strict=True):
            states = built.model.base_model(torch.tensor(row.tokens[None].astype(np.int64))).last_hidden_state[0, -1]
            assert built.score is not None
            np.testing.assert_allclose(score, built.score(states).detach().numpy(), rtol=1e-4, atol=1e-5)

    def first_over_second(outputs: losses.Outputs, rows: losses.Rows) -> dict[str, losses.Term]:
        assert outputs.scores_N is not None
        margin = outputs.scores_N[0::2, 0] - outputs.scores_N[1::2, 0]
        return {"loss": losses.Term(nn.functional.softplus(-margin).sum(), "item")}

    start = built.evaluate(items, first_over_second)["loss"].value
    for _ in range(10):
        built.forward_backward(items, first_over_second)
        built.optim_step(1e-2)
    assert built.evaluate(items, first_over_second)["loss"].value < start / 2


def test_features_are_the_mean_and_the_last_of_the_hidden_states() -> None:
    item = random_items(1, rows=2)[0]
    built = engine(tiny.model())
    for row, feature in zip(item.rows, built.features([item])[0], strict=True):
        states = built.model.base_model(torch.tensor(row.tokens[None].astype(np.int64))).last_hidden_state[0]
        np.testing.assert_allclose(
            feature, torch.cat([states.mean(0), states[-1]]).detach().numpy(), rtol=1e-4, atol=1e-5
        )


def test_a_checkpoint_of_other_weights_is_refused(tmp_path: Path) -> None:
    engine(tiny.model()).save(tmp_path)
    with pytest.raises(CheckpointError, match="other weights"):
        engine(tiny.model("gpt_neox")).load(tmp_path)


def test_bfloat16_arithmetic_stays_near_float32_and_keeps_float32_weights() -> None:
    items = random_items(6)
    model = tiny.model()
    exact = engine(copy.deepcopy(model)).forward_backward(items, losses.nll)["loss"].value
    built = engine(model, dtype="bfloat16")
    assert built.forward_backward(items, losses.nll)["loss"].value == pytest.approx(exact, rel=0.02)
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


def test_two_engines_in_one_process_do_not_touch_each_other() -> None:
    alone = engine(tiny.model(attention_dropout=0.2))
    run(alone, 0, 3)
    one, other = engine(tiny.model(attention_dropout=0.2)), engine(tiny.model("mistral", seed=3))
    for step in range(3):
        run(one, step, step + 1)
        run(other, step, step + 1)
    assert_identical(weights(alone.model), weights(one.model))


def test_coefficients_scale_terms_and_metrics_have_no_gradient() -> None:
    items = random_items(3)

    def scaled(outputs: losses.Outputs, rows: losses.Rows, *, coefficient: float) -> dict[str, losses.Term]:
        loss = -(outputs.logprobs_P * rows.weights_P).sum()
        return {
            "loss": losses.Term(loss, "token", coefficient=coefficient),
            "seen": losses.Term(loss * 100, "item", metric=True),
        }

    one, three = tiny.model(), tiny.model()
    engine(one).forward_backward(items, partial(scaled, coefficient=1.0))
    stats = engine(three).forward_backward(items, partial(scaled, coefficient=3.0))
    assert stats["seen"].value == pytest.approx(stats["loss"].sum * 100 / 3)
    for name, gradient in gradients(one).items():
        torch.testing.assert_close(gradients(three)[name], 3 * gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("architecture", ["gemma2", "cohere", "granite"])
def test_a_score_head_beside_scaled_logits_leaves_the_log_probabilities_as_they_are(architecture: str) -> None:
    model = scaled_logits(architecture)
    items = random_items(4)
    plain = engine(model).logprobs(items)
    for per in ("row", "token"):
        scored = engine(model, score_head=ScoreHead(2, per=per))
        for (expected,), (found,) in zip(plain, scored.logprobs(items), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)
        assert scored.scores(items)[0][0].shape == ((2,) if per == "row" else (len(items[0].rows[0]), 2))


def test_scores_are_float32_also_where_the_arithmetic_is_bfloat16() -> None:
    items = random_items(6)
    scores = np.concatenate(
        [score for (score,) in engine(tiny.model(), score_head=ScoreHead(1), dtype="bfloat16").scores(items)]
    )
    rounded = torch.from_numpy(scores).bfloat16().float().numpy()
    assert (scores != rounded).any()


def test_answers_are_drawn_in_the_arithmetic_of_the_other_verbs_unless_said() -> None:
    tokenizer = tiny.tokenizer()
    assert engine(tiny.model()).sampler(tokenizer).dtype is None
    built = engine(tiny.model(), dtype="bfloat16")
    assert built.sampler(tokenizer).dtype is torch.bfloat16
    assert built.sampler(tokenizer, dtype=None).dtype is None
