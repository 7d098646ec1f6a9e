"""`tomoni init`: what it makes can be used as it is, and nothing of the user's is touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tomoni.cli import app
from tomoni.cli.init import write
from tomoni.config import load
from tomoni.errors import DiskError, UserError
from tomoni.settings import sft


def test_the_config_it_makes_is_valid_and_names_the_data_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "new" / "folder")
    config = load(sft.Config, tmp_path / "new" / "folder" / "sft.yaml")
    assert config.model_name_or_path == "bundled:small"
    assert all((tmp_path / "new" / "folder" / name).exists() for name in config.train_file)


def test_the_keys_it_shows_as_comments_exist(tmp_path: Path) -> None:
    write(tmp_path)
    text = (tmp_path / "sft.yaml").read_text(encoding="utf-8")
    commented = [line[2:].split(":")[0] for line in text.splitlines() if line.startswith("# lora")]
    assert commented == ["lora_r", "lora_alpha"]
    assert set(commented) <= set(sft.Config.model_fields)


def test_the_data_it_makes_is_in_english_and_japanese(tmp_path: Path) -> None:
    write(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(set(row) == {"prompt", "completion"} and all(row.values()) for row in rows)
    assert sum(row["prompt"].isascii() for row in rows) == len(rows) / 2 == 8


def test_it_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("mine")
    with pytest.raises(UserError, match=r"already has train\.jsonl"):
        write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.jsonl"]
    assert (tmp_path / "train.jsonl").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot be written"):
        write(tmp_path / "file" / "folder")


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_file = Path.open

    def full(self: Path, *args: str, **kwargs: str) -> object:
        if self.name == "train.jsonl":
            raise OSError(28, "No space left on device")
        return open_file(self, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DiskError, match="No space left"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_it_tells_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["init", str(tmp_path / "店")]) == 0
    assert "tomoni train sft.yaml" in capsys.readouterr().out
