"""Versions and the pointer to the one that is served: whole at every kill, checked at every load."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.engine.faults import FaultyOs, Killed
from tomoni import durable, registry
from tomoni.errors import DiskError, ModelError, RegistryError
from tomoni.registry import Registry


def model(folder: Path, content: str = "重み") -> Path:
    """A folder that looks like a model to whoever hashes it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (folder / "model.safetensors").write_text(content, encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    return folder


def adapter(folder: Path, base: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_text("小さな差", encoding="utf-8")
    return folder


@pytest.fixture
def two(tmp_path: Path) -> Registry:
    """v1 is served, v2 is there."""
    opened = Registry.open(tmp_path)
    opened.register(model(tmp_path / "one", "一"), method="sft")
    opened.register(model(tmp_path / "two", "二"), base="v1", method="dpo")
    opened.promote("v1", reason="最初", by="山田")
    return opened


# -- versions --------------------------------------------------------------------------------------------------------


def test_what_is_registered_is_found_again_with_its_lineage(tmp_path: Path) -> None:
    opened = Registry.open(tmp_path)
    first = opened.register(model(tmp_path / "a"))
    second = opened.register(
        model(tmp_path / "b", "別"),
        base="v1",
        method="dpo",
        config={"beta": 0.1},
        snapshot="f00d",
        judgements=84,
        people=["花子", "Bob"],
        evaluation={"win_rate": {"value": 0.6, "low": 0.52, "high": 0.68}},
        cost={"seconds": 41.5},
        note="敬語を直した",
    )
    assert (first.id, second.id) == ("v1", "v2")
    again = Registry.open(tmp_path)
    assert again.versions() == [first, second]
    assert again.get("v2") == second and second.people == ("花子", "Bob") and second.base == "v1"
    assert again.current() is None


def test_the_hash_is_that_of_sha256sum_over_the_files_that_decide_what_the_model_says(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    (folder / "README.md").write_text("a card may change", encoding="utf-8")
    (folder / "parity.json").write_text("{}", encoding="utf-8")
    names = ["config.json", "model.safetensors", "tokenizer.json"]
    lines = "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    opened = Registry.open(tmp_path)
    version = opened.register(folder)
    assert version.hash == hashlib.sha256(lines.encode()).hexdigest()
    (folder / "README.md").write_text("it has changed", encoding="utf-8")
    opened.verify(version)


def test_an_adapters_hash_holds_its_bases_files_too(tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    opened = Registry.open(tmp_path)
    version = opened.register(adapter(tmp_path / "lora", str(base)))
    assert set(version.files) == {
        "adapter_config.json", "adapter_model.safetensors",
        "base/config.json", "base/model.safetensors", "base/tokenizer.json",
    }  # fmt: skip
    (base / "model.safetensors").write_text("他の重み", encoding="utf-8")
    with pytest.raises(RegistryError, match=r"base/model\.safetensors has changed"):
        opened.verify(version)


def test_a_runs_folder_stands_for_its_result_and_a_bundled_model_for_itself(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("method: sft\n", encoding="utf-8")
    model(run / "model")
    opened = Registry.open(tmp_path)
    version = opened.register(run)
    assert version.model == str(run / "model") and version.run == str(run)
    assert opened.register("bundled:small").model == "bundled:small"


def test_registering_the_same_thing_again_gives_the_version_that_is_there(two: Registry, tmp_path: Path) -> None:
    assert two.register(tmp_path / "two", base="v1", method="dpo").id == "v2"
    assert two.register(tmp_path / "two", base="v1", snapshot="another").id == "v3"
    assert [version.id for version in two.versions()] == ["v1", "v2", "v3"]


def test_a_workspace_that_is_moved_finds_the_models_inside_it(tmp_path: Path) -> None:
    before = tmp_path / "before"
    opened = Registry.open(model(before / "learn" / "model").parents[1])
    opened.register(before / "learn" / "model")
    opened.promote("v1")
    shutil.move(before, tmp_path / "after")
    moved = Registry.open(tmp_path / "after")
    version = moved.current()
    assert version is not None and version.model == str(tmp_path / "after" / "learn" / "model")
    moved.verify(version)


def test_what_is_unknown_is_said_with_what_there_is(two: Registry, tmp_path: Path) -> None:
    for wrong in ("v3", "v02", "two", "../v1", "v1/..", ""):
        with pytest.raises(RegistryError) as caught:
            two.get(wrong)
        assert caught.value.choices == ("v1", "v2") and repr(wrong) in caught.value.what
    with pytest.raises(RegistryError):
        two.register(tmp_path / "two", base="v9")
    with pytest.raises(ModelError):
        two.register(tmp_path / "nowhere")
    with pytest.raises(RegistryError):
        Registry.open(tmp_path / "nowhere")
    assert len(two.versions()) == 2


# -- damage ----------------------------------------------------------------------------------------------------------


def test_a_model_that_has_changed_is_not_promoted_and_each_file_is_named(two: Registry, tmp_path: Path) -> None:
    (tmp_path / "two" / "model.safetensors").write_bytes(b"\0" * 6)
    (tmp_path / "two" / "tokenizer.json").unlink()
    (tmp_path / "two" / "chat_template.jinja").write_text("", encoding="utf-8")
    with pytest.raises(RegistryError) as caught:
        two.promote("v2")
    for said in (
        "tokenizer.json is missing",
        "chat_template.jinja was not there before",
        "model.safetensors has changed",
    ):
        assert said in caught.value.what
    assert two.current() == two.get("v1") and len(two.history()) == 1


def test_every_flipped_byte_of_the_registrys_files_is_noticed_and_the_file_is_named(two: Registry) -> None:
    for path in (two.workspace / "current.json", two.workspace / "versions" / "v2" / "version.json"):
        whole = path.read_bytes()
        for at in range(0, len(whole), 3):
            changed = bytes([*whole[:at], whole[at] ^ 1, *whole[at + 1 :]])
            if _says_the_same(whole, changed):
                continue
            path.write_bytes(changed)
            with pytest.raises(RegistryError) as caught:
                two.history()
                two.versions()
            assert str(path) in caught.value.what and caught.value.next_step
        for cut in (b"", whole[: len(whole) // 2], b"\0" * len(whole), b"[]", b"\xff"):
            path.write_bytes(cut)
            with pytest.raises(RegistryError):
                two.history()
                two.versions()
        path.write_bytes(whole)
    assert len(two.versions()) == 2


def _says_the_same(one: bytes, other: bytes) -> bool:
    """White space between values, for example."""
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def test_after_damage_to_the_pointer_a_promotion_begins_anew_and_keeps_the_damaged_file(two: Registry) -> None:
    path = two.workspace / "current.json"
    path.write_bytes(b"\0" * 100)
    with pytest.raises(RegistryError, match="damaged"):
        two.rollback()
    assert two.promote("v2").id == "v2"
    assert [move.version for move in two.history()] == ["v2"]
    assert (two.workspace / "damaged-current.json").read_bytes() == b"\0" * 100


# -- the pointer -----------------------------------------------------------------------------------------------------


def test_promoting_twice_is_promoting_once(two: Registry) -> None:
    before = (two.workspace / "current.json").read_bytes()
    two.promote("v1", reason="もう一度")
    assert (two.workspace / "current.json").read_bytes() == before
    two.promote("v2", reason="勝率 60 %", by="花子")
    two.promote("v2")
    assert [(move.number, move.kind, move.version, move.previous) for move in two.history()] == [
        (1, "promote", "v1", None),
        (2, "promote", "v2", "v1"),
    ]
    assert two.history()[1].reason == "勝率 60 %" and two.history()[1].by == "花子"


def test_rolling_back_goes_one_further_back_each_time_and_ends_at_the_first(two: Registry, tmp_path: Path) -> None:
    two.register(model(tmp_path / "three", "三"), base="v2")
    two.promote("v2")
    two.promote("v3")
    assert two.rollback(reason="苦情").id == "v2"
    assert two.rollback().id == "v1"
    with pytest.raises(RegistryError, match="v1 was the first"):
        two.rollback()
    two.promote("v3")
    assert two.rollback().id == "v1"
    assert [(move.kind, move.version) for move in two.history()][2:] == [
        ("promote", "v3"), ("rollback", "v2"), ("rollback", "v1"), ("promote", "v3"), ("rollback", "v1"),
    ]  # fmt: skip


def test_nothing_to_roll_back_to_is_said(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="nothing was promoted yet"):
        Registry.open(tmp_path).rollback()


def test_a_rollback_to_a_damaged_version_leaves_what_is_served(two: Registry, tmp_path: Path) -> None:
    two.promote("v2")
    (tmp_path / "one" / "model.safetensors").unlink()
    with pytest.raises(RegistryError, match=r"model\.safetensors is missing"):
        two.rollback()
    assert two.current() == two.get("v2")


def everywhere(patch: pytest.MonkeyPatch, stand_in: Any) -> None:
    for module in (durable, registry):
        patch.setattr(module, "os", stand_in)


def killed_at_each(root: Path, prepare: Callable[[Path], Registry], act: Callable[[Registry], object]) -> list[str]:
    """The version served after `act` was killed before its n-th operation on the disk, for every n, and not killed."""

    def kill(operation: str) -> None:
        raise Killed

    counter = FaultyOs()
    counted = prepare(root / "counted")
    with pytest.MonkeyPatch.context() as patch:
        everywhere(patch, counter)
        act(counted)
    served = []
    for at in range(counter.count + 1):
        opened = prepare(root / f"killed-{at}")
        with pytest.MonkeyPatch.context() as patch:
            everywhere(patch, FaultyOs(at, kill))
            if at < counter.count:
                with pytest.raises(Killed):
                    act(opened)
            else:
                act(opened)
        found = opened.current()
        assert found is not None
        opened.verify(found)
        served.append(found.id)
        act(opened)  # and it can be done again at once
    return served


def prepared(root: Path, *, served: str) -> Registry:
    root.mkdir(parents=True)
    opened = Registry.open(root)
    for number, content in enumerate("一二", start=1):
        opened.register(model(root / f"model-{number}", content))
        opened.promote(f"v{number}")
        if served == f"v{number}":
            break
    if served == "v1":
        opened.register(model(root / "model-2", "二"))
    opened.register(model(root / "model-0", "零"))
    return opened


def test_killed_at_any_operation_of_a_promotion_the_old_or_the_new_version_is_served(tmp_path: Path) -> None:
    served = killed_at_each(tmp_path, lambda root: prepared(root, served="v1"), lambda opened: opened.promote("v2"))
    assert served == sorted(served) and set(served) == {"v1", "v2"} and len(served) >= 6


def test_killed_at_any_operation_of_a_rollback_the_old_or_the_new_version_is_served(tmp_path: Path) -> None:
    def rollback(opened: Registry) -> None:
        current = opened.current()
        if current and current.id == "v2":
            opened.rollback()

    served = killed_at_each(tmp_path, lambda root: prepared(root, served="v2"), rollback)
    assert served == sorted(served, reverse=True) and set(served) == {"v1", "v2"} and len(served) >= 6


def test_killed_at_any_operation_of_registering_the_version_is_there_once_or_not_at_all(tmp_path: Path) -> None:
    def kill(operation: str) -> None:
        raise Killed

    at, done = 0, False
    while not done:
        root = tmp_path / str(at)
        opened = Registry.open(model(root / "m").parent)
        with pytest.MonkeyPatch.context() as patch:
            everywhere(patch, FaultyOs(at, kill))
            try:
                opened.register(root / "m")
                done = True
            except Killed:
                pass
        assert len(opened.versions()) <= 1
        assert opened.register(root / "m").id == "v1"
        assert [path.name for path in (root / "versions").iterdir()] == ["v1"]
        at += 1
    assert at >= 8


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EMFILE])
def test_a_disk_error_at_any_operation_of_a_promotion_is_named_and_the_pointer_is_whole(
    tmp_path: Path, code: int
) -> None:
    def refuse(operation: str) -> None:
        raise OSError(code, os.strerror(code))

    counter = FaultyOs()
    with pytest.MonkeyPatch.context() as patch:
        everywhere(patch, counter)
        prepared_here = prepared(tmp_path / "counted", served="v1")
        counter.count = 0
        prepared_here.promote("v2")
    for at in range(counter.count):
        opened = prepared(tmp_path / str(at), served="v1")
        with pytest.MonkeyPatch.context() as patch:
            everywhere(patch, FaultyOs(at, refuse))
            with pytest.raises(DiskError) as caught:
                opened.promote("v2")
        assert str(opened.workspace) in caught.value.what and caught.value.next_step
        served = opened.current()
        assert served is not None and served.id in ("v1", "v2")
        assert opened.promote("v2").id == "v2"


def _promote(workspace: str, turn: int) -> None:
    opened = Registry.open(workspace)
    for number in range(10):
        opened.promote(f"v{1 + (turn + number) % 2}", by=str(turn))


def test_promoters_at_the_same_time_come_one_after_the_other(two: Registry) -> None:
    """Each move begins where the one before it ended: none is lost, none overwrites another."""
    context = multiprocessing.get_context("fork")
    promoters = [context.Process(target=_promote, args=(str(two.workspace), turn)) for turn in range(6)]
    for promoter in promoters:
        promoter.start()
    for promoter in promoters:
        promoter.join()
    assert [promoter.exitcode for promoter in promoters] == [0] * 6
    history = two.history()
    assert [move.number for move in history] == list(range(1, len(history) + 1))
    assert all(later.previous == move.version != later.version for move, later in itertools.pairwise(history))
    assert len({move.by for move in history}) > 1


def _register(workspace: str, number: int) -> None:
    Registry.open(workspace).register(model(Path(workspace) / f"new-{number}", f"重み {number}"))


def test_versions_registered_at_the_same_time_get_numbers_of_their_own(two: Registry) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_register, args=(str(two.workspace), number)) for number in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [version.id for version in two.versions()] == [f"v{number}" for number in range(1, 9)]


class Pointer(RuleBasedStateMachine):
    """Any sequence of moves against a list: the stack of what was served."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.known: list[str] = []

    @initialize()
    def begin(self) -> None:
        self.root = Path(os.environ["TOMONI_TEST_ROOT"]) / str(len(os.listdir(os.environ["TOMONI_TEST_ROOT"])))
        self.root.mkdir()
        self.registry = Registry.open(self.root)

    @rule()
    def register(self) -> None:
        number = len(self.known) + 1
        self.known.append(self.registry.register(model(self.root / f"m{number}", str(number))).id)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def promote(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(self.known))
        self.registry.promote(chosen)
        if not self.stack or self.stack[-1] != chosen:
            self.stack.append(chosen)

    @rule()
    def rollback(self) -> None:
        if len(self.stack) < 2:
            with pytest.raises(RegistryError):
                self.registry.rollback()
        else:
            self.stack.pop()
            assert self.registry.rollback().id == self.stack[-1]

    @invariant()
    def the_same_is_served(self) -> None:
        if hasattr(self, "registry"):
            current = Registry.open(self.root).current()
            assert (current.id if current else None) == (self.stack[-1] if self.stack else None)
            assert [version.id for version in self.registry.versions()] == self.known


def test_any_sequence_of_moves_serves_what_a_plain_stack_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    monkeypatch.setenv("TOMONI_TEST_ROOT", str(tmp_path))
    run_state_machine_as_test(
        Pointer,
        settings=settings(
            max_examples=25,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
