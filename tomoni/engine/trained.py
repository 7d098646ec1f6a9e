"""What of a model is trained: all weights, a part, or an adapter of PEFT's.

    all             every weight
    top:K           the last K decoder layers and the norm after them; embeddings and head stay as they are
    head            the output layer; refused where it is tied to the embeddings (train "embeddings" then)
    embeddings      the input embeddings; where the head is tied to them it is the same weight and changes with them
    names:REGEX     the weights whose name contains a match
    lora dora rslora ia3 prompt_tuning     a few new weights beside the frozen model

A frozen weight has requires_grad False. A loaded adapter is trained further under its own kind.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import MISSING, dataclass, fields
from typing import Any, Final

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PromptTuningConfig,
    PromptTuningInit,
    TaskType,
    get_peft_model,
)
from peft.utils import set_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tomoni.engine.forward import decoder_layers
from tomoni.engine.models import DAMAGED, read_generation, read_tensors
from tomoni.errors import ConfigError, ModelError, did_you_mean
from tomoni.hub import Located, first_line, read_json
from tomoni.settings.common import ADAPTERS, TrainedPart

# IA3 scales keys and values of attention, and what enters the MLP's last layer (Liu et al. 2022, section 3.3). Names as
# transformers' architectures have them; a fused query-key-value layer is scaled whole.
IA3_ATTENTION: Final = ("k_proj", "v_proj", "query_key_value", "qkv_proj", "Wqkv", "c_attn", "key", "value")
IA3_FEEDFORWARD: Final = ("down_proj", "dense_4h_to_h", "fc2", "fc_out", "w2", "output_linear")


@dataclass(frozen=True, slots=True)
class Trained:
    """`parameters` are the trained ones, by name, in the model's order; `model` is wrapped where it is an adapter."""

    model: Any  # PreTrainedModel, or PeftModel around one
    parameters: dict[str, nn.Parameter]
    adapter: bool

    @property
    def trainable(self) -> int:
        """Trained numbers."""
        return sum(weight.numel() for weight in self.parameters.values())

    @property
    def total(self) -> int:
        """All numbers of the model, an adapter's included; tied weights count once."""
        return sum(weight.numel() for weight in self.model.parameters())


def choose(model: Any, part: TrainedPart, *, seed: int = 0) -> Trained:
    """Set requires_grad for `part` and return what is trained. New weights of an adapter depend on `seed` only.

    Raises ModelError where the model has no such part.
    """
    if isinstance(model, PeftModel):
        return _further(model, part)
    if part.train in ADAPTERS:
        return _adapter(model, part, seed)
    chosen = _part(model, part.train)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in chosen)
    return Trained(model, _trained_parameters(model), adapter=False)


def _trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


# -- parts ---------------------------------------------------------------------------------------------------------


def _part(model: PreTrainedModel, train: str) -> set[str]:
    """Names of the weights of a part."""
    names = [name for name, _ in model.named_parameters()]
    kind, _, argument = train.partition(":")
    match kind:
        case "all":
            return set(names)
        case "top":
            return _top(model, int(argument))
        case "head":
            return _head(model)
        case "embeddings":
            return _names_of(model, model.get_input_embeddings())
        case "names":
            return _matching(names, argument)
    raise ConfigError(
        f"train: unknown part {train!r}", choices=("all", "top:K", "head", "embeddings", "names:REGEX", *ADAPTERS)
    )


def _names_of(model: nn.Module, part: Any) -> set[str]:
    weights = {id(weight) for weight in part.parameters()}
    return {name for name, weight in model.named_parameters() if id(weight) in weights}


