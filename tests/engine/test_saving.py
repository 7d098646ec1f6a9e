"""What is saved loads in plain transformers and plain PEFT with the same logits, and stops where training ended."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import tiny
from tomoni import hub
from tomoni.engine import models, saving
from tomoni.engine.trained import Trained, choose
from tomoni.errors import ModelError
from tomoni.settings.common import ADAPTERS, TrainedPart

TOKENS = torch.arange(3, 15)[None]
MERGEABLE = tuple(kind for kind in ADAPTERS if kind != "prompt_tuning")
GEMMA_LIKE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{{ message['content'] | trim + '<|im_end|>\\n' }}{% endfor %}"
)


@pytest.fixture(autouse=True)
def _peft_asks_for_deprecated_names() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _trained(base: Path, train: str) -> Trained:
    """An adapter whose weights have moved: a fresh one changes nothing, and would test nothing."""
    trained = choose(models.load(hub.locate(base)), TrainedPart(train=train, lora_r=4, lora_alpha=8), seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in trained.parameters.values():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return trained


def _plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_saved_model_loads_in_plain_transformers_with_the_same_logits(architecture: str, tmp_path: Path) -> None:
    model = tiny.model(architecture)
    saving.save_model(model, tiny.tokenizer(), tmp_path)
    assert torch.equal(_plain(tmp_path)(TOKENS).logits, model(TOKENS).logits)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }


def test_a_model_saved_in_half_precision_is_rounded_on_disk_only(tmp_path: Path) -> None:
    model = tiny.model("llama")
    before = model(TOKENS).logits
    saving.save_model(model, tiny.tokenizer(), tmp_path, dtype="float16")
    written = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.float16}
    assert "lm_head.weight" not in written  # tied: written once
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
    assert torch.equal(model(TOKENS).logits, before)
    assert model.config.dtype == torch.float32
    for name, weight in model.named_parameters():
        assert torch.equal(written[name], weight.half())


def test_the_bytes_announced_are_enough_and_not_many_more(tmp_path: Path) -> None:
    trained = _trained(tiny.folder(tmp_path / "base"), "lora")
    saving.save_adapter(trained.model, tiny.tokenizer(), tmp_path / "adapter")
    saving.save_model(saving.merge(trained.model), tiny.tokenizer(), tmp_path / "half", dtype="float16")
    room = saving.TOKENIZER_ROOM
    for folder, announced in (
        ("adapter", saving.bytes_needed(trained.model)),
        ("half", saving.bytes_needed(tiny.model(), dtype="float16")),
    ):
        (weights,) = (tmp_path / folder).glob("*.safetensors")
        assert weights.stat().st_size - 8192 < announced - room < weights.stat().st_size  # the header is small
        assert sum(path.stat().st_size for path in (tmp_path / folder).iterdir()) < announced


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    base = tiny.folder(tmp_path / "base")
    trained = _trained(base, "lora")
    for name in ("one", "two"):
        saving.save_adapter(trained.model, tiny.tokenizer(), tmp_path / name)
        saving.save_model(saving.merge(trained.model), tiny.tokenizer(), tmp_path / f"{name}-merged")
    assert _digests(tmp_path / "one") == _digests(tmp_path / "two")
    assert _digests(tmp_path / "one-merged") == _digests(tmp_path / "two-merged")
    assert json.loads((tmp_path / "one" / "adapter_config.json").read_text())["target_modules"] == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("train", ADAPTERS)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_saved_adapter_loads_in_plain_peft_and_here_with_the_same_logits(
    architecture: str, train: str, tmp_path: Path
) -> None:
    base = tiny.folder(tmp_path / "base", architecture)
    trained = _trained(base, train)
    expected = trained.model(TOKENS).logits
    saving.save_adapter(trained.model, tiny.tokenizer(), tmp_path / "adapter")
    assert torch.equal(PeftModel.from_pretrained(_plain(base), tmp_path / "adapter").eval()(TOKENS).logits, expected)
    located = hub.locate(tmp_path / "adapter")
    assert located.base is not None
    assert located.base.folder == base.resolve()
    loaded = models.load(located)
    assert torch.equal(loaded(TOKENS).logits, expected)
    assert not any(weight.requires_grad for weight in loaded.parameters())
    further = choose(loaded, TrainedPart(train=train))
    assert list(further.parameters) == list(trained.parameters)
    assert all(torch.equal(further.parameters[name], weight) for name, weight in trained.parameters.items())


@pytest.mark.parametrize("train", MERGEABLE)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_merged_adapter_loads_in_plain_transformers_with_the_same_logits(
    architecture: str, train: str, tmp_path: Path
) -> None:
    trained = _trained(tiny.folder(tmp_path / "base", architecture), train)
    expected = trained.model(TOKENS).logits
    untouched = tiny.model(architecture)(TOKENS).logits
    assert (expected - untouched).abs().max().item() > 0.05
    saving.save_model(saving.merge(trained.model), tiny.tokenizer(), tmp_path / "merged")
    torch.testing.assert_close(_plain(tmp_path / "merged")(TOKENS).logits, expected, rtol=0, atol=5e-5)
    assert torch.equal(trained.model(TOKENS).logits, expected)  # the model in training stays as it was


@pytest.mark.parametrize("train", MERGEABLE)
def test_the_weights_that_a_merge_will_make_are_told_without_merging(train: str, tmp_path: Path) -> None:
    """Of LoRA, plain and rank-stabilised, all; of the others the base's: their merge is not a sum."""
    base = tiny.folder(tmp_path / "base")
    trained = _trained(base, train)
    names = models.load(hub.locate(base)).state_dict().keys()
    told = dict(saving.weights_to_be(trained.model, names))
    wanted = (
        saving.merge(trained.model) if train in ("lora", "rslora") else models.load(hub.locate(base))
    ).state_dict()
    assert told.keys() == wanted.keys() == names
    for name, weight in wanted.items():
        torch.testing.assert_close(told[name], weight, rtol=1e-6, atol=1e-6)
    plain = models.load(hub.locate(base))
    assert all(torch.equal(weight, plain.state_dict()[name]) for name, weight in saving.weights_to_be(plain, names))


