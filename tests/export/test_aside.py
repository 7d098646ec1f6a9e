"""An export is written aside, and its name is a rename that was tried before."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tomoni.engine import checkpoint
from tomoni.errors import DiskError
from tomoni.export import aside
from tomoni.export.aside import Aside, sweep


def _finished(output: Path, put: str = "模型") -> Path:
    with Aside(output) as made:
        (made.files / "weights").write_text(put, encoding="utf-8")
        return made.put_in_place(output)


def test_what_was_put_in_place_is_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    output = tmp_path / "新しい" / "箱" / "out"
    assert _finished(output) == output
    checkpoint.verify(output)
    assert [path.name for path in output.parent.iterdir()] == ["out"]
    assert sorted(path.name for path in output.iterdir()) == [checkpoint.MANIFEST, "weights"]


def test_work_that_fails_leaves_no_folder_that_it_made_and_every_other(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "out").mkdir(mode=0o750)
    before = os.stat(tmp_path / "kept" / "out")
    for output in (tmp_path / "a" / "b" / "out", tmp_path / "kept" / "out"):
        with pytest.raises(ZeroDivisionError), Aside(output) as made:
            (made.files / "half").write_text("半分")
            raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    after = os.stat(tmp_path / "kept" / "out")
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


def test_a_parent_that_somebody_uses_meanwhile_stays(tmp_path: Path) -> None:
    with Aside(tmp_path / "a" / "out"):
        (tmp_path / "a" / "note").write_text("mine")
    assert (tmp_path / "a" / "note").is_file()


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_an_output_that_came_to_be_meanwhile_is_kept_and_the_export_stands_beside_it(tmp_path: Path, kind: str) -> None:
    output = tmp_path / "out"
    with Aside(output) as made:
        (made.files / "weights").write_text("ours")
        match kind:
            case "folder":
                output.mkdir()
                (output / "theirs").write_text("theirs")
            case "file":
                output.write_text("theirs")
            case _:
                output.symlink_to(tmp_path)
        stood = made.put_in_place(output)
    assert stood == tmp_path / "out-2" and (stood / "weights").read_text() == "ours"
    assert output.is_symlink() or "theirs" in (
        (output / "theirs").read_text() if kind == "folder" else output.read_text()
    )
    checkpoint.verify(stood)


def test_two_exports_to_one_name_both_stay(tmp_path: Path) -> None:
    with Aside(tmp_path / "out") as first, Aside(tmp_path / "out") as second:
        for made, text in ((first, "1"), (second, "2")):
            (made.files / "weights").write_text(text)
        assert first.put_in_place(tmp_path / "out").name == "out"
        assert second.put_in_place(tmp_path / "out").name == "out-2"


def test_a_folder_swept_before_it_has_its_lock_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another export sweeps between the making of the folder and its lock."""
    known, swept = aside.locking.take, []

    def late(path: Path) -> object:
        if not swept:
            swept.append(path.parent)
            sweep(tmp_path)
        return known(path)

    monkeypatch.setattr(aside.locking, "take", late)
    assert _finished(tmp_path / "out") == tmp_path / "out"
    assert swept and not swept[0].exists()


def test_an_empty_output_of_an_images_layer_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An overlay file system does not move such a folder, and lets another take its place."""
    output, known = tmp_path / "out", os.rename
    output.mkdir()

    def overlay(source: Path, target: Path) -> None:
        if source == output:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        known(source, target)

    monkeypatch.setattr(os, "rename", overlay)
    assert _finished(output) == output and (output / "weights").is_file()


def test_a_folder_that_may_not_be_written_to_is_said_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*anything: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(aside.tempfile, "mkdtemp", refused)
    with pytest.raises(DiskError, match="no permission to write"):
        Aside(tmp_path / "a" / "out")
    assert not list(tmp_path.iterdir())
