"""What onnxruntime computes from the file is what the model computes: any length, batch and padding, with a cache."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_library
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tests import tiny
from tomoni import hub
from tomoni.data.tokenize import load_tokenizer
from tomoni.engine import models
from tomoni.engine.trained import choose
from tomoni.errors import ModelError
from tomoni.export import onnx
from tomoni.settings.common import TrainedPart

CLOSE = 2e-5  # float32 against float64 of logits up to about 20
# a layer costs the exporter seconds: one with a window and two of the commonest shape always, the others among the slow
QUICK = ("llama", "mistral")
CASES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in tiny.ARCHITECTURES]
TEXT = "「駅前のパン屋」は何時に開きますか?　ｶﾀｶﾅ と絵文字🍞、結合文字か\u3099。 When does the bakery open?"


@dataclass(frozen=True)
class Exported:
    model: Any
    folder: Path
    reader: onnx.OnnxReader

    def wanted(self, tokens: Any) -> Any:
        """Logits [T, V] of plain transformers in float64."""
        double = AutoModelForCausalLM.from_config(self.model.config, dtype=torch.float64).eval()
        double.load_state_dict(self.model.state_dict())
        with torch.no_grad():
            return double(torch.as_tensor(np.asarray(tokens, dtype=np.int64))[None]).logits[0].numpy()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    known: dict[str, Exported] = {}

    def make(architecture: str) -> Exported:
        if architecture not in known:
            layers = {"num_hidden_layers": 1} if architecture == "mistral" else {}
            model = tiny.model(architecture, **layers)
            folder = tmp_path_factory.mktemp(architecture)
            onnx.write_onnx(model, tiny.tokenizer(), folder)
            known[architecture] = Exported(model, folder, onnx.OnnxReader(folder, threads=1))
        return known[architecture]

    return make


def bytes_of(text: str) -> Any:
    """Tokens int32 [T]: the tiny tokenizer's are bytes, in its own order."""
    return np.asarray(tiny.tokenizer()(text)["input_ids"], dtype=np.int32)


@pytest.mark.parametrize("architecture", CASES)
def test_logits_are_the_models_at_lengths_that_were_not_traced(architecture: str, made: Any) -> None:
    exported = made(architecture)
    tokens = bytes_of(TEXT)
    assert len(tokens) > 100
    for length in (1, 2, 7, 16, 17, len(tokens)):  # the window of those that have one is 16
        found = exported.reader.logits(tokens[:length])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, exported.wanted(tokens[:length]), atol=CLOSE, rtol=0)


@pytest.mark.parametrize("architecture", CASES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_a_padded_batch_are_the_rows_alone(architecture: str, side: str, made: Any) -> None:
    exported = made(architecture)
    rows = [bytes_of(text) for text in ("こんにちは。", "はい", "Where is the station, and when does it open?")]
    longest = max(map(len, rows))
    tokens_NT = np.full((3, longest), 259)
    mask_NT = np.zeros_like(tokens_NT)
    for row, (tokens, mask) in zip(rows, zip(tokens_NT, mask_NT, strict=True), strict=True):
        place = slice(longest - len(row), None) if side == "left" else slice(0, len(row))
        tokens[place], mask[place] = row, 1
    found_NTV, _ = exported.reader.step(tokens_NT, mask_NT, None)
    for row, found_TV, mask in zip(rows, found_NTV, mask_NT.astype(bool), strict=True):
        np.testing.assert_allclose(found_TV[mask], exported.wanted(row), atol=CLOSE, rtol=0)


@pytest.mark.parametrize("architecture", CASES)
def test_a_text_read_in_parts_through_the_cache_gives_the_logits_of_the_whole(architecture: str, made: Any) -> None:
    exported = made(architecture)
    tokens = bytes_of(TEXT)[:60]
    parts, past, read = [], None, 0
    for size in (20, 1, 1, 30, 8):
        read += size
        now = tokens[None, read - size : read].astype(np.int64)
        logits_NTV, past = exported.reader.step(now, np.ones((1, read), dtype=np.int64), past)
        parts.append(logits_NTV[0])
    np.testing.assert_allclose(np.concatenate(parts), exported.wanted(tokens), atol=CLOSE, rtol=0)


def test_a_left_padded_batch_goes_on_through_the_cache(made: Any) -> None:
    exported = made("llama")
    long, short = bytes_of("何時に開く?"), bytes_of("駅?")
    padding = len(long) - len(short)
    tokens_NT = np.stack([long, np.pad(short, (padding, 0), constant_values=259)]).astype(np.int64)
    mask_NT = np.ones_like(tokens_NT)
    mask_NT[1, :padding] = 0
    _, past = exported.reader.step(tokens_NT, mask_NT, None)
    next_N1 = np.array([[7], [8]])
    logits_NTV, _ = exported.reader.step(next_N1, np.pad(mask_NT, ((0, 0), (0, 1)), constant_values=1), past)
    for logits_TV, row, token in ((logits_NTV[0], long, 7), (logits_NTV[1], short, 8)):
        np.testing.assert_allclose(logits_TV[0], exported.wanted([*row, token])[-1], atol=CLOSE, rtol=0)


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any], Path]:
    """A model in training mode, its weights before the export, and its export in int8."""
    model = tiny.model("llama", num_hidden_layers=1).train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    folder = tmp_path_factory.mktemp("int8")
    onnx.write_onnx(model, tiny.tokenizer(), folder, int8=True)
    return model, before, folder


