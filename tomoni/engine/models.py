"""A model folder becomes a transformers model: float32 weights, eval mode, nothing else run or fetched.

transformers is given a config object and tensors, never the folder: so no file of it is opened that is not opened
here, and of its config only the keys that the architecture declares arrive. What a folder may try instead is listed in
`refuse`, and each has a test with a planted file that must stay unopened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, cast

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils.logging import (
    disable_progress_bar,
    enable_progress_bar,
    get_verbosity,
    is_progress_bar_enabled,
    set_verbosity,
    set_verbosity_error,
)

from tomoni.engine import kernels
from tomoni.errors import ModelError, did_you_mean
from tomoni.hub import PICKLED, TO_CONVERT, Located, first_line, read_json

log = logging.getLogger(__name__)

Attention = Literal["sdpa", "eager"]

# Keys that a config class declares or reads under older names, and that are harmless. Everything else is left out;
# keys that begin with "_" or name an implementation, a kernel, a file or another repository always are.
OLDER_KEYS: Final = frozenset(
    {"rope_theta", "rope_scaling", "rope_local_base_freq", "rotary_pct", "rotary_emb_base", "partial_rotary_factor"}
    | {"layer_types", "sliding_window_pattern", "torch_dtype", "tie_word_embeddings", "num_labels"}
    | {"eos_token_id", "bos_token_id", "pad_token_id"}
)
FORBIDDEN_KEYS: Final = re.compile(
    r"_.*|auto_map|custom_.*|trust_remote_code|transformers_weights|name_or_path|quantization_config|compression_config|"
    r".*implementation.*|.*kernel_config|fusion_config|distributed_config|backbone|use_timm_backbone|adapter_.*"
)
GENERATION_KEYS: Final = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "max_length",
    "max_new_tokens",
)
# buffers that older transformers wrote beside the weights and newer ones compute
COMPUTED: Final = re.compile(r".*(rotary_emb\.inv_freq|\.attn\.(masked_)?bias|attention\.(masked_)?bias)")
DAMAGED: Final = "fetch or copy the model again; a model that was being saved when the power went may be half-written"


def load(located: Located, *, attn_implementation: Attention = "sdpa") -> PreTrainedModel:
    """The causal language model in `located`, float32, in eval mode; an adapter stands on its base (a `PeftModel`).

    Raises ModelError for whatever is missing, damaged, refused or does not fit together.
    """
    kernels.build_ahead()  # a second, once a machine, while the weights are read
    model = _load_whole(located.model, attn_implementation)
    if located.base is None:
        return model
    from tomoni.engine.trained import load_adapter

    return cast(PreTrainedModel, load_adapter(model, located))


def examine(located: Located) -> None:
    """Look at all of a model folder that can be judged without reading its weights, before long work begins on its
    behalf. Raises ModelError as `load` would."""
    _examined(located.model.folder)


def _examined(folder: Path) -> tuple[Any, list[Path]]:
    """The config and the files of the weights."""
    if not folder.is_dir():
        raise ModelError(
            f"no model folder {folder}", next_step="check the path; it is read from where the command runs"
        )
    settings = read_json(folder / "config.json")
    refuse(settings, folder)
    files = weight_files(folder)
    return config_of(settings, folder), files


def _load_whole(located: Located, attn_implementation: Attention) -> PreTrainedModel:
    folder = located.folder
    config, files = _examined(folder)
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    # a few architectures (Gemma 2, BLOOM, GPT-J) have plain attention only
    config._attn_implementation = attn_implementation if model_class._supports_sdpa else "eager"
    model = fill(config, dict(_tensors(files)), folder)
    check_finite(model, folder)
    _check_vocabulary(model, _highest_token(folder), folder)
    model.generation_config = read_generation(folder, config)
    model.config._name_or_path = model.name_or_path = located.name.split("@")[0] if located.revision else located.name
    model.config._commit_hash = located.revision  # transformers' own place for it; saved with an adapter
    model.eval()  # type: ignore[no-untyped-call]
    return model


# -- the config ----------------------------------------------------------------------------------------------------


def refuse(settings: Mapping[str, Any], folder: Path) -> None:
    kind = settings.get("model_type")
    known = isinstance(kind, str) and kind in CONFIG_MAPPING
    if "auto_map" in settings:
        raise ModelError(
            f"{folder} asks for Python code of its own (auto_map in config.json); such code never runs",
            next_step=f"transformers has {kind!r} itself: in a copy of the folder remove auto_map from config.json"
            if known
            else "take a model whose architecture transformers has itself",
        )
    if not known:
        raise ModelError(
            f"unknown architecture {kind!r} in {folder / 'config.json'}{did_you_mean(str(kind), list(CONFIG_MAPPING))}",
            next_step=f"transformers {transformers.__version__} does not have it; correct model_type, or update it",
        )
    if "quantization_config" in settings or "compression_config" in settings:
        raise ModelError(
            f"{folder} is quantized; its rounded weights cannot be trained or merged exactly",
            next_step="take the model it was made from; tomoni quantizes at export",
        )
    if "adapter_config.json" in {path.name for path in folder.iterdir()}:
        raise ModelError(f"{folder} is an adapter", next_step="locate it with hub.locate, which finds its base too")


def config_of(settings: dict[str, Any], folder: Path) -> Any:
    kind = settings["model_type"]
    config_class = CONFIG_MAPPING[kind]
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(config_class, None)
    architectures = settings.get("architectures") or []
    encoder = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not settings.get("is_decoder")
    if model_class is None or encoder or settings.get("is_encoder_decoder"):
        raise ModelError(
            f"{folder} is {_a(architectures or kind)}, which does not continue text from left to right",
            next_step="this method needs a decoder (…ForCausalLM), such as Llama, Qwen, Gemma or Mistral",
        )
    if architectures and model_class.__name__ not in architectures:
        scores = "reward.json" in {path.name for path in folder.iterdir()}
        use = "it scores answers: name it in reward_funcs of grpo, rloo, ppo or bestofn; to talk, "
        raise ModelError(
            f"{folder} holds {_a(architectures)}, not a language model ({model_class.__name__})",
            next_step=f"{use if scores else ''}take the language model it was made from",
        )
    return _built(config_class, settings, folder)


def encoder_config(settings: dict[str, Any], folder: Path) -> Any:
    return _built(CONFIG_MAPPING[settings["model_type"]], settings, folder)


def _built(config_class: Any, settings: dict[str, Any], folder: Path) -> Any:
    try:
        return config_class.from_dict(_allowed(settings, config_class))
    except Exception as problem:  # the strict config classes raise many kinds
        raise ModelError(
            f"{folder / 'config.json'} does not fit {settings['model_type']}: {first_line(problem)}",
            next_step="compare it with the model's page",
        ) from problem


def _a(architectures: Any) -> str:
    return architectures if isinstance(architectures, str) else ", ".join(map(str, architectures))


def _allowed(settings: Mapping[str, Any], config_class: Any) -> dict[str, Any]:
    """The keys that the architecture declares, also in its sub-configs; the rest is named in the log and left out."""
    declared = {field.name for field in dataclasses.fields(config_class)} | OLDER_KEYS | {"model_type"}
    renamed = getattr(config_class, "attribute_map", {})
    declared |= set(renamed) | set(renamed.values())
    kept = {key: value for key, value in settings.items() if key in declared and not FORBIDDEN_KEYS.fullmatch(key)}
    if left_out := sorted(set(settings) - set(kept)):
        log.info("config.json: left out %s", ", ".join(left_out))
    for name, sub_class in getattr(config_class, "sub_configs", {}).items():
        if isinstance(kept.get(name), dict):
            kept[name] = (
                _allowed(kept[name], sub_class) if dataclasses.is_dataclass(sub_class) else _harmless(kept[name])
            )
    return kept


def _harmless(value: Any) -> Any:
    """A nested object without forbidden keys at any depth."""
    if isinstance(value, dict):
        return {key: _harmless(inner) for key, inner in value.items() if not FORBIDDEN_KEYS.fullmatch(key)}
    return [_harmless(inner) for inner in value] if isinstance(value, list) else value


def read_generation(folder: Path, config: Any) -> GenerationConfig:
    """Its generation_config.json, or what config.json says, without keys that name code or other models."""
    path = folder / "generation_config.json"
    given = read_json(path) if path.is_file() else {key: getattr(config, key, None) for key in GENERATION_KEYS[:3]}
    kept = {key: given[key] for key in GENERATION_KEYS if given.get(key) is not None}
    if not kept.get("do_sample"):
        # transformers refuses to save a config that says how to sample but not to sample
        kept = {key: value for key, value in kept.items() if key not in ("temperature", "top_k", "top_p", "min_p")}
    try:
        return GenerationConfig(**kept)  # type: ignore[no-untyped-call]
    except (ValueError, TypeError) as problem:
        raise ModelError(f"{path}: {first_line(problem)}", next_step="correct it, or delete it") from problem


# -- the weights ---------------------------------------------------------------------------------------------------


def weight_files(folder: Path) -> list[Path]:
    """model.safetensors, or the shards that its index names; each a plain name in this very folder."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise _no_weights(folder)
    weight_map = read_json(index).get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(name, str) for name in weight_map.values())
    ):
        raise ModelError(f"{index} names no shards (weight_map)", next_step=DAMAGED)
    names = sorted(set(weight_map.values()))
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*\.safetensors", name):
            raise ModelError(
                f"{index} names {name!r} as a shard, which is not a safetensors file in this folder",
                next_step="a shard lies beside its index; take the model from a source you trust",
            )
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ModelError(
            f"{folder} lacks {len(missing)} of {len(names)} weight files: {', '.join(missing[:3])}", next_step=DAMAGED
        )
    return [folder / name for name in names]


