"""A trained model becomes files that plain transformers and plain PEFT read. No pickle, no silent change.

Everything is written into the folder that is given; `tomoni.engine.checkpoint` makes it appear whole or not at all.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import torch
from jinja2 import TemplateError
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from tomoni.engine.models import check_tokenizer, embedding_rows, quiet
from tomoni.engine.trained import adapter_kind
from tomoni.errors import ModelError

Dtype = Literal["float32", "float16", "bfloat16"]
SHARD: Final = "4GB"
TOKENIZER_ROOM: Final = 64 * 2**20  # the largest vocabularies in use take about half of it
_MARK: Final = "tomoni"


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, dtype: Dtype = "float32"
) -> None:
    """Write config, weights, tokenizer with its chat template, and a generation config that stops where training ended.

    `dtype` rounds the written weights only. Raises ModelError where vocabulary, embeddings and tokenizer disagree.
    """
    assert not isinstance(model, PeftModel), "an adapter is saved by save_adapter, or merged first"
    _check_vocabulary(model, tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = generation_config(model, tokenizer)
    said = model.config.dtype
    with quiet():
        model.save_pretrained(folder, state_dict=rounded(model, getattr(torch, dtype)), max_shard_size=SHARD)
    model.config.dtype = said  # transformers leaves a string there
    say_dtype(folder / "config.json", dtype)
    tokenizer.save_pretrained(folder)


def save_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write an adapter in PEFT's format: adapter_model.safetensors and adapter_config.json with its base's name and
    commit; beside them the tokenizer and the generation config it was trained with."""
    base: Any = model.get_base_model()
    check_tokenizer(base, tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(
        {name: weights[name].detach().cpu().contiguous().clone() for name in sorted(weights)},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    settings = _plain(model.peft_config[model.active_adapter].to_dict())
    settings["inference_mode"] = True
    (folder / "adapter_config.json").write_text(
        json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    generation_config(base, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def bytes_needed(model: nn.Module, *, dtype: Dtype = "float32") -> int:
    """Upper bound of what saving writes: all weights once (for an adapter: the adapter's), and room for the tokenizer."""
    weights = get_peft_model_state_dict(model, save_embedding_layers=False) if isinstance(model, PeftModel) else None
    numbers = sum(weight.numel() for weight in (weights.values() if weights is not None else model.parameters()))
    size: int = getattr(torch, dtype).itemsize
    return numbers * size + TOKENIZER_ROOM


def merge(model: PeftModel, *, in_place: bool = False) -> PreTrainedModel:
    """The adapter added into its base: a plain model with the same logits up to rounding. The given model stays as it
    is, unless `in_place` saves the memory of a copy. Raises ModelError for prompt tuning."""
    if adapter_kind(model) == "prompt_tuning":
        raise ModelError(
            "prompt tuning cannot be merged: its virtual tokens stand before the text and are no part of any weight",
            next_step="use the adapter folder as it is (chat, evaluate, PEFT), or train lora, which can be merged",
        )
    merged: Any = (model if in_place else copy.deepcopy(model)).merge_and_unload(safe_merge=True)
    return merged.requires_grad_(False).eval()  # type: ignore[no-any-return]


def weights_to_be(model: nn.Module, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Name and weight of what `merge` will make, one at a time; nothing is changed by it. `names` are those of the plain
    model. What LoRA adds is added (up to rounding); of another adapter it is the base's weight, before the merge."""
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    for name, weight in base.state_dict().items():
        own = name.replace(".base_layer.", ".")
        if own not in names:
            continue
        if own != name and own.endswith(".weight"):
            yield own, weight + _added(base.get_submodule(name.partition(".base_layer.")[0]))
        else:
            yield own, weight


def _added(layer: nn.Module) -> Any:
    """What LoRA adds to a layer's weight; 0.0 for another adapter's layer, and for what is no sum (DoRA)."""
    if not isinstance(layer, LoraLayer):
        return 0.0
    lora: Any = layer
    plain = [name for name in lora.active_adapters if name in lora.scaling and name not in lora.lora_variant]
    with torch.no_grad():
        return sum((lora.get_delta_weight(name) for name in plain), start=0.0)


def generation_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """The model's own, with every token at which training taught an answer to end among `eos_token_id`."""
    config = copy.deepcopy(model.generation_config)
    ends = config.eos_token_id
    known = ends if isinstance(ends, list) else [ends] if ends is not None else []
    config.eos_token_id = list(dict.fromkeys([*known, *end_tokens(tokenizer)])) or None
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    return config


def end_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: the one that the chat template writes after an assistant's turn, then the tokenizer's
    EOS (which ends answers where there is no template)."""
    found = [_end_of_turn(tokenizer), tokenizer.eos_token_id]
    return list(dict.fromkeys(token for token in found if isinstance(token, int)))


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except (TemplateError, ValueError, TypeError, KeyError):  # a template for other roles or content
        return None
    after = text.rpartition(_MARK)[2].lstrip()
    special = {str(token): index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    hits = [token for token in special if token and after.startswith(token)]
    return special[max(hits, key=len)] if hits else None


def _check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    check_tokenizer(model, tokenizer)
    said = model.config.get_text_config().vocab_size
    rows = embedding_rows(model)
    if said != rows:
        raise ModelError(
            f"the model has embeddings for {rows} tokens but its config says {said}",
            next_step="change the vocabulary with resize_token_embeddings, which changes both",
        )


def rounded(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state dict in `dtype`; tied weights stay one tensor, so that they are written once."""
    made: dict[tuple[int, torch.Size], Tensor] = {}
    rounded = {}
    for name, weight in model.state_dict().items():
        key = (weight.data_ptr(), weight.shape)
        if key not in made:
            made[key] = weight.detach().to("cpu", dtype) if weight.is_floating_point() else weight.detach().cpu()
        rounded[name] = made[key]
    return rounded


def say_dtype(path: Path, dtype: Dtype) -> None:
    """transformers writes the type of the model in memory; a reader allocates by what is said here."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    for part in (settings, *(inner for inner in settings.values() if isinstance(inner, dict))):
        if "dtype" in part:
            part["dtype"] = dtype
    path.write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """JSON values; a set sorted, so that the same adapter gives the same bytes."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return getattr(value, "value", value)
