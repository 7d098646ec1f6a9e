"""The store of kept outputs under damage, full disks, kills and company: slow at worst, never wrong."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.engine.faults import FaultyOs, Killed
from tests.engine.items import random_items
from tests.engine.kept_rows import WIDTH, key, states
from tests.engine.test_frozen import assert_identical, keeping, model, part, updates
from tomoni.engine import kept
from tomoni.engine.kept import KeptOutputs, make_room


def store(folder: Path, *, room: int = 10**6, dtype: str = "float32") -> KeptOutputs:
    return KeptOutputs(folder, width=WIDTH, dtype=dtype, room=room)


def filled(folder: Path, numbers: range = range(10)) -> KeptOutputs:
    found = store(folder)
    assert all(found.put(key(number), states(number)) for number in numbers)
    return found


def right(found: KeptOutputs, numbers: range) -> list[int]:
    """The numbers whose states are there; what is there is what was written."""
    there = []
    for number in numbers:
        got = found.get(key(number))
        if got is not None:
            np.testing.assert_array_equal(got, states(number))
            there.append(number)
    return there


def the_file(folder: Path, suffix: str) -> Path:
    (path,) = folder.glob("*" + suffix)
    return path


def test_what_was_put_is_there_for_this_process_and_for_the_next(tmp_path: Path) -> None:
    mine = filled(tmp_path)
    assert right(mine, range(12)) == list(range(10)) == right(store(tmp_path), range(12))
    assert mine.trouble is None and mine.get(key(11)) is None and len(mine) == 10


def test_states_come_back_to_the_bit_also_where_they_are_no_numbers(tmp_path: Path) -> None:
    odd = np.array([[0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4e38, -1.5]], dtype=np.float32)
    store(tmp_path).put(key(0), odd)
    got = store(tmp_path).get(key(0))
    assert got is not None and got.tobytes() == odd.tobytes()


def test_any_flipped_byte_of_the_states_is_found_and_only_its_row_is_lost(tmp_path: Path) -> None:
    filled(tmp_path).close()
    path = the_file(tmp_path, ".states")
    whole = path.read_bytes()
    for place in range(0, len(whole), 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        found = store(tmp_path)
        assert len(right(found, range(10))) == 9
        assert found.trouble is not None and path.name in found.trouble


@pytest.mark.parametrize("suffix", [".states", ".index"])
def test_a_file_cut_at_any_place_keeps_the_rows_before_it(suffix: str, tmp_path: Path) -> None:
    filled(tmp_path).close()
    path = the_file(tmp_path, suffix)
    whole = path.read_bytes()
    counts = []
    for length in range(0, len(whole), 29):
        path.write_bytes(whole[:length])
        there = right(store(tmp_path), range(10))
        assert there == list(range(len(there)))
        counts.append(len(there))
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] >= 8


def test_a_file_cut_while_it_is_mapped_does_not_end_the_process(tmp_path: Path) -> None:
    found = filled(tmp_path)
    assert right(found, range(10)) == list(range(10))
    os.truncate(the_file(tmp_path, ".states"), 100)  # the first two rows have 32 and 64 bytes
    assert right(found, range(10)) == [0, 1]


@pytest.mark.parametrize("garbage", [b"\xff" * 999, b"\0" * 400, "置き換えられた".encode() * 50])
def test_an_index_of_anything_is_an_empty_one(garbage: bytes, tmp_path: Path) -> None:
    filled(tmp_path).close()
    the_file(tmp_path, ".index").write_bytes(garbage)
    assert len(store(tmp_path)) == 0


def test_states_that_are_missing_or_replaced_are_not_believed(tmp_path: Path) -> None:
    filled(tmp_path).close()
    path = the_file(tmp_path, ".states")
    path.write_bytes(b"\0" * path.stat().st_size)  # as after a power failure: the length is there, the data is not
    assert right(store(tmp_path), range(10)) == []
    path.unlink()
    assert right(store(tmp_path), range(10)) == []


def test_what_is_damaged_is_put_again(tmp_path: Path) -> None:
    filled(tmp_path).close()
    the_file(tmp_path, ".states").write_bytes(b"")
    again = filled(tmp_path)
    assert right(again, range(10)) == list(range(10)) == right(store(tmp_path), range(10))


def test_no_more_is_written_than_there_is_room_for(tmp_path: Path) -> None:
    found = store(tmp_path, room=1000)
    taken = [number for number in range(40) if found.put(key(number), states(number))]
    size = the_file(tmp_path, ".states").stat().st_size
    assert 800 < size <= 1000 and 0 < len(taken) < 40
    assert right(found, range(40)) == taken


class Failing(FaultyOs):
    """All writes fail from the one numbered `at` on."""

    def mark(self, operation: str) -> None:
        self.count += 1
        if self.at is not None and self.count > self.at and operation == "write":
            self.fault(operation)


def no_space(operation: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("at", [2, 3, 8, 9])
def test_a_full_disk_ends_the_keeping_gives_the_room_back_and_is_said(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, range(4)).close()
    monkeypatch.setattr(kept, "os", Failing(at, no_space))
    found = store(tmp_path)
    taken = [number for number in range(4, 20) if found.put(key(number), states(number))]
    assert len(taken) == (at - 2) // 2  # two files are opened, then two writes a row
    assert found.trouble is not None and "No space left" in found.trouble
    assert right(found, range(20)) == [0, 1, 2, 3]  # what others kept stays
    assert len(list(tmp_path.iterdir())) == 2


def test_after_a_failed_write_nothing_more_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has room again at once: others need it more."""
    monkeypatch.setattr(kept, "os", FaultyOs(4, no_space))
    found = store(tmp_path)
    assert [number for number in range(10) if found.put(key(number), states(number))] == [0]
    assert right(found, range(10)) == [] and list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_a_part_of_a_write_gets_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:5]))
    filled(tmp_path)
    assert right(store(tmp_path), range(10)) == list(range(10))


