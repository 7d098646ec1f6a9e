"""The item store and the stream: what is written comes back, whole or not at all, and every item once an epoch."""

from __future__ import annotations

import itertools
import json
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tomoni.data.pack import Packed, first_fit
from tomoni.data.render import Renderer, TooLong
from tomoni.data.store import ItemStore, build, cache_key, verify
from tomoni.data.stream import Permutation, Stream
from tomoni.errors import DataError, DiskError
from tomoni.records import Record, Source, Text
from tomoni.rows import Item, Row
from tomoni.settings.sft import Config


def records(count: int = 5) -> Iterator[Record]:
    for index in range(count):
        yield Text(f"記録{index}", Source("a.txt", index + 1), "猫" * (index + 1))


def full_row(length: int, label: object = None) -> Row:
    def floats(shift: float) -> np.ndarray:
        return np.linspace(0, 1, length, dtype=np.float32) + np.float32(shift)

    return Row(
        np.arange(length, dtype=np.int32) + 7,
        np.r_[0, np.ones(length - 1)].astype(np.float32),
        targets=np.arange(length, dtype=np.int32),
        segments=np.ones(length, dtype=np.int8),
        offsets=np.arange(2 * length, dtype=np.int32).reshape(length, 2),
        behaviour=floats(1),
        reference=floats(2),
        advantages=floats(3),
        returns=floats(4),
        values=floats(5),
        label=label,  # type: ignore[arg-type]
    )


def bare_row(length: int) -> Row:
    return Row(np.arange(length, dtype=np.int32), np.r_[0, np.ones(length - 1)].astype(np.float32))


LABELS: list[object] = [
    3, 0.1, (2, 5), np.asarray([0.1, 1e-30], dtype=np.float32), np.asarray([1, 2**40], dtype=np.int64), None
]  # fmt: skip


def some_items(record: Record) -> list[Item]:
    assert isinstance(record, Text)
    size = (len(record.text) - 1) % 5 + 1
    rows = (full_row(size + 1, LABELS[size]), bare_row(size), full_row(size, LABELS[size - 1]))
    return [Item(record.id, rows, weight=0.1 * size, margin=1 / 3, noise=0.25), Item(record.id + "b", (bare_row(1),))]


def built(folder: Path, key: str = "k", count: int = 5) -> ItemStore:
    return build(records(count), some_items, key=key, folder=folder)


def same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    return type(one) is type(other) and one == other


def test_items_come_back_bit_for_bit_with_all_their_columns(tmp_path: Path) -> None:
    store = built(tmp_path)
    wanted = [item for record in records() for item in some_items(record)]
    assert len(store) == len(wanted) == 10 and store.tokens == sum(item.tokens for item in wanted)
    for index, item in enumerate(wanted):
        found = store[index]
        assert (found.id, found.weight, found.margin, found.noise) == (item.id, item.weight, item.margin, item.noise)
        assert found.id == store.id(index) and len(found.rows) == len(item.rows)
        for one, other in zip(item.rows, found.rows, strict=True):
            assert all(same(getattr(one, name), getattr(other, name)) for name in Row.__slots__)
    with pytest.raises(IndexError):
        store[10]


def test_a_whole_store_is_reused_without_reading_the_records(tmp_path: Path) -> None:
    build(records(), some_items, key="k", folder=tmp_path, summary=lambda: {"rows": 5, "語": "日本"})

    def never() -> Iterator[Record]:
        raise RuntimeError("read again")
        yield

    store = build(never(), some_items, key="k", folder=tmp_path)
    assert len(store) == 10 and store.summary == {"rows": 5, "語": "日本"}


