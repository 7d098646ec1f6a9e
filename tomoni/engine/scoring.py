"""Models that score: a body with a linear head, as loaded, saved and opened again.

A decoder is saved as Hugging Face's …ForSequenceClassification with one label, which reads the last token as we do. An
encoder is saved as its body, and the head beside it. reward.json holds what neither form has a place for: how the row
is pooled, and the gain and bias by which scores are brought to mean 0 and standard deviation 1.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_MAPPING, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from tomoni.engine import models
from tomoni.engine.engine import Engine
from tomoni.engine.forward import ScoreHead
from tomoni.engine.saving import merge
from tomoni.engine.setup import EngineSettings
from tomoni.errors import ModelError
from tomoni.hub import Located, first_line, read_json
from tomoni.rows import Item

FILE = "reward.json"
HEAD = "score.safetensors"
Pool = Literal["last", "mean", "first"]


@dataclass(frozen=True, slots=True)
class Scale:
    """score = gain * (what the head says) + bias."""

    gain: float = 1.0
    bias: float = 0.0


@dataclass(frozen=True, slots=True)
class About:
    """reward.json: `max_length` is how many tokens of a row the model was trained on at most."""

    encoder: bool
    pool: Pool
    gain: float
    bias: float
    max_length: int


def is_encoder(located: Located) -> bool:
    """Whether the model looks at a text from both sides (BERT and its relatives)."""
    settings = read_json(located.model.folder / "config.json")
    return settings.get("model_type") in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not settings.get("is_decoder")


def load_body(located: Located, *, attn_implementation: models.Attention = "sdpa") -> Any:
    """The model to put a head on: a decoder as it is, an encoder without the head it was pretrained with."""
    if not is_encoder(located):
        return models.load(located, attn_implementation=attn_implementation)
    if located.base is not None:
        raise ModelError(f"{located.name} is an adapter on an encoder", next_step="merge it first")
    return load_encoder(located.folder, attn_implementation)


def save(engine: Engine, tokenizer: PreTrainedTokenizerBase, folder: Path, *, scale: Scale, max_length: int) -> None:
    """Adapters are merged into what is written."""
    spec, head = engine.score_spec, engine.score
    if spec is None or head is None:
        raise ValueError("this engine has no score head")
    folder.mkdir(parents=True, exist_ok=True)
    model: Any = engine.model
    plain = merge(model) if isinstance(model, PeftModel) else model
    encoder = not engine.forward.causal
    bias = float(head.bias.detach()[0])
    if encoder:
        with models.quiet():
            plain.save_pretrained(folder)
        save_file({"weight": head.weight.detach().cpu().contiguous()}, folder / HEAD)
    else:
        models.check_tokenizer(plain, tokenizer)
        classifier = as_classifier(plain, head, tokenizer)
        with models.quiet():
            classifier.save_pretrained(folder)
    about = About(encoder, spec.pool, scale.gain, scale.gain * bias + scale.bias, max_length)
    (folder / FILE).write_text(json.dumps(asdict(about), indent=1) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)


def scale_of(engine: Engine, items: Sequence[Item]) -> Scale:
    """What brings the scores of these items' rows to mean 0 and standard deviation 1."""
    scores = np.array([float(score[0]) for rows in engine.scores(items) for score in rows])
    std = float(scores.std())
    gain = 1 / std if std > 1e-6 else 1.0
    return Scale(gain, -gain * float(scores.mean()))


def open_scorer(folder: Path, cfg: EngineSettings) -> tuple[Engine, About]:
    """An engine that only looks, with the head that was saved; its scores are before gain and bias."""
    about = read_about(folder)
    located = Located(str(folder), folder, None, {})
    if about.encoder:
        model, weight = load_encoder(folder, "sdpa"), load_file(folder / HEAD)["weight"]
    else:
        model, weight = load_decoder(folder)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    engine = Engine(model, trained={}, cfg=cfg, score_head=ScoreHead(1, "row", about.pool))
    assert engine.score is not None
    if not torch.isfinite(weight).all():
        raise ModelError(f"the head in {located.name} has weights that are not numbers", next_step=models.DAMAGED)
    if engine.score.weight.shape != weight.shape:
        raise ModelError(
            f"the head in {located.name} is for {weight.shape[1]} numbers, and the model has {engine.score.weight.shape[1]}",
            next_step=models.DAMAGED,
        )
    with torch.no_grad():
        engine.score.weight.copy_(weight)
        engine.score.bias.zero_()  # it stands in reward.json
    return engine, about


