"""Where a model is: local, bundled, or pinned from a hub (a stand-in on this machine)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.engine.standin_hub import StandIn, serving
from tomoni import hub
from tomoni.engine import models
from tomoni.errors import DiskError, ModelError

ONE, TWO = "1" * 40, "2" * 40


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with serving() as stand_in:
        monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
        yield stand_in


def _repository(folder: Path, seed: int = 0) -> Path:
    """A model with what real repositories hold besides: pickles, code, pictures, a second form in a subfolder."""
    tiny.folder(folder, seed=seed)
    for other in (
        "pytorch_model.bin",
        "modeling_own.py",
        "picture.png",
        "training_args.bin",
        "consolidated.safetensors",
    ):
        (folder / other).write_bytes(b"not for us")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    return folder


def test_a_local_folder_is_found_with_the_sha256_of_its_files(tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path / "モデル")
    located = hub.locate(folder)
    assert located.folder == folder.resolve()
    assert located.revision is None
    assert set(located.files) >= {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert located.files["config.json"] == hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()


def test_a_name_that_is_nothing_is_refused_with_a_near_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match='did you mean "my-model"'):
        hub.locate("my-modle")
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelError, match="is a file"):
        hub.locate("model.gguf")


def test_an_unknown_or_absent_bundled_model_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match='did you mean "small"'):
        hub.locate("bundled:smal")
    monkeypatch.setattr(hub, "BUNDLED", ("small", "large", "absent"))
    with pytest.raises(ModelError, match="is not in this installation"):
        hub.locate("bundled:absent")


def test_a_hub_model_is_fetched_pinned_and_the_same_model(tmp_path: Path, served: StandIn) -> None:
    folder = _repository(tmp_path / "repo")
    served.add("org/name", folder, commit=ONE)
    located = hub.locate("org/name", cache=tmp_path / "cache")
    assert located.revision == ONE
    assert located.name == f"org/name@{ONE}"
    record = json.loads((tmp_path / "cache" / "models--org--name" / "tomoni.json").read_text())
    assert record["pins"] == {"main": ONE}
    assert record["commits"][ONE] == dict(located.files)
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert located.files["model.safetensors"] == weights
    tokens = torch.arange(12)[None]
    assert torch.equal(models.load(located)(tokens).logits, tiny.model()(tokens).logits)


def test_only_safetensors_json_and_tokenizer_files_are_asked_for(tmp_path: Path, served: StandIn) -> None:
    served.add("org/name", _repository(tmp_path / "repo"), commit=ONE)
    located = hub.locate("org/name", cache=tmp_path / "cache")
    fetched = {path.name for path in located.folder.rglob("*")}
    assert served.got() == fetched == set(located.files)
    assert {name.rsplit(".", 1)[-1] for name in fetched} == {"json", "safetensors", "jinja"}
    assert not any("onnx" in path or "consolidated" in path for _, path, _ in served.asked)


def test_the_second_time_no_server_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as stand_in:
        monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
        stand_in.add("org/name", _repository(tmp_path / "repo"), commit=ONE)
        first = hub.locate("org/name", cache=tmp_path / "cache")
        asked = len(stand_in.asked)
        assert hub.locate("org/name", cache=tmp_path / "cache") == first
        assert len(stand_in.asked) == asked
    assert hub.locate("org/name", cache=tmp_path / "cache") == first
    assert hub.locate(f"org/name@{ONE}", cache=tmp_path / "cache") == first


def test_a_branch_that_moves_on_changes_nothing_until_asked(tmp_path: Path, served: StandIn) -> None:
    served.add("org/name", _repository(tmp_path / "one"), commit=ONE)
    hub.locate("org/name", cache=tmp_path / "cache")
    served.add("org/name", _repository(tmp_path / "two", seed=1), commit=TWO)
    assert hub.locate("org/name", cache=tmp_path / "cache").revision == ONE
    assert hub.locate(f"org/name@{TWO}", cache=tmp_path / "cache").revision == TWO
    assert hub.locate("org/name", cache=tmp_path / "cache", update=True).revision == TWO
    assert hub.locate("org/name", cache=tmp_path / "cache").revision == TWO


def test_a_revision_is_a_branch_a_tag_or_a_commit(tmp_path: Path, served: StandIn) -> None:
    served.add("org/name", _repository(tmp_path / "one"), commit=ONE)
    served.add("org/name", _repository(tmp_path / "two", seed=1), commit=TWO, branch="v2.0")
    assert hub.locate("org/name@v2.0", cache=tmp_path / "cache").revision == TWO
    assert hub.locate("org/name", cache=tmp_path / "cache").revision == ONE
    with pytest.raises(ModelError, match="no revision 'v3'"):
        hub.locate("org/name@v3", cache=tmp_path / "cache")


def test_a_changed_file_under_the_same_commit_is_refused(tmp_path: Path, served: StandIn) -> None:
    served.add("org/name", _repository(tmp_path / "repo"), commit=ONE)
    located = hub.locate("org/name", cache=tmp_path / "cache")
    blob = (located.folder / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(ModelError, match="not the file that was fetched first"):
        hub.locate("org/name", cache=tmp_path / "cache")


def test_a_file_exchanged_on_the_hub_under_the_same_commit_is_refused(tmp_path: Path, served: StandIn) -> None:
    served.add("org/name", _repository(tmp_path / "one"), commit=ONE)
    located = hub.locate("org/name", cache=tmp_path / "cache")
    (located.folder / "model.safetensors").unlink()  # so that it is fetched again
    served.add("org/name", _repository(tmp_path / "two", seed=1), commit=ONE)
    with pytest.raises(ModelError, match="not the file that was fetched first"):
        hub.locate("org/name", cache=tmp_path / "cache")


def test_a_file_garbled_on_the_way_is_refused(tmp_path: Path, served: StandIn) -> None:
    served.add("org/name", _repository(tmp_path / "repo"), commit=ONE)
    served.garbled = {"config.json"}
    with pytest.raises(ModelError, match=r"config\.json was damaged on the way"):
        hub.locate("org/name", cache=tmp_path / "cache")


def test_a_cut_download_goes_on_where_it_stopped(
    tmp_path: Path, served: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # what is kept, it keeps by chunks
    folder = _repository(tmp_path / "repo")
    served.add("org/name", folder, commit=ONE)
    served.cut_once = {"model.safetensors": 20_000}
    located = hub.locate("org/name", cache=tmp_path / "cache")
    ranges = [span for method, path, span in served.asked if method == "GET" and path.endswith("model.safetensors")]
    assert ranges == ["", "bytes=20000-"]
    assert located.files["model.safetensors"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_a_file_lost_from_the_cache_is_fetched_again(tmp_path: Path, served: StandIn) -> None:
    served.add("org/name", _repository(tmp_path / "repo"), commit=ONE)
    located = hub.locate("org/name", cache=tmp_path / "cache")
    (located.folder / "config.json").unlink()
    assert hub.locate("org/name", cache=tmp_path / "cache") == located
    assert (located.folder / "config.json").is_file()


def test_private_gated_and_absent_models_are_told_apart(tmp_path: Path, served: StandIn) -> None:
    served.refused = {"org/gated": (403, "GatedRepo")}
    with pytest.raises(ModelError, match="org/gated is gated") as gated:
        hub.locate("org/gated", cache=tmp_path / "cache")
    assert "HF_TOKEN" in gated.value.next_step
    with pytest.raises(ModelError, match="no such model or it is private") as absent:
        hub.locate("org/absent", cache=tmp_path / "cache")
    assert absent.value.next_step


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(ModelError, match="could not be fetched") as closed:
        hub.locate("org/name", cache=tmp_path / "cache")
    assert "network" in closed.value.next_step


def test_offline_forbids_the_network_and_says_so(
    tmp_path: Path, served: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.add("org/name", _repository(tmp_path / "repo"), commit=ONE)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE forbids the network"):
        hub.locate("org/name", cache=tmp_path / "cache")
    assert served.asked == []


def test_pickled_weights_on_a_hub_are_refused_unfetched_with_the_way_to_convert(
    tmp_path: Path, served: StandIn
) -> None:
    folder = _repository(tmp_path / "repo")
    (folder / "model.safetensors").unlink()
    (folder / "consolidated.safetensors").unlink()
    served.add("org/old", folder, commit=ONE)
    with pytest.raises(ModelError, match=r"only as pytorch_model\.bin") as refused:
        hub.locate("org/old", cache=tmp_path / "cache")
    assert "safetensors" in refused.value.next_step
    assert "pytorch_model.bin" not in served.got()


@pytest.mark.parametrize(
    "name", ["org/name@../../etc", "org/..", "../org/name", "org/name/more", "org/na me", "@v1", ""]
)
def test_a_name_that_could_be_a_path_never_reaches_the_hub(name: str, tmp_path: Path, served: StandIn) -> None:
    with pytest.raises(ModelError):
        hub.locate(name, cache=tmp_path / "cache" / "deep") if name else hub.locate(tmp_path / "nothing")
    assert served.asked == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, served: StandIn) -> None:
    served.add("org/name", _repository(tmp_path / "repo"), commit=ONE)
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises((DiskError, ModelError), match=r"cache|fetched"):
        hub.locate("org/name", cache=tmp_path / "cache")


def test_a_damaged_record_is_named_and_not_trusted(tmp_path: Path, served: StandIn) -> None:
    served.add("org/name", _repository(tmp_path / "repo"), commit=ONE)
    hub.locate("org/name", cache=tmp_path / "cache")
    record = tmp_path / "cache" / "models--org--name" / "tomoni.json"
    record.write_text('{"pins": []')
    with pytest.raises(ModelError, match=r"tomoni\.json"):
        hub.locate("org/name", cache=tmp_path / "cache")