def _no_weights(folder: Path) -> ModelError:
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        return ModelError(
            f"{folder} has its weights only as {', '.join(pickled[:3])}; pickled files can run code and are not opened",
            next_step=TO_CONVERT,
        )
    return ModelError(f"{folder} has no weights (model.safetensors)", next_step="fetch the model again; " + TO_CONVERT)


def _tensors(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    for path in files:
        yield from read_tensors(path).items()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, still mapped from disk; raises ModelError where it is cut short or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError, ValueError) as problem:
        raise ModelError(f"{path} is damaged or not safetensors: {problem}", next_step=DAMAGED) from problem


def fill(config: Any, tensors: dict[str, Tensor], folder: Path) -> PreTrainedModel:
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if rounded := sorted(
        name for name, tensor in tensors.items() if not tensor.dtype.is_floating_point and not COMPUTED.fullmatch(name)
    ):
        raise ModelError(
            f"{folder} has integer weights ({_some(rounded)}): it is quantized, and cannot be trained exactly",
            next_step="take the model it was made from; tomoni quantizes at export",
        )
    try:
        with quiet():
            model, info = model_class.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are all named below
            )
    except Exception as problem:  # an architecture's constructor may raise anything on numbers that do not fit together
        raise ModelError(
            f"{folder} cannot be built from its config.json: {first_line(problem)}",
            next_step="compare config.json with the model's page",
        ) from problem
    _check_complete(info, folder)
    return model  # type: ignore[no-any-return]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and load reports of transformers': what they say is said by our own errors."""
    bars, level = is_progress_bar_enabled(), get_verbosity()
    disable_progress_bar()  # type: ignore[no-untyped-call]
    set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        set_verbosity(level)
        if bars:
            enable_progress_bar()  # type: ignore[no-untyped-call]


