"""Which models a method holds beside the one that it trains, by the phases that its settings name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from tomoni.data.tokenize import fingerprint, load_tokenizer
from tomoni.errors import ConfigError
from tomoni.run.job import Tokenizer
from tomoni.settings.common import Phase, TrainingSettings

if TYPE_CHECKING:
    from tomoni.engine.engine import Engine
    from tomoni.engine.forward import ScoreHead
    from tomoni.rewards.answered import Rewards


def models_held(cfg: TrainingSettings) -> frozenset[str]:
    """Of "policy", "reference", "value" (a head per token), "score" (a head per row), "rewards"."""
    phases: tuple[Phase, ...] = import_module(type(cfg).__module__).phases(cfg)
    return frozenset(name for phase in phases for name in phase.models)


def score_head(cfg: TrainingSettings, held: frozenset[str]) -> ScoreHead | None:
    from tomoni.engine.forward import ScoreHead

    if "value" in held:
        return ScoreHead(1, per="token")
    if "score" in held:
        return ScoreHead(1, per="row", pool=getattr(cfg, "pool", "last"))
    return None


def reference_engine(cfg: TrainingSettings, tokenizer: Tokenizer) -> Engine | None:
    """The engine of another model that is the reference; None where it is the policy's own start or average."""
    from tomoni.engine import models
    from tomoni.engine.engine import Engine
    from tomoni.engine.hub import locate

    name = str(getattr(cfg, "reference", "start"))
    if name in ("start", "ema"):
        return None
    located = locate(name)
    models.examine(located)
    if fingerprint(load_tokenizer(located.tokenizer_folder)) != fingerprint(tokenizer):
        raise ConfigError(
            f"reference: {name} has another tokenizer than the model that is trained: their probabilities are not of "
            "the same tokens",
            next_step="take a reference with the same tokenizer, or reference: start",
        )
    model = models.load(located, attn_implementation=cfg.attn_implementation)
    for weight in model.parameters():
        weight.requires_grad_(False)
    return Engine(model, trained={}, cfg=cfg, temperature=getattr(cfg, "temperature", 1.0))


def opened_rewards(cfg: TrainingSettings) -> Rewards:
    from tomoni.rewards.opening import open_rewards

    return open_rewards(cfg)
