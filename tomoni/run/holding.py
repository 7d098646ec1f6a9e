"""Which models a method holds beside the one that it trains, by the phases that its settings name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tomoni.data.textpairs import PairRenderer
from tomoni.data.tokenize import fingerprint, load_tokenizer
from tomoni.errors import ConfigError
from tomoni.hub import result_of
from tomoni.run.job import Tokenizer
from tomoni.settings.common import Phase, TrainingSettings

if TYPE_CHECKING:
    from pathlib import Path

    from tomoni.data.stream import Items
    from tomoni.engine.engine import Engine
    from tomoni.engine.forward import ScoreHead
    from tomoni.engine.trained import Trained
    from tomoni.rewards.answered import Rewards

MEASURED = 512  # items whose scores decide a reward model's gain and bias


def models_held(cfg: TrainingSettings) -> frozenset[str]:
    """Of "policy", "reference", "value" (a head per token), "score" (a head per row), "rewards"."""
    phases: tuple[Phase, ...] = import_module(type(cfg).__module__).phases(cfg)
    return frozenset(name for phase in phases for name in phase.models)


def score_head(cfg: TrainingSettings, held: frozenset[str], *, encoder: bool = False) -> ScoreHead | None:
    from tomoni.engine.forward import ScoreHead

    if "value" in held:
        return ScoreHead(1, per="token", times=getattr(cfg, "value_lr_ratio", 1.0))
    if "score" in held:
        return ScoreHead(1, per="row", pool=getattr(cfg, "pool", None) or ("mean" if encoder else "last"))
    return None


def chosen(model: Any, cfg: TrainingSettings, held: frozenset[str]) -> Trained:
    """What of the model is trained. `train: head` of a model that scores is its new head alone."""
    from tomoni.engine.trained import Trained, choose

    if cfg.train != "head" or "score" not in held:
        return choose(model, cfg, seed=cfg.seed)
    for weight in model.parameters():
        weight.requires_grad_(False)
    return Trained(model, {}, adapter=False)


def pair_renderer(cfg: TrainingSettings, tokenizer: Tokenizer) -> PairRenderer:
    """For an encoder: prompt and answer are two segments, not a conversation."""
    return PairRenderer(tokenizer, max_length=cfg.max_length, on_long_rows=cfg.on_long_rows)


def save_scorer(engine: Engine, cfg: TrainingSettings, looked_at: Items, tokenizer: Tokenizer, folder: Path) -> None:
    """With gain and bias by which the scores of what was looked at have mean 0 and standard deviation 1."""
    from tomoni.engine import scoring

    some = [looked_at[index] for index in range(min(len(looked_at), MEASURED))]
    scoring.save(engine, tokenizer, folder, scale=scoring.scale_of(engine, some), max_length=cfg.max_length)


def reference_engine(cfg: TrainingSettings, tokenizer: Tokenizer) -> Engine | None:
    """The engine of another model that is the reference; None where it is the policy's own start or average."""
    from tomoni.engine import models
    from tomoni.engine.engine import Engine
    from tomoni.hub import locate

    name = str(getattr(cfg, "reference", "start"))
    if name in ("start", "ema"):
        return None
    located = locate(result_of(name))
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


def opened_rewards(cfg: TrainingSettings, tokenizer: Tokenizer) -> tuple[Rewards, Rewards]:
    """What the policy is trained on, and what scores it when it is looked at."""
    from tomoni.rewards.opening import open_eval_rewards, open_rewards

    trained = open_rewards(cfg, tokenizer)
    return trained, open_eval_rewards(trained, cfg, tokenizer)
