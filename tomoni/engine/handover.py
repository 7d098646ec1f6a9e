"""A body and a head become one of transformers' classes for tasks, which gives the same scores.

These classes have further layers between body and head (BERT's pooler, RoBERTa's dense layer, …), and ours has none. They
are set so that they pass on what they get: through tanh as 1/1000 of it, where tanh is a straight line, through gelu and
relu lifted above 0, through a norm as the norm before it left it. What was made is tried on a few tokens, and nothing
is handed over whose scores differ.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
)

from tomoni.engine import models

Use = Literal["text", "token", "answer"]
CLASSES: dict[Use, Any] = {
    "text": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    "token": MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    "answer": MODEL_FOR_QUESTION_ANSWERING_MAPPING,
}
SMALL = 1e-3  # through tanh: the cube of what is off a straight line is below what float32 holds
LIFT = 32.0  # above 0, for gelu and relu; states behind a norm are smaller


@dataclass(frozen=True, slots=True)
class Neck:
    """The layers between body and head: a dense one, what it is bent by, and a norm."""

    dense: nn.Linear
    bend: str
    norm: nn.LayerNorm | None = None


def handed_over(body: Any, head: nn.Linear, use: Use, *, names: Sequence[str] = (), problem: str | None = None) -> Any:
    """The model of transformers' for this use; None where it has none that gives the same scores."""
    config = copy.deepcopy(body.config)
    kind: Any = CLASSES[use].get(type(config), None)
    if kind is None:
        return None
    config.num_labels = head.out_features
    if names:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
    if problem is not None:
        config.problem_type = problem
    if hasattr(config, "classifier_bias"):  # ModernBERT
        config.classifier_bias = True
        config.classifier_pooling = "cls"
    config.architectures = [kind.__name__]
    with models.quiet():
        made: Any = kind(config)
    made.eval()
    target = made.base_model
    target.load_state_dict({name: weight for name, weight in body.state_dict().items()}, strict=False)
    last = _last_linear(made, head.out_features)
    if last is None:
        return None
    with torch.no_grad():
        _connect(made, body, last, head)
        return made if _agrees(made, body, head, use) else None


def _last_linear(made: Any, size: int) -> nn.Linear | None:
    inside = {id(module) for module in made.base_model.modules()}
    found = [
        module
        for module in made.modules()
        if isinstance(module, nn.Linear) and module.out_features == size and id(module) not in inside
    ]
    return found[-1] if found else None


def _connect(made: Any, body: Any, last: nn.Linear, head: nn.Linear) -> None:
    neck = _neck(made, last)
    weight, bias = head.weight.detach().float(), _bias(head)
    if neck is not None and neck.norm is not None:
        scale = _final_norm(body)
        neck.dense.weight.copy_(torch.diag(1 / scale))
        neck.norm.weight.copy_(scale)
        if neck.norm.bias is not None:
            neck.norm.bias.zero_()
        neck.dense.bias.fill_(LIFT)
    elif neck is not None and neck.bend == "tanh":
        neck.dense.weight.copy_(SMALL * torch.eye(weight.shape[1]))
        neck.dense.bias.zero_()
        weight = weight / SMALL
    elif neck is not None:
        neck.dense.weight.copy_(torch.eye(weight.shape[1]))
        neck.dense.bias.fill_(LIFT)
        bias = bias - LIFT * weight.sum(1)
    last.weight.copy_(weight)
    if last.bias is not None:
        last.bias.copy_(bias)


def _bias(head: nn.Linear) -> Tensor:
    return torch.zeros(head.out_features) if head.bias is None else head.bias.detach().float()


def _neck(made: Any, last: nn.Linear) -> Neck | None:
    """By the names that transformers' architectures give these layers."""
    config = made.config
    classifier: Any = getattr(made, "classifier", None)
    base = made.base_model
    if hasattr(classifier, "dense") and hasattr(classifier, "out_proj"):  # RoBERTa and kin; ELECTRA bends by gelu
        return Neck(classifier.dense, "gelu" if config.model_type == "electra" else "tanh")
    if hasattr(made, "pre_classifier"):  # DistilBERT
        return Neck(made.pre_classifier, "relu")
    if hasattr(made, "head") and hasattr(made.head, "norm"):  # ModernBERT
        return Neck(made.head.dense, str(config.classifier_activation), made.head.norm)
    if hasattr(made, "pooler"):  # DeBERTa
        return Neck(made.pooler.dense, str(config.pooler_hidden_act))
    pooler = getattr(base, "pooler", None)  # BERT, ALBERT
    if pooler is not None and made.__class__.__name__.endswith("ForSequenceClassification"):
        return Neck(getattr(pooler, "dense", pooler), "tanh")
    return None


def _final_norm(body: Any) -> Tensor:
    """The weight of the norm that the body ends with."""
    norm: Any = getattr(body, "final_norm", None)
    return torch.ones(body.config.hidden_size) if norm is None else norm.weight.detach().float()


def _agrees(made: Any, body: Any, head: nn.Linear, use: Use) -> bool:
    # not evenly spaced, and none of the first ids: those pad, part and mask
    vocabulary = body.config.vocab_size
    tokens = (
        (torch.arange(2 * 9) ** 2 * 7 + 11).remainder(max(1, vocabulary - 10)).add(min(9, vocabulary - 1)).view(2, 9)
    )
    body = body.float().eval()
    states = body(input_ids=tokens).last_hidden_state
    expected = head(states[:, 0] if use == "text" else states)
    out = made(input_ids=tokens)
    found = torch.stack([out.start_logits, out.end_logits], -1) if use == "answer" else out.logits
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std().clamp(min=1e-3)))