def test_the_callers_model_is_not_changed(rounded: tuple[Any, dict[str, Any], Path]) -> None:
    model, before, _ = rounded
    assert model.training and all(weight.requires_grad for weight in model.parameters())
    assert model.config._attn_implementation == tiny.model("llama").config._attn_implementation != "eager"
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])


def test_int8_weights_are_8_bits_and_the_answers_stay_near(rounded: tuple[Any, dict[str, Any], Path]) -> None:
    model, _, folder = rounded
    kinds: dict[int, int] = {}
    for weight in onnx_library.load(folder / onnx.FILE).graph.initializer:
        kinds[weight.data_type] = kinds.get(weight.data_type, 0) + int(np.prod(weight.dims))
    matrices = sum(part.weight.numel() for part in model.modules() if isinstance(part, torch.nn.Linear))
    assert matrices <= kinds[onnx_library.TensorProto.INT8] <= 1.1 * matrices  # the rest are zero points
    tokens = bytes_of(TEXT)
    plain = model.eval()(torch.from_numpy(tokens[None].astype(np.int64))).logits[0].detach().numpy()
    model.train()
    difference = np.abs(onnx.OnnxReader(folder).logits(tokens) - plain)
    assert 1e-4 < difference.max() < 0.25 * plain.std()
    assert {path.name for path in folder.iterdir() if "onnx" in path.name or "int8" in path.name} == {"model.onnx"}


def test_the_export_says_nothing_on_the_terminal_and_nothing_of_the_machine(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    onnx.write_onnx(tiny.model("llama", num_hidden_layers=1), tiny.tokenizer(), tmp_path)
    assert capfd.readouterr() == ("", "")
    content = (tmp_path / onnx.FILE).read_bytes()
    assert os.fsencode(Path(onnx.__file__).parent) not in content and b"site-packages" not in content
    assert b"traceable.py" not in content


@pytest.mark.slow
def test_a_large_model_has_its_weights_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "LARGEST_SINGLE_FILE", 1000)
    model = tiny.model("llama", num_hidden_layers=1, tie_word_embeddings=False)
    tokens = bytes_of(TEXT)
    plain = model(torch.from_numpy(tokens[None].astype(np.int64))).logits[0].detach().numpy()
    for int8, bound in ((False, CLOSE), (True, 0.25 * plain.std())):
        folder = tmp_path / f"int8 {int8}"
        onnx.write_onnx(model, tiny.tokenizer(), folder, int8=int8)
        assert {path.name for path in folder.iterdir() if "onnx" in path.name} == {"model.onnx", "model.onnx.data"}
        assert (folder / "model.onnx").stat().st_size < 2**18
        moved = folder.rename(tmp_path / f"moved {int8}")  # the graph names its weights by a relative path
        np.testing.assert_allclose(onnx.OnnxReader(moved).logits(tokens), plain, atol=bound, rtol=0)


