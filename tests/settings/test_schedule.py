"""Schedules against transformers' own, step by step."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from transformers import get_scheduler

from tests.engine.items import settings
from tomoni.settings import pretrain, sft
from tomoni.settings.schedule import SCHEDULES, factor

EXTRAS = {"warmup_stable_decay": {"num_decay_steps": 6}, "cosine_with_min_lr": {"min_lr_rate": 0.1}}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 5])
def test_every_step_has_the_rate_that_transformers_gives(name: str, warmup: int) -> None:
    steps, peak = 30, 1.0
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    reference = get_scheduler(name, optimizer, warmup, steps, scheduler_specific_kwargs=EXTRAS.get(name))
    for step in range(steps):
        expected = optimizer.param_groups[0]["lr"]
        floor = 0.1 if name == "cosine_with_min_lr" else 0.0
        assert factor(name, step, steps=steps, warmup=warmup, min_lr_ratio=floor, decay=6) == pytest.approx(
            expected, abs=1e-6
        )
        optimizer.step()
        reference.step()


def test_the_steps_of_a_run_follow_from_its_items_and_epochs() -> None:
    assert settings(num_train_epochs=2.5, batch_size=4).with_steps(10).steps == 7  # 25 items in steps of 4
    assert settings(max_steps=5).with_steps(10).steps == 5


def test_warmup_is_a_share_of_the_run_unless_given_in_steps() -> None:
    cfg = settings(max_steps=100, warmup_ratio=0.1, learning_rate=1.0)
    assert [cfg.lr_at(step) for step in (0, 5, 10)] == pytest.approx([0, 0.5, 1])
    assert settings(max_steps=100, warmup_steps=4, learning_rate=1.0).lr_at(2) == pytest.approx(0.5)


@pytest.mark.parametrize("settings", [{"adam_beta1": 1.0}, {"adam_beta2": 1.0}, {"weight_decay": float("inf")}])
def test_what_adamw_cannot_take_is_refused_with_the_config(settings: dict[str, float]) -> None:
    for config in (sft.Config, pretrain.Config):
        with pytest.raises(ValidationError, match=next(iter(settings))):
            config(model_name_or_path="m", train_file="t", output_dir="o", **settings)  # type: ignore[arg-type]
