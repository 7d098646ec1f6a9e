from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.engine.faults import FaultyOs, Killed, RecordingOs, put
from tomoni import durable
from tomoni.engine import checkpoint
from tomoni.errors import CheckpointError, DiskError


def fill(content: int, size: int = 200):
    def write(folder: Path) -> None:
        save_file({"w": np.full(size, content, dtype=np.float32)}, folder / "weights.safetensors")
        (folder / "run.json").write_text(
            json.dumps({"step": content, "名前": "共に"}, ensure_ascii=False), encoding="utf-8"
        )
        (folder / "sub").mkdir()
        (folder / "sub" / "empty.txt").touch()

    return write


def content_of(folder: Path) -> int:
    return int(json.loads((folder / "run.json").read_text(encoding="utf-8"))["step"])


def committed(root: Path, *steps: int) -> Path:
    for step in steps:
        checkpoint.commit(checkpoint.step_folder(root, step), fill(step), bytes_needed=2000)
    return root


def test_a_committed_folder_is_whole_and_lists_every_file_with_its_sha256(tmp_path: Path) -> None:
    folder = committed(tmp_path, 7) / "step-000007"
    checkpoint.verify(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"].keys() == {"weights.safetensors", "run.json", "sub/empty.txt"}
    raw = (folder / "weights.safetensors").read_bytes()
    assert manifest["files"]["weights.safetensors"] == {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}


def damage(folder: Path, kind: str, draw: random.Random) -> str:
    """Damage one file of the folder; returns its name."""
    path = draw.choice([file for file in folder.rglob("*") if file.is_file() and file.stat().st_size])
    raw = bytearray(path.read_bytes())
    if kind == "flip":
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    elif kind == "truncate":
        del raw[draw.randrange(len(raw)) :]
    elif kind == "zero tail":
        start = draw.randrange(len(raw))
        if not any(raw[start:]):
            start = 0
        raw[start:] = bytes(len(raw) - start)
    elif kind == "grow":
        raw += b"\0"
    path.write_bytes(raw)
    if kind == "delete":
        path.unlink()
    if kind == "extra":
        path = path.with_name("extra.bin")
        path.write_bytes(b"x")
    return path.relative_to(folder).as_posix()


@pytest.mark.parametrize("kind", ["flip", "truncate", "zero tail", "grow", "delete", "extra"])
def test_every_damage_is_found_and_the_file_named(tmp_path: Path, kind: str) -> None:
    whole = committed(tmp_path, 1) / "step-000001"
    draw = random.Random(f"damage {kind}")
    for trial in range(100):
        broken = tmp_path / f"broken-{trial}"
        shutil.copytree(whole, broken)
        name = damage(broken, kind, draw)
        with pytest.raises(CheckpointError) as caught:
            checkpoint.verify(broken)
        assert name in caught.value.what
        shutil.rmtree(broken)


def test_a_manifest_or_a_shard_of_another_checkpoint_is_found(tmp_path: Path) -> None:
    committed(tmp_path, 1, 2)
    shutil.copy(tmp_path / "step-000001" / "manifest.json", tmp_path / "step-000002" / "manifest.json")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors has other content"):
        checkpoint.verify(tmp_path / "step-000002")
    shutil.copy(tmp_path / "step-000002" / "weights.safetensors", tmp_path / "step-000001" / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors has other content"):
        checkpoint.verify(tmp_path / "step-000001")


def test_a_linked_file_is_not_accepted(tmp_path: Path) -> None:
    folder = committed(tmp_path, 1) / "step-000001"
    shutil.move(folder / "run.json", tmp_path / "elsewhere.json")
    (folder / "run.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(CheckpointError, match=r"run\.json is a link"):
        checkpoint.verify(folder)


def test_the_newest_whole_checkpoint_is_taken_and_the_damaged_ones_are_told(tmp_path: Path) -> None:
    committed(tmp_path, 5, 10, 15, 20)
    damage(tmp_path / "step-000020", "truncate", random.Random(1))
    (tmp_path / "step-000015" / "weights.safetensors").unlink()
    (tmp_path / "step-abc").mkdir()
    found, damaged = checkpoint.newest_whole(tmp_path)
    assert found == tmp_path / "step-000010"
    assert [entry.folder.name for entry in damaged] == ["step-000020", "step-000015"]
    assert "weights.safetensors is missing" in damaged[1].reason
    assert checkpoint.newest_whole(tmp_path / "nowhere") == (None, [])


def test_a_checkpoint_set_aside_counts_for_nothing(tmp_path: Path) -> None:
    committed(tmp_path, 5, 10)
    assert checkpoint.set_aside(tmp_path / "step-000010").name == "damaged-step-000010"
    assert [folder.name for folder in checkpoint.step_folders(tmp_path)] == ["step-000005"]


def test_the_newest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    committed(tmp_path, 1, 2, 3, 4, 5)
    gone = checkpoint.retain(tmp_path, newest=2, also=tmp_path / "step-000002")
    assert [folder.name for folder in gone] == ["step-000001", "step-000003"]
    assert [folder.name for folder in checkpoint.step_folders(tmp_path)] == [
        "step-000002",
        "step-000004",
        "step-000005",
    ]
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_steps_beyond_six_digits_keep_their_order(tmp_path: Path) -> None:
    committed(tmp_path, 999_999, 1_000_000)
    assert checkpoint.newest_whole(tmp_path)[0] == tmp_path / "step-1000000"


def operations_of(action) -> int:
    counter = FaultyOs()
    with pytest.MonkeyPatch.context() as patch:
        put(patch, counter)
        action()
    return counter.count


@pytest.mark.parametrize("replacing", [False, True])
def test_killed_at_any_operation_of_a_save_the_old_or_the_new_state_is_found(tmp_path: Path, replacing: bool) -> None:
    def old(root: Path) -> None:
        committed(root, 1)

    def new(root: Path) -> None:
        name = 1 if replacing else 2
        checkpoint.commit(checkpoint.step_folder(root, name), fill(2), bytes_needed=2000)

    def kill(operation: str) -> None:
        raise Killed

    old(tmp_path / "count")
    operations = operations_of(lambda: new(tmp_path / "count"))
    assert operations >= 12
    found = []
    for at in range(operations + 1):
        root = tmp_path / f"run-{at}"
        old(root)
        with pytest.MonkeyPatch.context() as patch:
            put(patch, FaultyOs(at, kill))
            if at < operations:
                with pytest.raises(Killed):
                    new(root)
            else:
                new(root)
        newest, damaged = checkpoint.newest_whole(root)
        assert newest is not None and damaged == []
        found.append(content_of(newest))
        assert not any(path.name.startswith(".") for path in root.iterdir())
    assert found == sorted(found) and set(found) == {1, 2}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE])
def test_a_disk_error_at_any_operation_leaves_the_old_checkpoint_and_is_named(tmp_path: Path, code: int) -> None:
    def refuse(operation: str) -> None:
        raise OSError(code, os.strerror(code))

    committed(tmp_path / "count", 1)
    operations = operations_of(lambda: committed(tmp_path / "count", 2))
    for at in range(operations):
        root = committed(tmp_path / f"run-{at}", 1)
        with pytest.MonkeyPatch.context() as patch:
            put(patch, FaultyOs(at, refuse))
            with pytest.raises(DiskError) as caught:
                committed(root, 2)
        assert "step-000002" in caught.value.what and "2,000 bytes" in caught.value.what
        assert caught.value.next_step
        checkpoint.verify(root / "step-000001")
        # the very last operation brings a rename that has happened to the disk: then the new one may stand there, whole
        assert content_of(checkpoint.newest_whole(root)[0] or root) in (1, 2)
        committed(root, 3)
        assert checkpoint.newest_whole(root)[0] == root / "step-000003"


def test_everything_is_on_the_disk_before_the_rename_and_the_rename_right_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut may take back is what was not synced: nothing of a checkpoint that has its name."""
    recorded = RecordingOs()
    put(monkeypatch, recorded)
    final = committed(tmp_path, 1) / "step-000001"
    staging = tmp_path / ".staging-step-000001"
    at = recorded.log.index(("rename", str(staging), str(final)))
    synced = {path for operation, path, _ in recorded.log[:at] if operation == "fsync"}
    written = {staging, staging / "sub", *(staging / path.relative_to(final) for path in final.rglob("*"))}
    assert synced >= {str(path) for path in written} and len(written) == 6
    assert ("fsync", str(tmp_path), "") in recorded.log[at:]

    recorded.log.clear()
    durable.atomic_write(tmp_path / "status.json", "状態")
    aside = str(tmp_path / ".staging-status.json")
    assert recorded.log == [
        ("fsync", aside, ""), ("rename", aside, str(tmp_path / "status.json")), ("fsync", str(tmp_path), ""),
    ]  # fmt: skip


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path) -> None:
    committed(tmp_path, 1)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DiskError) as caught:
        checkpoint.commit(tmp_path / "step-000002", fill(2), bytes_needed=1 << 60)
    assert str(tmp_path) in caught.value.what and "1,152,921,504,606,846,976 bytes" in caught.value.what
    assert sorted(tmp_path.rglob("*")) == before


def test_an_error_in_what_writes_leaves_nothing_behind(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise ValueError("a programmer's mistake")

    with pytest.raises(ValueError, match="a programmer's mistake"):
        checkpoint.commit(tmp_path / "step-000001", write, bytes_needed=0)
    assert list(tmp_path.iterdir()) == []


def test_a_small_file_is_old_or_new_whenever_the_write_is_killed(tmp_path: Path) -> None:
    def kill(operation: str) -> None:
        raise Killed

    path = tmp_path / "status.json"
    operations = operations_of(lambda: durable.atomic_write(path, "古い"))
    for at in range(operations):
        durable.atomic_write(path, "古い")
        with pytest.MonkeyPatch.context() as patch:
            put(patch, FaultyOs(at, kill))
            with pytest.raises(Killed):
                durable.atomic_write(path, "新しい")
        assert path.read_text(encoding="utf-8") in ("古い", "新しい")
    checkpoint.recover(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.slow
def test_on_a_small_disk_every_size_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    """A tmpfs of 40 sizes; the check of free space is switched off, so that the disk itself says no."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not permit user namespaces")
    results = set()
    for size in range(24, 24 + 40 * 8, 8):
        command = f"mount -t tmpfs -o size={size}k none {tmp_path} && {sys.executable} - {tmp_path}"
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", command], input=ON_A_SMALL_DISK, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        results.add(done.stdout.strip())
    assert results == {"1", "2"}


ON_A_SMALL_DISK = """
import sys
from pathlib import Path
from tests.engine.test_checkpoint import content_of, fill
from tomoni import durable
from tomoni.engine import checkpoint
from tomoni.errors import DiskError
checkpoint.require_space = lambda folder, bytes_needed: None
root = Path(sys.argv[1])
checkpoint.commit(root / "step-000001", fill(1, 1000), bytes_needed=0)
try:
    checkpoint.commit(root / "step-000002", fill(2, 60_000), bytes_needed=0)
    expected = 2
except DiskError as error:
    assert "no space left" in error.what, error.what
    expected = 1
found, damaged = checkpoint.newest_whole(root)
assert content_of(found) == expected and damaged == [], (found, damaged)
print(expected)
"""