def _top(model: PreTrainedModel, count: int) -> set[str]:
    layers = decoder_layers(model)
    if count > len(layers):
        raise ModelError(
            f"train: top:{count} of a model with {len(layers)} layers", next_step=f"top:1 to top:{len(layers)}, or all"
        )
    chosen = set().union(*(_names_of(model, layer) for layer in list(layers)[-count:]))
    (parent,) = (module for module in model.modules() if any(child is layers for child in module.children()))
    # the final norm stands beside the list of layers; nothing else there is a norm but that of the embeddings
    after = list(parent.children())[[child is layers for child in parent.children()].index(True) + 1 :]
    for child in after:
        if "norm" in type(child).__name__.lower():
            chosen |= _names_of(model, child)
    return chosen


def output_layer(model: Any) -> Any:
    return model.get_output_embeddings()


def _is_tied(model: PreTrainedModel) -> bool:
    head: Any = output_layer(model)
    embeddings: Any = model.get_input_embeddings()
    return head is not None and head.weight is embeddings.weight


def _head(model: PreTrainedModel) -> set[str]:
    head = output_layer(model)
    if head is None:
        raise ModelError(f"{type(model).__name__} has no head of its own", next_step="train: all, top:K or names:REGEX")
    if _is_tied(model):
        raise ModelError(
            f"train: head: the head of {_name(model)} is tied to its embeddings, one weight for both",
            next_step="train: embeddings trains that weight; top:K trains what stands before the head",
        )
    return _names_of(model, head)


def _matching(names: list[str], pattern: str) -> set[str]:
    regex = re.compile(pattern)  # the settings have refused what is no regular expression
    chosen = {name for name in names if regex.search(name)}
    if not chosen:
        patterns = list(dict.fromkeys(re.sub(r"\.\d+\.", ".0.", name) for name in names))
        raise ModelError(
            f"train: names:{pattern} matches none of {len(names)} weights",
            choices=patterns,
            next_step="names look like these",
        )
    return chosen


def _name(model: Any) -> str:
    return str(getattr(model, "name_or_path", "") or type(model).__name__)


# -- adapters ------------------------------------------------------------------------------------------------------


def _adapter(model: PreTrainedModel, part: TrainedPart, seed: int) -> Trained:
    config = _adapter_config(model, part)
    config.revision = getattr(model.config, "_commit_hash", None)
    try:
        wrapped = _wrapped(model, config, seed)
    except (ValueError, NotImplementedError) as problem:  # PEFT knows architectures that one of its kinds does not fit
        raise ModelError(
            f"train: {part.train} does not go with {_name(model)}: {first_line(problem)}",
            choices=("all", "top:K", *ADAPTERS),
            next_step="choose another part or adapter",
        ) from problem
    return Trained(wrapped, _trained_parameters(wrapped), adapter=True)


def _wrapped(model: PreTrainedModel, config: PeftConfig, seed: int) -> PeftModel:
    device = next(model.parameters()).device
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for names that it has deprecated
        torch.manual_seed(seed)
        return get_peft_model(model, config).train(model.training)


def _adapter_config(model: PreTrainedModel, part: TrainedPart) -> PeftConfig:
    if part.train == "prompt_tuning":
        # embeddings of drawn tokens are as long as real ones; a normal draw is often ten times longer and learns badly
        return PromptTuningConfig(
            task_type=TaskType.CAUSAL_LM,
            num_virtual_tokens=part.num_virtual_tokens,
            prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
        )
    linear = _linear_names(model)
    task = TaskType.CAUSAL_LM if hasattr(model, "prepare_inputs_for_generation") else TaskType.FEATURE_EXTRACTION
    if part.train == "ia3":
        targets = _ia3_targets(model, linear, part)
        feedforward = [name for name in targets if name.rsplit(".", 1)[-1] in (*IA3_FEEDFORWARD, "c_proj")]
        return IA3Config(task_type=task, target_modules=targets, feedforward_modules=feedforward)
    targets = list(linear) if part.lora_target_modules == ("all-linear",) else _given_targets(model, linear, part)
    return LoraConfig(
        task_type=task,
        r=part.lora_r,
        lora_alpha=part.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=part.lora_dropout,
        target_modules=targets,
        use_dora=part.train == "dora",
        use_rslora=part.train == "rslora",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )


