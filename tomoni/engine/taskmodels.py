"""Models with a head for a task, as saved and opened again.

Saved as transformers' class for the task, which plain transformers loads: …ForSequenceClassification (head on the first
token), …ForTokenClassification, …ForQuestionAnswering; a decoder as …ForSequenceClassification (head on the last token).
A head on the mean of all tokens has no such class: it is saved as sentence-transformers has it (body, pooling, a dense
layer whose outputs are the scores). Beside it stand task.json, what neither form has a place for, and the head.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from tomoni.engine import models, scoring
from tomoni.engine.engine import Engine
from tomoni.engine.forward import ScoreHead
from tomoni.engine.handover import Use, handed_over
from tomoni.engine.saving import merge
from tomoni.engine.setup import EngineSettings
from tomoni.errors import ModelError
from tomoni.hub import Located

FILE = "task.json"
HEAD = "score.safetensors"
USES: dict[str, Use] = {"classify": "text", "regress": "text", "tag": "token", "span": "answer"}


@dataclass(frozen=True, slots=True)
class Task:
    """task.json. `names`: classes, or types of spans. `temperature` divides the scores of classes before they become
    probabilities; `mean` and `spread` make numbers of scores."""

    method: str
    encoder: bool
    pool: Literal["first", "mean", "last"]
    max_length: int
    names: tuple[str, ...] = ()
    several: bool = False
    pair: bool = False
    stride: int = 0
    max_answer_length: int = 30
    answerable: bool = True
    temperature: float = 1.0
    mean: float = 0.0
    spread: float = 1.0

    @property
    def outputs(self) -> int:
        return {"classify": len(self.names), "tag": 2 * len(self.names) + 1, "span": 2}.get(self.method, 1)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the outputs are called."""
        if self.method == "tag":
            return ("O", *(f"{mark}-{name}" for name in self.names for mark in "BI"))
        return self.names if self.method == "classify" else ()


def save(engine: Engine, tokenizer: PreTrainedTokenizerBase, folder: Path, task: Task) -> None:
    """Adapters are merged into what is written."""
    head = engine.score
    assert head is not None
    folder.mkdir(parents=True, exist_ok=True)
    model: Any = engine.model
    plain = merge(model) if isinstance(model, PeftModel) else model
    head = _in_their_units(head, task)
    if not task.encoder:
        made = scoring.as_classifier(plain, head, tokenizer, task.labels or None)
        _say_problem(made.config, task)
    else:
        made = _for_encoder(plain, head, task, folder)
    with models.quiet():
        made.save_pretrained(folder)
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in engine.score.named_parameters()}  # type: ignore[union-attr]
    save_file(tensors, folder / HEAD)
    (folder / FILE).write_text(json.dumps(asdict(task), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if task.encoder and engine.forward.takes_segments:
        # a tokenizer read from tokenizer.json alone would not give them to whoever loads the result
        names = ["input_ids", "token_type_ids", "attention_mask"]
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
    tokenizer.save_pretrained(folder)


def _for_encoder(plain: Any, head: nn.Linear, task: Task, folder: Path) -> Any:
    if task.pool == "first":
        made = handed_over(plain.cpu(), head.cpu(), USES[task.method], names=task.labels, problem=_problem(task))
        if made is not None:
            return made
        if task.method in ("tag", "span"):
            raise ModelError(
                f"transformers has no class for {task.method} on {plain.config.model_type} that gives the same scores",
                next_step="take a BERT, RoBERTa, DistilBERT, DeBERTa or ModernBERT model",
            )
    _sentence_form(folder, head, task)
    return plain


def _sentence_form(folder: Path, head: nn.Linear, task: Task) -> None:
    """modules.json and the two modules behind the body, as sentence-transformers reads them."""
    width, size = head.in_features, head.out_features
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    _write(folder / "modules.json", modules)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": task.max_length, "do_lower_case": False})
    mode = "cls" if task.pool == "first" else "mean"
    _write(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": width,
            "pooling_mode_cls_token": mode == "cls",
            "pooling_mode_mean_tokens": mode == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    dense = {"in_features": width, "out_features": size, "bias": True}
    dense["activation_function"] = "torch.nn.modules.linear.Identity"  # type: ignore[assignment]
    _write(folder / "2_Dense" / "config.json", dense)
    bias = torch.zeros(size) if head.bias is None else head.bias
    tensors = {"linear.weight": head.weight, "linear.bias": bias}
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        folder / "2_Dense" / "model.safetensors",
    )


def _write(path: Path, body: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def _in_their_units(head: nn.Linear, task: Task) -> nn.Linear:
    """A copy whose outputs are in the labels' own units."""
    made = nn.Linear(head.in_features, head.out_features, bias=head.bias is not None)
    with torch.no_grad():
        made.weight.copy_(head.weight * task.spread)
        if head.bias is not None:
            made.bias.copy_(head.bias * task.spread + task.mean)
    return made


def _problem(task: Task) -> str | None:
    if task.method == "regress":
        return "regression"
    if task.method != "classify":
        return None
    return "multi_label_classification" if task.several else "single_label_classification"


def _say_problem(config: Any, task: Task) -> None:
    config.problem_type = _problem(task)


# -- opening -----------------------------------------------------------------------------------------------------------


def is_task(folder: Path) -> bool:
    return (folder / FILE).is_file()


def read_task(folder: Path) -> Task:
    path = folder / FILE
    if not path.is_file():
        raise ModelError(
            f"{folder} has no {FILE}: it was not trained for a task",
            next_step="train one: tomoni classify --help, or regress, tag, span",
        )
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        found = Task(**{**body, "names": tuple(body["names"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{path} cannot be read: {error}", next_step=models.DAMAGED) from error
    if found.method not in USES or found.pool not in ("first", "mean", "last") or found.temperature <= 0:
        raise ModelError(f"{path} holds values that cannot be: {found.method}, {found.pool}", next_step=models.DAMAGED)
    return found


def open_task(folder: Path, cfg: EngineSettings) -> tuple[Engine, Task]:
    """An engine that only looks, with the head as it was trained."""
    task = read_task(folder)
    if task.encoder:
        model: Any = scoring.load_encoder(folder, "sdpa")
    else:
        model, _ = scoring.load_decoder(folder)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    engine = Engine(model, trained={}, cfg=cfg, score_head=spec_of(task))
    tensors = load_file(folder / HEAD)
    assert engine.score is not None
    if {name: tensor.shape for name, tensor in tensors.items()} != {
        name: weight.shape for name, weight in engine.score.named_parameters()
    }:
        raise ModelError(f"the head in {folder} does not fit its model", next_step=models.DAMAGED)
    with torch.no_grad():
        for name, weight in engine.score.named_parameters():
            weight.copy_(tensors[name])
    return engine, task


def spec_of(task: Task, *, times: float = 1.0) -> ScoreHead:
    per: Literal["row", "token"] = "row" if task.method in ("classify", "regress") else "token"
    return ScoreHead(task.outputs, per, task.pool, times=times, bias=task.encoder)


def own_pooling(located: Located) -> Literal["first", "mean"] | None:
    """What a sentence encoder says of itself."""
    path = located.folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return None
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    if body.get("pooling_mode_mean_tokens") or body.get("pooling_mode") == "mean":
        return "mean"
    return "first" if body.get("pooling_mode_cls_token") else None