def test_what_is_written_is_what_onnx_runtimes_users_look_for(made: Any) -> None:
    exported = made("llama")
    names = {path.name for path in exported.folder.iterdir()}
    assert names == {
        "model.onnx",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert AutoConfig.from_pretrained(exported.folder).num_hidden_layers == 2
    assert AutoTokenizer.from_pretrained(exported.folder).chat_template == tiny.CHATML
    graph = onnx_library.load(exported.folder / "model.onnx")
    onnx_library.checker.check_model(graph, full_check=True)
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", onnx.OPSET)]
    ins = [put.name for put in graph.graph.input]
    assert ins[:4] == ["input_ids", "attention_mask", "past_key_values.0.key", "past_key_values.0.value"]
    assert [put.name for put in graph.graph.output][:3] == ["logits", "present.0.key", "present.0.value"]


def test_the_size_that_is_said_before_holds_and_is_no_fantasy(made: Any) -> None:
    exported = made("llama")
    written = sum(path.stat().st_size for path in exported.folder.iterdir())
    assert written < onnx.size_on_disk(exported.model) < written + 2**27
    assert onnx.size_on_disk(exported.model, int8=True) > 2 * written


# -- refused ---------------------------------------------------------------------------------------------------------


def adapted(tmp_path: Path) -> Any:
    folder = tiny.folder(tmp_path / "base")
    return choose(models.load(hub.locate(folder)), TrainedPart(train="lora", lora_r=4), seed=3).model


def a_mamba() -> Any:
    config = AutoConfig.for_model("mamba", vocab_size=260, hidden_size=32, num_hidden_layers=1, state_size=4)
    return AutoModelForCausalLM.from_config(config)


def test_a_model_that_this_form_cannot_hold_is_refused_before_work(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 512}
    cases = {
        "its adapter is not merged": adapted(tmp_path),
        "a state instead of keys and values": a_mamba(),
        "rotary embedding (dynamic) changes": tiny.model("llama", num_hidden_layers=1, rope_parameters=rope),
    }
    for reason, model in cases.items():
        assert any(reason in said for said in onnx.refusals(model)), (reason, onnx.refusals(model))
        with pytest.raises(ModelError, match="ONNX cannot hold this model") as refused:
            onnx.write_onnx(model, tiny.tokenizer(), tmp_path / "never")
        assert "--to hf" in refused.value.next_step
        assert not (tmp_path / "never").exists()
    assert onnx.refusals(tiny.model("gemma3_text")) == []


def test_a_missing_package_is_a_refusal_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "PACKAGES", ("no_such_package",))
    assert onnx.refusals(tiny.model("llama")) == ['no_such_package is not installed: pip install "tomoni[export]"']


def test_an_exporter_that_gives_up_is_a_users_error_that_names_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("Step 3/3 failed\n\nlong advice") from NotImplementedError("no aten::strange here\nmore")

    monkeypatch.setattr(torch.onnx, "export", give_up)
    with pytest.raises(ModelError, match="this llama model: no aten::strange here") as failed:
        onnx.write_onnx(tiny.model("llama"), tiny.tokenizer(), tmp_path)
    assert "advice" not in failed.value.text() and failed.value.next_step


def test_a_graph_that_is_not_the_model_is_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tiny.model("llama", seed=1, num_hidden_layers=1)
    graph_of = onnx._graph
    monkeypatch.setattr(onnx, "_graph", lambda traceable: graph_of(onnx.Traceable(other)))
    with pytest.raises(ModelError, match="logits differ by"):
        onnx.write_onnx(tiny.model("llama", num_hidden_layers=1), tiny.tokenizer(), tmp_path)


def test_a_folder_without_a_graph_and_a_damaged_graph_are_users_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model\.onnx"):
        onnx.OnnxReader(tmp_path)
    (tmp_path / "model.onnx").write_bytes(hashlib.sha256(b"noise").digest())
    with pytest.raises(ModelError, match="onnxruntime cannot run"):
        onnx.OnnxReader(tmp_path)


# -- a real model ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_bundled_model_continues_japanese_as_plain_transformers_does(tmp_path: Path) -> None:
    located = hub.locate("bundled:small")
    model, tokenizer = models.load(located), load_tokenizer(located.tokenizer_folder)
    onnx.write_onnx(model, tokenizer, tmp_path / "float")
    onnx.write_onnx(model, tokenizer, tmp_path / "int8", int8=True)
    whole, rounded = (onnx.OnnxReader(tmp_path / name) for name in ("float", "int8"))
    plain: Any = AutoModelForCausalLM.from_pretrained(located.folder, dtype=torch.float32).eval()
    divergences = []
    for text in ("この町の駅の南にある店は、", "祭りの日の朝、", "The bakery in the north of the town opens at"):
        tokens = np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
        given = torch.from_numpy(tokens[None].astype(np.int64))
        with torch.no_grad():
            told = plain.generate(given, max_new_tokens=40, do_sample=False, eos_token_id=0)[0, len(tokens) :]
        assert whole.greedy(tokens, ends=(0,), most=40) == told.tolist()
        read = np.concatenate([tokens, told.numpy().astype(np.int32)])
        wanted = plain(torch.from_numpy(read[None].astype(np.int64))).logits[0].detach()
        np.testing.assert_allclose(whole.logits(read), wanted.numpy(), atol=2e-4, rtol=0)
        before, after = wanted.log_softmax(-1), torch.from_numpy(rounded.logits(read)).log_softmax(-1)
        divergences.append(float((before.exp() * (before - after)).sum(-1).mean()))
    assert 1e-5 < max(divergences) < 0.02  # nats a token; 0.001 to 0.003 was measured