def read_about(folder: Path) -> About:
    path = folder / FILE
    if not path.is_file():
        raise ModelError(
            f"{folder} is no reward model: it has no {FILE}",
            next_step="train one: tomoni reward --help",
        )
    try:
        found = About(**read_json(path))
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path} cannot be read: {error}", next_step=models.DAMAGED) from error
    numbers = [isinstance(one, int | float) and math.isfinite(one) for one in (found.gain, found.bias)]
    if not all(numbers) or not found.gain or found.pool not in ("last", "mean", "first"):
        raise ModelError(f"{path} holds values that cannot be: {found}", next_step=models.DAMAGED)
    return found


def as_classifier(
    model: Any, head: nn.Linear, tokenizer: PreTrainedTokenizerBase, names: Sequence[str] | None = None
) -> Any:
    """A decoder as transformers' …ForSequenceClassification, with the head in it; `names` of the classes."""
    config = copy.deepcopy(model.config)
    config.num_labels = head.out_features
    if names is not None:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
    config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    kind: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if kind is None:
        raise ModelError(
            f"transformers has no …ForSequenceClassification for {config.model_type}, so it cannot be saved as a reward model",
            next_step="take a Llama, Mistral, Qwen or Gemma model",
        )
    weights = {name: weight for name, weight in model.state_dict().items() if not name.startswith("lm_head.")}
    config.architectures = [kind.__name__]
    with models.quiet():
        made = kind(config)
        missing, unexpected = made.load_state_dict(weights, strict=False)
    if list(missing) != ["score.weight"] or unexpected:
        raise ModelError(
            f"{kind.__name__} is not {type(model).__name__} with another head (missing {missing}, unexpected {unexpected})",
            next_step="take a Llama, Mistral, Qwen or Gemma model",
        )
    with torch.no_grad():
        made.score.weight.copy_(head.weight)
    return made.eval()


def load_decoder(folder: Path) -> tuple[Any, torch.Tensor]:
    """The body, with the embeddings as its unused head, and the score head's weight [1, D]."""
    settings = read_json(folder / "config.json")
    models.refuse(settings, folder)
    tensors = tensors_of(folder)
    weight = tensors.pop("score.weight", None)
    if weight is None:
        raise ModelError(f"{folder} has no score.weight", next_step=models.DAMAGED)
    language_model = {**settings, "tie_word_embeddings": True, "architectures": []}
    model = models.fill(models.config_of(language_model, folder), tensors, folder).eval()
    models.check_finite(model, folder)
    return model, weight.float()


def load_encoder(folder: Path, attn_implementation: models.Attention) -> Any:
    settings = read_json(folder / "config.json")
    models.refuse(settings, folder)
    config = models.encoder_config(settings, folder)
    kind: Any = MODEL_MAPPING[type(config)]
    config._attn_implementation = attn_implementation if kind._supports_sdpa else "eager"
    model, info = filled(kind, config, folder)
    if isinstance(getattr(model, "pooler", None), nn.Module):
        model.pooler = None  # we pool ourselves; one that the weights lack would be drawn at random
    missing = [name for name in info["missing_keys"] if "pooler" not in name]
    if missing or info["mismatched_keys"]:
        raise ModelError(
            f"the weights in {folder} do not fit its config.json: missing {missing[:4]}, "
            f"of another shape {[name for name, *_ in info['mismatched_keys']][:4]}",
            next_step=models.DAMAGED,
        )
    models.check_finite(model, folder)
    return model.eval()


def filled(kind: Any, config: Any, folder: Path) -> tuple[Any, Any]:
    """A model of transformers' class `kind` with the folder's weights, and what it says of missing and unused ones."""
    tensors = tensors_of(folder)
    try:
        with models.quiet():
            model, info = kind.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as problem:  # an architecture's constructor may raise anything
        raise ModelError(
            f"{folder} cannot be built from its config.json: {first_line(problem)}", next_step=models.DAMAGED
        ) from problem
    return model, info


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in models.weight_files(folder) for name, tensor in models.read_tensors(path).items()}
