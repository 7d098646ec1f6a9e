"""How a policy that learns from a reward is watched, and when it has learnt enough of it."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from tomoni.settings.common import DataSettings, Names, Positive, Running


class WatchSettings(DataSettings, Running):
    """`eval_reward_funcs` score held-out completions in place of `reward_funcs`: something that says what is really
    wanted, and that the policy is not trained on. Their weights are 1 each."""

    eval_reward_funcs: Names = ()  # what scores held-out completions; none: reward_funcs
    on_overoptimization: Literal["warn", "stop"] = "warn"  # stop: the run ends with the best evaluation's weights
    max_kl: Positive | None = None  # nats a completion from the start; an evaluation beyond it ends the run

    @model_validator(mode="after")
    def _can_see_what_stops_it(self) -> WatchSettings:
        wanted = [
            name
            for name, given in (
                ("on_overoptimization: stop", self.on_overoptimization == "stop"),
                ("max_kl", self.max_kl is not None),
            )
            if given
        ]
        missing = [] if self.validation_file or self.validation_share else ["validation_file or validation_share"]
        missing += [] if self.eval_steps else ["eval_steps"]
        if wanted and missing:
            raise ValueError(
                f"{' and '.join(wanted)} looks at held-out prompts during the run: set {' and '.join(missing)}"
            )
        return self