def killed(operation: str) -> None:
    raise Killed


def test_killed_before_any_write_or_open_no_row_is_there_that_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = set()
    for at in range(22):
        folder = tmp_path / str(at)
        with monkeypatch.context() as patch:
            patch.setattr(kept, "os", FaultyOs(at, killed))
            with pytest.raises(Killed):
                filled(folder)
        counts.add(len(right(store(folder), range(10))))
        assert right(filled(folder), range(10)) == list(range(10))  # and the next process completes it
    assert counts == set(range(10))


def test_a_process_killed_at_a_random_moment_leaves_whole_rows(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.engine.kept_rows import *\n"
        "from tomoni.engine.kept import KeptOutputs\n"
        "mine = KeptOutputs(Path(sys.argv[1]), width=WIDTH, dtype='float32', room=10**9)\n"
        "print('begun', flush=True)\n"
        "for number in range(10**7): mine.put(key(number), states(number))\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=root,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while not any(path.stat().st_size > 3000 for path in tmp_path.glob("*.index")):
            assert process.poll() is None
        process.kill()
    found = store(tmp_path)
    assert len(found) >= 70 and right(found, range(len(found))) == list(range(len(found)))


def test_two_runs_at_once_write_beside_each_other(tmp_path: Path) -> None:
    one, other = store(tmp_path), store(tmp_path)
    for number in range(20):
        assert one.put(key(number), states(number)) and other.put(key(number + 10), states(number + 10))
    assert right(one, range(30)) == list(range(20)) and right(other, range(30)) == list(range(10, 30))
    assert right(store(tmp_path), range(30)) == list(range(30))


# -- in a training ---------------------------------------------------------------------------------------------------


def deleted(folder: Path) -> None:
    shutil.rmtree(folder)


def cut(folder: Path) -> None:
    for path in folder.glob("*.states"):
        os.truncate(path, path.stat().st_size // 3)


def scrambled(folder: Path) -> None:
    for path in folder.glob("*.states"):
        path.write_bytes(bytes(byte ^ 255 for byte in path.read_bytes()))


@pytest.mark.parametrize("harm", [deleted, cut, scrambled])
def test_a_store_harmed_between_two_runs_or_during_one_changes_no_bit(
    harm: Callable[[Path], None], tmp_path: Path
) -> None:
    items = random_items(8)
    expected = updates(keeping(part(model(), "top:1"), tmp_path / "whole"), 6, items)
    folder = tmp_path / "harmed"
    updates(keeping(part(model(), "top:1"), folder), 2, items)
    harm(folder)
    said: list[str] = []
    engine = keeping(part(model(), "top:1"), folder, say=said.append)
    updates(engine, 3, items)
    if harm is not scrambled:  # what has been compared once is not compared again
        harm(folder)
    assert_identical(expected, updates(engine, 3, items))
    assert said and len(said) == len(set(said))


def test_a_disk_that_fills_up_during_a_training_changes_no_bit_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = random_items(8)
    expected = updates(keeping(part(model(), "top:1"), tmp_path / "whole"), 6, items)
    monkeypatch.setattr(kept, "os", Failing(9, no_space))
    said: list[str] = []
    assert_identical(expected, updates(keeping(part(model(), "top:1"), tmp_path / "full", say=said.append), 6, items))
    assert len(said) == 1 and "No space left" in said[0] and "computed again" in said[0]


# -- room ------------------------------------------------------------------------------------------------------------

Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda free: monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(10**9, 0, free))


def old_store(root: Path, name: str, size: int, age: int) -> Path:
    (root / name).mkdir()
    for suffix in (".states", ".index"):
        path = root / name / f"1-a{suffix}"
        path.write_bytes(b"x" * (size if suffix == ".states" else 0))
        os.utime(path, (10**9 - age, 10**9 - age))
    return root / name / "1-a.states"


def test_a_quarter_of_the_free_disk_is_the_most(tmp_path: Path, disk: Callable[[int], None]) -> None:
    disk(4000)
    assert make_room(tmp_path / "not" / "there", "name", 1000) == 1000
    assert make_room(tmp_path / "not" / "there", "name", 1001) is None


def test_what_the_store_holds_already_is_not_needed_again(tmp_path: Path, disk: Callable[[int], None]) -> None:
    """900 of 1000 bytes were written by a run that goes on now: the disk has 900 less, the run needs 100 more."""
    old_store(tmp_path, "mine", 900, age=0)
    disk(4000 - 900)
    assert make_room(tmp_path, "mine", 1000) == 100


def test_older_stores_of_other_models_make_room(tmp_path: Path, disk: Callable[[int], None]) -> None:
    older, newer = old_store(tmp_path, "older", 500, age=20), old_store(tmp_path, "newer", 300, age=10)
    disk(4000 - 800)
    assert make_room(tmp_path, "mine", 150) == 150 and older.exists() and newer.exists()
    assert make_room(tmp_path, "mine", 600) == 600 and not older.exists() and newer.exists()
    assert make_room(tmp_path, "mine", 1001) is None and newer.exists()