@pytest.mark.parametrize("name", ["tokens.bin", "weights.bin", "items.bin", "ids.bin", "labels.bin", "store.json"])
@pytest.mark.parametrize("fault", ["flip", "cut", "remove"])
def test_a_damaged_store_is_found_said_and_built_again(tmp_path: Path, name: str, fault: str) -> None:
    built(tmp_path)
    path = tmp_path / "k" / name
    data = bytearray(path.read_bytes())
    if fault == "flip":
        data[len(data) // 2] ^= 0x80
    path.unlink() if fault == "remove" else path.write_bytes(data[: len(data) // 2] if fault == "cut" else data)
    said: list[str] = []
    store = build(records(), some_items, key="k", folder=tmp_path, say=said.append)
    assert len(said) == 1 and "damaged" in said[0]
    assert len(store) == 10 and verify(tmp_path / "k") is None


def test_a_failed_build_leaves_nothing_behind(tmp_path: Path) -> None:
    def fails(record: Record) -> list[Item]:
        if record.id == "記録3":
            raise DataError("no")
        return some_items(record)

    with pytest.raises(DataError):
        build(records(), fails, key="k", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DiskError, match="cannot be written"):
        built(tmp_path / "file")


def _build_in_process(folder: str) -> None:
    built(Path(folder), count=60)


def test_processes_that_build_the_same_store_at_once_end_with_one_whole_store(tmp_path: Path) -> None:
    workers = [
        multiprocessing.get_context("fork").Process(target=_build_in_process, args=(str(tmp_path),)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["k"] and verify(tmp_path / "k") is None


def test_rows_over_max_length_are_named_together_with_the_length_that_holds_all(tmp_path: Path) -> None:
    def long(record: Record) -> list[Item]:
        if record.id != "記録1":
            raise TooLong(record.id, 100 + int(record.id[-1]), 50)
        return some_items(record)

    with pytest.raises(DataError) as caught:
        build(records(), long, key="k", folder=tmp_path)
    text = caught.value.text()
    assert "4 rows are longer" in text and "記録0: 100 tokens" in text and "set max_length to 104" in text


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing is left to learn"):
        build(records(), lambda record: [], key="k", folder=tmp_path)


def test_the_key_follows_every_input(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("1")
    base = {"tokenizer": "t", "template": "c", "settings": {"max_length": 5}, "method": "sft"}
    keys = {cache_key([path], **base)}  # type: ignore[arg-type]
    for change in ({"tokenizer": "u"}, {"template": "d"}, {"settings": {"max_length": 6}}, {"method": "pretrain"}):
        keys.add(cache_key([path], **{**base, **change}))  # type: ignore[arg-type]
    path.write_text("2")
    keys.add(cache_key([path], **base))  # type: ignore[arg-type]
    assert len(keys) == 6


def test_rendered_documents_come_back_from_the_store(tmp_path: Path) -> None:
    renderer = Renderer(tiny.tokenizer(), max_length=8)
    store = build(
        records(3),
        lambda record: [Item(record.id, tuple(renderer.text(record)))],
        key="k",
        folder=tmp_path,  # type: ignore[arg-type]
    )
    tokens = store[1].rows[0].tokens
    assert renderer.tokenizer.decode(tokens.tolist()) == "猫猫<|im_end|>" and tokens.dtype == np.int32


# stream


class Numbers:
    """A store of items that are named by their place."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Item:
        return Item(str(index), (bare_row(1),))


@settings(max_examples=40)
@given(st.integers(1, 300), st.integers(0, 2**63 - 1), st.integers(0, 50))
def test_the_order_of_an_epoch_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    order = Permutation.keyed(size, seed, epoch)
    assert sorted(order[place] for place in range(size)) == list(range(size))


@given(st.integers(1, 40), st.integers(1, 17), st.integers(1, 4), st.integers(0, 2**63 - 1))
def test_every_item_comes_once_an_epoch_and_the_last_batch_may_be_short(
    size: int, batch: int, epochs: int, seed: int
) -> None:
    steps = -(-size * epochs // batch)
    stream = Stream(Numbers(size), batch_size=batch, seed=seed, steps=steps, epochs=epochs)
    seen = [item.id for step in range(steps) for item in stream.batch(step)]
    assert len(seen) == stream.limit == size * epochs
    for epoch in range(epochs):
        assert set(seen[epoch * size : (epoch + 1) * size]) == {str(place) for place in range(size)}
    assert stream.epoch(steps - 1) == epochs


@pytest.mark.parametrize(
    ("size", "epochs", "batch_size", "seen"), [(10, 1.1, 4, 11), (55, 2.2, 7, 121), (7, 0.5, 2, 4)]
)
def test_parts_of_epochs_are_counted_in_decimals(size: int, epochs: float, batch_size: int, seen: int) -> None:
    cfg = Config(train_file="t", model_name_or_path="m", output_dir="o", num_train_epochs=epochs, batch_size=batch_size)
    steps = cfg.with_steps(size).steps
    stream = Stream(Numbers(size), batch_size=batch_size, seed=0, steps=steps, epochs=epochs)
    batches = [stream.positions(step) for step in range(steps)]
    assert sum(map(len, batches)) == seen
    assert all(batches)


def test_a_batch_depends_on_nothing_but_its_step() -> None:
    def fresh() -> Stream:
        return Stream(Numbers(100), batch_size=7, seed=3, steps=50)

    used = fresh()
    forwards = [used.positions(step) for step in range(50)]
    backwards = [used.positions(step) for step in reversed(range(50))][::-1]
    assert forwards == backwards == [fresh().positions(step) for step in range(50)]


def test_orders_differ_between_epochs_and_seeds_and_look_random() -> None:
    size = 1000
    orders = [
        tuple(Permutation.keyed(size, seed, epoch)[place] for place in range(size))
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4
    for order in orders:
        # in a random order about half of the neighbours rise (standard deviation 9), and about one item stays in place
        rises = sum(one < other for one, other in itertools.pairwise(order))
        assert 440 < rises < 560 and sum(place == item for place, item in enumerate(order)) < 10


def test_the_order_is_the_same_for_good() -> None:
    order = Permutation.keyed(10, seed=42, epoch=0)
    assert [order[place] for place in range(10)] == [0, 4, 9, 1, 6, 3, 5, 2, 8, 7]


def test_first_items_are_spread_evenly_over_seeds() -> None:
    counts = Counter(Permutation.keyed(10, seed, 0)[0] for seed in range(2000))
    assert all(140 < counts[item] < 260 for item in range(10))  # 200 each, standard deviation 13


def test_indices_restrict_the_stream() -> None:
    stream = Stream(Numbers(100), batch_size=3, seed=0, steps=4, indices=[5, 50, 99], epochs=4)
    assert all(sorted(stream.positions(step)) == [5, 50, 99] for step in range(4))


def test_an_empty_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        Stream(Numbers(0), batch_size=1, seed=0, steps=1)


# packing


@given(st.lists(st.integers(1, 30), max_size=80), st.integers(1, 40), st.integers(1, 8))
def test_packs_hold_every_row_once_and_at_most_the_room(lengths: list[int], room: int, window: int) -> None:
    packs = first_fit(lengths, room, window=window)
    assert sorted(place for pack in packs for place in pack) == list(range(len(lengths)))
    assert all(len(pack) == 1 or sum(lengths[place] for place in pack) <= room for pack in packs)


def test_packs_are_well_filled() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 5000).tolist()
    packs = first_fit(lengths, 512)
    assert sum(lengths) / (len(packs) * 512) > 0.97


def test_a_packed_item_is_rows_of_their_own_with_an_id_of_its_own(tmp_path: Path) -> None:
    store = build(
        records(5),
        lambda record: [Item(record.id, (bare_row(len(record.text)),))],
        key="k",
        folder=tmp_path,  # type: ignore[union-attr]
    )
    packed = Packed(store, tokens=6)
    assert [[len(row) for row in packed[index].rows] for index in range(len(packed))] == [[1, 2, 3], [4], [5]]
    assert [packed.id(index) for index in range(len(packed))] == ["記録0+2", "記録3", "記録4"]
    assert packed.members(0) == ["記録0", "記録1", "記録2"] and packed.tokens == store.tokens
    some = Packed(store, tokens=6, indices=[3, 0])
    assert [some.members(index) for index in range(len(some))] == [["記録3", "記録0"]]


def test_the_manifest_is_readable(tmp_path: Path) -> None:
    built(tmp_path)
    manifest = json.loads((tmp_path / "k" / "store.json").read_text(encoding="utf-8"))
    assert manifest["items"] == 10 and set(manifest["files"]["tokens.bin"]) == {"bytes", "sha256"}
