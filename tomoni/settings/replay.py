"""What is replayed beside what a method learns, so that a model keeps what it was tuned on before."""

from __future__ import annotations

from pydantic import model_validator

from tomoni.config import Frozen
from tomoni.settings.common import Count, Files, Phase, Positive


class ReplaySettings(Frozen):
    """To every update's gradient comes `replay_coef` times that of the mean negative log-likelihood of
    `replay_batch_size` rows of `replay_file`: PPO-ptx of InstructGPT (Ouyang et al. 2022), for every method."""

    replay_file: Files = ()  # conversations, prompts with completions, or texts that are not to be forgotten
    replay_batch_size: Count = 8  # rows of it per update
    replay_coef: Positive = 1.0  # their weight beside the method's own loss

    @model_validator(mode="after")
    def _has_something_to_replay(self) -> ReplaySettings:
        fields, names = type(self).model_fields, ("replay_batch_size", "replay_coef")
        # by value: a run's own config.yaml names every key
        given = [name for name in names if getattr(self, name) != fields[name].default]
        if given and not self.replay_file:
            raise ValueError(f"{' and '.join(given)} is for replay_file, and none is named")
        return self


def replay_phases(cfg: ReplaySettings, updates: str = "") -> tuple[Phase, ...]:
    """`updates`: of a step, where a method makes several of them on what it has sampled."""
    if not cfg.replay_file:
        return ()
    units = f"replay_batch_size * {updates}" if updates else "replay_batch_size"
    return (Phase("replay", models=("policy",), passes=("forward", "backward"), units=units),)