def _linear_names(model: PreTrainedModel) -> tuple[str, ...]:
    """Last parts of the names of all linear layers except the head, sorted; whole names where the head shares one."""
    head = output_layer(model)
    found = {name: module is head for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    names = [name for name, is_head in found.items() if not is_head]
    last = {name.rsplit(".", 1)[-1] for name in names}
    heads = {name.rsplit(".", 1)[-1] for name, is_head in found.items() if is_head}
    return tuple(sorted(names if last & heads else last))


def _given_targets(model: PreTrainedModel, linear: tuple[str, ...], part: TrainedPart) -> list[str]:
    modules = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    for given in part.lora_target_modules:
        hit = [name for name in modules if name == given or name.endswith("." + given)]
        if not hit:
            raise ModelError(
                f"lora_target_modules: {_name(model)} has no linear layer {given!r}{did_you_mean(given, linear)}",
                choices=("all-linear", *linear),
                next_step="name some of these, or all-linear",
            )
        if _is_tied(model) and any(model.get_submodule(name) is output_layer(model) for name in hit):
            raise ModelError(
                f"lora_target_modules: {given} is tied to the embeddings; an adapter on it could not be merged",
                choices=("all-linear", *linear),
            )
    return sorted(part.lora_target_modules)


def _ia3_targets(model: PreTrainedModel, linear: tuple[str, ...], part: TrainedPart) -> list[str]:
    wanted = (
        IA3_ATTENTION + IA3_FEEDFORWARD if part.lora_target_modules == ("all-linear",) else part.lora_target_modules
    )
    targets = [name for name in linear if name.rsplit(".", 1)[-1] in wanted]
    if any(name.endswith(".mlp.c_proj") for name, _ in model.named_modules()):
        targets.append("mlp.c_proj")  # GPT-2 and its kin name attention's output the same
    if not targets:
        raise ModelError(
            "train: ia3 finds no layer to scale: " + ", ".join(wanted),
            choices=linear,
            next_step="name keys, values and the MLP's last layer in lora_target_modules",
        )
    return targets


def adapter_kind(model: PeftModel) -> str:
    """Its name in `train`."""
    config: Any = model.peft_config[model.active_adapter]
    if isinstance(config, LoraConfig):
        return "dora" if config.use_dora else "rslora" if config.use_rslora else "lora"
    return {"IA3": "ia3", "PROMPT_TUNING": "prompt_tuning"}[config.peft_type.value]


def _further(model: PeftModel, part: TrainedPart) -> Trained:
    kind = adapter_kind(model)
    if part.train != kind:
        raise ModelError(
            f"train: {part.train} on a model that carries an adapter ({kind})",
            choices=(kind,),
            next_step=f"train: {kind} trains it further, as it is; for anything else merge it into its base first",
        )
    model.peft_config[model.active_adapter].inference_mode = False
    model.set_adapter(model.active_adapter)
    for name, weight in model.named_parameters():
        weight.requires_grad_(_is_adapter_weight(name))
    return Trained(model, _trained_parameters(model), adapter=True)


def _is_adapter_weight(name: str) -> bool:
    return any(mark in name for mark in ("lora_", "ia3_", "prompt_encoder.", "modules_to_save."))


# -- loading -------------------------------------------------------------------------------------------------------

READ: Final[dict[str, tuple[type[PeftConfig], frozenset[str]]]] = {
    "LORA": (
        LoraConfig,
        frozenset({"r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "lora_bias", "bias", "fan_in_fan_out"})
        | {"target_modules", "exclude_modules", "modules_to_save", "trainable_token_indices"}
        | {"layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"},
    ),
    "IA3": (
        IA3Config,
        frozenset({"target_modules", "exclude_modules", "feedforward_modules", "fan_in_fan_out", "modules_to_save"}),
    ),
    "PROMPT_TUNING": (
        PromptTuningConfig,
        frozenset(
            {"num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"}
        ),
    ),
}
# how the weights were drawn, and what names code or other models: of no matter once the weights are there
SKIPPED: Final = (
    frozenset({"task_type", "peft_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode"})
    | {"auto_mapping", "megatron_core", "runtime_config", "init_lora_weights", "init_ia3_weights"}
    | {"prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"}
)
# starts that change the base's weights too, so that the adapter means nothing on the untouched base
CHANGES_BASE: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")


def load_adapter(model: PreTrainedModel, located: Located) -> PeftModel:
    """The adapter of `located` on its base, frozen, in eval mode. `choose` with its kind trains it further.

    PEFT is given a config of known keys and tensors, never the folder. Raises ModelError.
    """
    config = _read_config(read_json(located.folder / "adapter_config.json"), located)
    path = located.folder / "adapter_model.safetensors"
    if not path.is_file():
        raise ModelError(
            f"{located.folder} has no adapter_model.safetensors",
            next_step="a pickled adapter (adapter_model.bin) is not opened; save it again with PEFT",
        )
    tensors = read_tensors(path)
    if bad := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise ModelError(
            f"the adapter {located.name} has weights that are not numbers: {', '.join(bad[:4])}",
            next_step="take an earlier version",
        )
    generation = model.generation_config
    try:
        wrapped = _wrapped(model, config, seed=0)
        result: Any = set_peft_model_state_dict(wrapped, tensors)
    except (ValueError, RuntimeError, KeyError, TypeError) as problem:
        raise ModelError(
            f"the adapter {located.name} does not fit its base {_name(model)}: {first_line(problem)}", next_step=DAMAGED
        ) from problem
    # PEFT loads a prompt strictly by itself and then counts it as missing under one name and unexpected under another
    missing = [name for name in result.missing_keys if _is_adapter_weight(name) and "prompt_encoder." not in name]
    unexpected = [name for name in result.unexpected_keys if name != "prompt_embeddings"]
    if missing or unexpected:
        odd = ", ".join([*missing, *unexpected][:4])
        raise ModelError(
            f"the adapter {located.name} does not fit its base {_name(model)}: {odd}",
            next_step="name the base it was trained on",
        )
    if (located.folder / "generation_config.json").is_file():
        generation = read_generation(located.folder, model.config)
    base: Any = wrapped.get_base_model()
    base.generation_config = generation
    return wrapped.requires_grad_(False).eval()


def _read_config(settings: dict[str, Any], located: Located) -> PeftConfig:
    kind = settings.get("peft_type")
    if kind not in READ:
        raise ModelError(
            f"the adapter {located.name} is of the kind {kind!r}",
            choices=tuple(READ),
            next_step="merge it with PEFT and name the merged folder",
        )
    if settings.get("task_type") not in ("CAUSAL_LM", None):
        raise ModelError(
            f"the adapter {located.name} is for {settings['task_type']}",
            next_step="this method needs an adapter for CAUSAL_LM",
        )
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        raise ModelError(
            f"the adapter {located.name} was begun with {start}, which changes the base's weights too",
            next_step="convert it to a plain LoRA with PEFT (path_initial_model_for_weight_conversion), or merge it",
        )
    config_class, known = READ[kind]
    defaults = {
        field.name: field.default_factory() if field.default_factory is not MISSING else field.default
        for field in fields(config_class)
    }
    for key, value in settings.items():
        if key not in known and key not in SKIPPED and value and value != defaults.get(key):
            raise ModelError(
                f"the adapter {located.name} uses {key} = {value!r}, which tomoni does not read",
                next_step="merge it with PEFT and name the merged folder",
            )
    kept = {key: settings[key] for key in known if key in settings}
    try:
        config = config_class(task_type=TaskType.CAUSAL_LM, **kept)
    except (ValueError, TypeError) as problem:
        raise ModelError(f"{located.folder / 'adapter_config.json'}: {problem}", next_step=DAMAGED) from problem
    config.revision = located.model.revision
    return config