def test_prompt_tuning_cannot_be_merged_and_says_why(tmp_path: Path) -> None:
    trained = _trained(tiny.folder(tmp_path / "base"), "prompt_tuning")
    with pytest.raises(ModelError, match="virtual tokens stand before the text") as refused:
        saving.merge(trained.model)
    assert "lora" in refused.value.next_step


def test_an_adapter_names_its_base_and_its_commit(tmp_path: Path) -> None:
    model = models.load(hub.locate(tiny.folder(tmp_path / "base")))
    model.config._commit_hash = "c" * 40
    model.name_or_path = "org/name"
    trained = choose(model, TrainedPart(train="lora"))
    saving.save_adapter(trained.model, tiny.tokenizer(), tmp_path / "adapter")
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (written["base_model_name_or_path"], written["revision"]) == ("org/name", "c" * 40)
    assert (written["peft_type"], written["task_type"]) == ("LORA", "CAUSAL_LM")


@pytest.mark.parametrize("template", [tiny.CHATML, GEMMA_LIKE])
def test_generation_ends_at_the_token_that_ends_a_turn(template: str, tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer(template=template)
    tokenizer.eos_token = "<|endoftext|>"  # as in chat models whose EOS is not what ends a turn
    model = tiny.model("mistral", eos_token_id=256)
    model.generation_config.eos_token_id = 256
    saving.save_model(model, tokenizer, tmp_path)
    ends = json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"]
    assert sorted(ends) == [256, 258]
    plain = _plain(tmp_path)
    plain.lm_head = torch.nn.Linear(32, 260)
    with torch.no_grad():  # a model that says <|im_end|> whatever comes before
        plain.lm_head.bias[258] = 1000
    assert plain.generate(TOKENS, max_new_tokens=20, do_sample=False).shape[1] == TOKENS.shape[1] + 1


def test_without_a_chat_template_the_tokenizers_eos_ends() -> None:
    tokenizer = tiny.tokenizer(template=None)
    assert saving.end_tokens(tokenizer) == [258]
    tokenizer.chat_template = "{{ raise_exception('only for other roles') }}"
    assert saving.end_tokens(tokenizer) == [258]


def test_tokenizer_and_template_come_back_as_they_were(tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    saving.save_model(tiny.model(), tokenizer, tmp_path)
    back = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    text = "東京の天気は？ ﾊﾝｶｸ が\u3099 👩\u200d👧 <|im_end|>"
    assert back(text).input_ids == tokenizer(text).input_ids
    assert back.chat_template == tokenizer.chat_template


def test_a_changed_vocabulary_is_not_saved_silently(tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["新"])
    with pytest.raises(ModelError, match="token 260"):
        saving.save_model(tiny.model(), tokenizer, tmp_path / "out")
    model = tiny.model()
    model.config.vocab_size = 300
    with pytest.raises(ModelError, match="260 tokens but its config says 300"):
        saving.save_model(model, tiny.tokenizer(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- adapters that must not be believed ----------------------------------------------------------------------------


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    trained = _trained(tiny.folder(tmp_path / "base"), "lora")
    saving.save_adapter(trained.model, tiny.tokenizer(), tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "XLORA"}, "of the kind 'XLORA'"),
        ({"task_type": "SEQ_CLS"}, "is for SEQ_CLS"),
        ({"init_lora_weights": "pissa"}, "changes the base's weights"),
        ({"megatron_config": {"x": 1}}, "uses megatron_config"),
        ({"layer_replication": [[0, 2]]}, "uses layer_replication"),
        ({"r": 3}, "does not fit its base"),
        ({"target_modules": ["q_proj"]}, "does not fit its base"),
        ({"base_model_name_or_path": None}, "does not say which model"),
        ({"base_model_name_or_path": "no/such/folder"}, "trained on 'no/such/folder'"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(adapter: Path, change: dict[str, Any], said: str) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=said):
        models.load(hub.locate(adapter))


def test_a_config_of_an_adapter_cannot_name_modules_to_import(adapter: Path) -> None:
    path = adapter / "adapter_config.json"
    hostile = {
        "megatron_core": "antigravity",
        "auto_mapping": {"parent_library": "antigravity", "base_model_class": "x"},
        "tokenizer_name_or_path": "org/other",
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | hostile))
    models.load(hub.locate(adapter))
    assert "antigravity" not in sys.modules


def test_a_pickled_adapter_is_refused(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors") as refused:
        models.load(hub.locate(adapter))
    assert "PEFT" in refused.value.next_step


def test_an_adapter_on_an_adapter_is_refused(adapter: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    for path in adapter.iterdir():
        (outer / path.name).write_bytes(path.read_bytes())
    settings = json.loads((outer / "adapter_config.json").read_text())
    (outer / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "../adapter"}))
    with pytest.raises(ModelError, match="itself an adapter"):
        hub.locate(outer)


def test_an_adapter_brings_its_tokenizer_or_uses_its_bases(adapter: Path) -> None:
    assert hub.locate(adapter).tokenizer_folder == adapter.resolve()
    for path in adapter.glob("tokenizer*"):
        path.unlink()
    located = hub.locate(adapter)
    assert located.tokenizer_folder == located.model.folder != adapter.resolve()