def _check_complete(info: Mapping[str, Any], folder: Path) -> None:
    missing = sorted(info["missing_keys"])
    unexpected = sorted(name for name in info["unexpected_keys"] if not COMPUTED.fullmatch(name))
    mismatched = sorted(
        f"{name} {list(found)} instead of {list(wanted)}" for name, found, wanted in info["mismatched_keys"]
    )
    problems = [
        f"{len(names)} {what}: {_some(names)}"
        for names, what in (
            (mismatched, "weights of another shape than config.json says"),
            (missing, "weights missing"),
            (unexpected, "weights that its architecture does not have"),
        )
        if names
    ]
    if problems or info["error_msgs"]:
        text = "; ".join([*problems, *map(str, info["error_msgs"])])
        raise ModelError(
            f"the weights in {folder} do not fit its config.json: {text}",
            next_step="check that both come from one model; " + DAMAGED,
        )


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def check_finite(model: PreTrainedModel, folder: Path) -> None:
    # a sum is one pass without a temporary; only a suspicious one is looked at value by value
    odd = [
        name
        for name, weight in model.named_parameters()
        if not torch.isfinite(weight.detach().sum()) and not torch.isfinite(weight.detach()).all()
    ]
    if odd:
        raise ModelError(
            f"{folder} has weights that are not numbers (NaN or infinite) in {len(odd)} tensors: {_some(odd)}",
            next_step="its training diverged or its file is damaged; take an earlier version",
        )


# -- the vocabulary ------------------------------------------------------------------------------------------------


def _highest_token(folder: Path) -> int:
    """The highest id of tokenizer.json, -1 where there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return -1
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = content["model"].get("vocab") or {}
        ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        return max([*ids, *(token["id"] for token in content.get("added_tokens") or [])], default=-1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise ModelError(f"{path} cannot be read: {problem}", next_step=DAMAGED) from problem


def check_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ModelError if the tokenizer has a token that the model has no embedding for."""
    highest = max(tokenizer.get_vocab().values(), default=-1)
    _check_vocabulary(model, highest, Path(str(tokenizer.name_or_path or "the tokenizer")))


def embedding_rows(model: PreTrainedModel) -> int:
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.weight.shape[0])


def _check_vocabulary(model: PreTrainedModel, highest: int, where: Path) -> None:
    size = embedding_rows(model)
    if highest >= size:
        raise ModelError(
            f"the tokenizer in {where} has token {highest}, but the model's embeddings end at {size - 1}",
            next_step="take the tokenizer that belongs to this model",
        )
