"""A folder becomes a model, or an error that says what is wrong with it; nothing planted in it is run or opened."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BloomConfig, BloomForCausalLM

from tests import tiny
from tomoni import hub
from tomoni.engine import models
from tomoni.errors import ModelError, UserError

TOKENS = torch.arange(3, 15)[None]

# -- an ear on what the interpreter opens, starts and connects to; hooks cannot be removed, so it is switched ----------

_heard: list[tuple[str, str]] | None = None


def _listen(event: str, details: tuple[Any, ...]) -> None:
    if _heard is not None and event in ("open", "exec", "import", "socket.connect", "subprocess.Popen", "os.system"):
        _heard.append((event, str(details[0])))


sys.addaudithook(_listen)


@pytest.fixture
def heard() -> Iterator[list[tuple[str, str]]]:
    global _heard
    _heard = []
    yield _heard
    _heard = None


def _load(folder: Path) -> Any:
    return models.load(hub.locate(folder))


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.folder(tmp_path / "model")


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_saved_model_comes_back_with_the_same_logits(architecture: str, tmp_path: Path) -> None:
    model = _load(tiny.folder(tmp_path, architecture))
    assert torch.equal(model(TOKENS).logits, tiny.model(architecture)(TOKENS).logits)
    assert not model.training
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_a_sharded_half_precision_model_comes_back_in_float32(tmp_path: Path) -> None:
    saved = tiny.model("mistral").to(torch.bfloat16)
    saved.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded = _load(tmp_path)
    for name, weight in saved.named_parameters():
        assert torch.equal(loaded.get_parameter(name), weight.float())
        assert loaded.get_parameter(name).dtype == torch.float32


def test_keys_of_older_configs_are_understood(folder: Path) -> None:
    def older(config: dict[str, Any]) -> None:
        del config["rope_parameters"]
        config["rope_theta"], config["torch_dtype"] = 500.0, "bfloat16"

    _edit(folder / "config.json", older)
    model = _load(folder)
    expected = tiny.model(rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    assert torch.equal(model(TOKENS).logits, expected(TOKENS).logits)
    assert not torch.allclose(model(TOKENS).logits, tiny.model()(TOKENS).logits)


def test_weights_under_older_names_and_with_computed_buffers_are_understood(tmp_path: Path) -> None:
    """As in Pythia's files: the head under its older name, and buffers that are computed today."""
    tiny.folder(tmp_path, "gpt_neox")
    tensors = load_file(tmp_path / "model.safetensors")
    assert "embed_out.weight" in tensors  # "lm_head" in memory
    for layer in range(2):
        tensors[f"gpt_neox.layers.{layer}.attention.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
        tensors[f"gpt_neox.layers.{layer}.attention.masked_bias"] = torch.tensor(-1e9)
        tensors[f"gpt_neox.layers.{layer}.attention.rotary_emb.inv_freq"] = torch.ones(1)
    save_file(tensors, tmp_path / "model.safetensors")
    assert torch.equal(_load(tmp_path)(TOKENS).logits, tiny.model("gpt_neox")(TOKENS).logits)


def test_a_tied_head_that_was_written_twice_is_one_weight(folder: Path) -> None:
    _weights(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    model = _load(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model(TOKENS).logits, tiny.model()(TOKENS).logits)


def test_an_architecture_without_fused_attention_gets_plain_attention(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "n_layer": 1, "n_head": 2}
    saved = BloomForCausalLM(BloomConfig(vocab_size=260, **shape)).eval()
    saved.save_pretrained(tmp_path)
    loaded = _load(tmp_path)
    assert loaded.config._attn_implementation == "eager"
    assert torch.equal(loaded(TOKENS).logits, saved(TOKENS).logits)


def test_the_generation_config_comes_along_without_strange_keys(folder: Path) -> None:
    (folder / "generation_config.json").write_text(
        json.dumps(
            {"eos_token_id": [258, 256], "temperature": 0.7, "custom_generate": "org/code", "assistant_model": "x"}
        )
    )
    config = _load(folder).generation_config
    assert config.eos_token_id == [258, 256]
    assert config.temperature is None or config.temperature == 1.0  # it does not sample; kept, it could not be saved
    assert getattr(config, "custom_generate", None) is None


def _missing_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama",')


def _own_code(folder: Path) -> None:
    _edit(folder / "config.json", lambda c: c.update(auto_map={"AutoModelForCausalLM": "modeling_own.Own"}))


def _unknown_architecture(folder: Path) -> None:
    _edit(folder / "config.json", lambda c: c.update(model_type="lama"))


def _classifier(folder: Path) -> None:
    _edit(folder / "config.json", lambda c: c.update(architectures=["LlamaForSequenceClassification"]))


def _quantized(folder: Path) -> None:
    _edit(folder / "config.json", lambda c: c.update(quantization_config={"quant_method": "gptq", "bits": 4}))


def _nonsense_numbers(folder: Path) -> None:
    _edit(folder / "config.json", lambda c: c.update(hidden_size="many"))


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _only_pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _cut_short(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def _not_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 4096)


def _weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def _weight_missing(folder: Path) -> None:
    _weights(folder, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))


def _weight_misshaped(folder: Path) -> None:
    _edit(folder / "config.json", lambda c: c.update(intermediate_size=48))


def _weight_too_many(folder: Path) -> None:
    _weights(folder, lambda t: t.update({"model.layers.2.mlp.up_proj.weight": torch.zeros(64, 32)}))


def _weight_not_a_number(folder: Path) -> None:
    _weights(folder, lambda t: t["model.norm.weight"].__setitem__(3, float("nan")))


def _integers(folder: Path) -> None:
    _weights(folder, lambda t: t.update({"model.norm.weight": torch.zeros(32, dtype=torch.int8)}))


def _index(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        index = {"weight_map": {"model.norm.weight": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return edit


def _tokenizer_too_large(folder: Path) -> None:
    tokens = {"id": 260, "content": "<新>", "special": True}
    _edit(folder / "tokenizer.json", lambda t: t["added_tokens"].append({**t["added_tokens"][0], **tokens}))


def _tokenizer_damaged(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": ')


@pytest.mark.parametrize(
    ("damage", "said", "next_step"),
    [
        (_missing_config, r"no config\.json", "Hugging Face form"),
        (_broken_config, r"config\.json cannot be read as JSON", "again"),
        (_own_code, "Python code of its own", "remove auto_map"),
        (_unknown_architecture, 'did you mean "llama"', "model_type"),
        (_classifier, "holds LlamaForSequenceClassification, not a language model", "language model"),
        (_quantized, "is quantized", "made from"),
        (_integers, "integer weights .model.norm.weight.: it is quantized", "made from"),
        (_nonsense_numbers, "does not fit llama", "compare"),
        (_no_weights, r"no weights .model\.safetensors.", "fetch"),
        (_only_pickled, r"only as pytorch_model\.bin", "save_pretrained"),
        (_cut_short, r"model\.safetensors is damaged", "half-written"),
        (_not_safetensors, r"model\.safetensors is damaged", "half-written"),
        (_weight_missing, r"1 weights missing: model\.layers\.1\.mlp\.up_proj\.weight", "one model"),
        (_weight_misshaped, r"6 weights of another shape .* \[64, 32\] instead of \[48, 32\]", "one model"),
        (_weight_too_many, r"does not have: model\.layers\.2\.mlp\.up_proj\.weight", "one model"),
        (_weight_not_a_number, r"NaN or infinite.* in 1 tensors: model\.norm\.weight", "earlier version"),
        (_index("../outside.safetensors"), r"names '\.\./outside\.safetensors' as a shard", "beside its index"),
        (_index("/etc/passwd"), "names '/etc/passwd' as a shard", "beside its index"),
        (_index("pytorch_model.bin"), r"names 'pytorch_model\.bin' as a shard", "beside its index"),
        (_index("model-1.safetensors"), r"lacks 1 of 1 weight files: model-1\.safetensors", "again"),
        (_tokenizer_too_large, r"token 260, but the model's embeddings end at 259", "belongs to this model"),
        (_tokenizer_damaged, r"tokenizer\.json cannot be read", "again"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named_with_a_next_step(
    folder: Path, damage: Callable[[Path], None], said: str, next_step: str
) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=said) as refused:
        _load(folder)
    assert next_step in refused.value.next_step


def test_a_folder_that_went_away_is_named(folder: Path, tmp_path: Path) -> None:
    located = hub.locate(folder)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="no model folder"):
        models.load(located)


def test_an_encoder_is_refused_where_text_is_to_be_continued(tmp_path: Path) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=50, **shape)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="BertForMaskedLM, which does not continue text"):
        _load(tmp_path)


def test_a_tokenizer_given_by_hand_must_fit_the_model() -> None:
    tokenizer = tiny.tokenizer()
    models.check_tokenizer(tiny.model(), tokenizer)
    tokenizer.add_tokens(["東京"])
    with pytest.raises(ModelError, match="token 260"):
        models.check_tokenizer(tiny.model(), tokenizer)


# -- what a folder may try -----------------------------------------------------------------------------------------

CODE = "open(__file__ + '.ran', 'w').close()\n"
HOSTILE_KEYS: list[dict[str, Any]] = [
    {"_attn_implementation_internal": "org/kernel"},
    {"_attn_implementation": "org/kernel"},
    {"attn_implementation": "org/kernel:main"},
    {"_experts_implementation_internal": "org/kernel"},
    {"_name_or_path": "org/other"},
    {"name_or_path": "org/other"},
    {"transformers_weights": "../outside.bin"},
    {"custom_pipelines": {"text-generation": {"impl": "own.Pipeline"}}},
    {"custom_generate": "org/code"},
    {"kernel_config": {"kernel_mapping": {"RMSNorm": "org/kernel:norm"}}},
    {"fusion_config": {"x": 1}},
    {"distributed_config": {"tp_size": 2}},
    {"backbone": "org/backbone", "use_timm_backbone": True},
    {"trust_remote_code": True},
    {"architectures_file": "modeling_own.py"},
]


def _plant(folder: Path) -> None:
    """Files that must stay unopened, in every name under which a loader has looked for one."""
    for name in ("pytorch_model.bin", "model.pt", "rng_state.pth", "optimizer.pt", "training_args.bin", ".metadata"):
        (folder / name).write_bytes(b"cposix\nsystem\n(S'false'\ntR.")
    for name in ("modeling_own.py", "configuration_own.py", "__init__.py", "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(CODE)


@pytest.mark.parametrize("keys", HOSTILE_KEYS, ids=lambda keys: next(iter(keys)))
def test_hostile_config_keys_run_open_and_fetch_nothing(
    folder: Path, keys: dict[str, Any], heard: list[tuple[str, str]]
) -> None:
    _edit(folder / "config.json", lambda c: c.update(keys))
    _plant(folder)
    heard.clear()
    model = _load(folder)
    read = {Path(name).name for event, name in heard if event == "open" and str(folder) in name}
    assert {"config.json", "tokenizer.json"} <= read <= set(hub.hashes(folder))  # the ear hears, and hears no more
    assert not [event for event, _ in heard if event in ("socket.connect", "subprocess.Popen", "os.system")]
    assert not list(folder.rglob("*.ran"))
    assert model.config._attn_implementation == "sdpa"
    for key, value in keys.items():
        assert getattr(model.config, key, None) != value
    assert torch.equal(model(TOKENS).logits, tiny.model()(TOKENS).logits)


@pytest.mark.parametrize("damage", [_own_code, _only_pickled, _index("pytorch_model.bin")])
def test_a_refused_folder_is_refused_before_anything_in_it_runs(
    folder: Path, damage: Callable[[Path], None], heard: list[tuple[str, str]]
) -> None:
    damage(folder)
    _plant(folder)
    heard.clear()
    with pytest.raises(UserError):
        _load(folder)
    opened = {os.path.basename(name) for event, name in heard if event == "open" and str(folder) in name}
    assert opened <= set(hub.hashes(folder))
    assert not list(folder.rglob("*.ran"))


def test_keys_hidden_in_a_nested_config_are_left_out() -> None:
    nested = {"text": {"_attn_implementation": "org/kernel", "hidden_size": 8, "list": [{"auto_map": 1, "size": 2}]}}
    assert models._harmless(nested) == {"text": {"hidden_size": 8, "list": [{"size": 2}]}}
