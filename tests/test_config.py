"""Configs: what is read is what was written, and what is wrong is said, all of it, with its place."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from tomoni.config import Frozen, dump, load, load_by
from tomoni.errors import ConfigError
from tomoni.settings import pretrain, sft


class Colour(Enum):
    RED = "red"
    OFF = "off"


class Inner(Frozen):
    size: Annotated[int, Field(ge=1)] = 8
    name: str = "x"


class Sample(Frozen):
    method: Literal["sample", "other"] = "sample"
    rate: float = 1.0
    count: int = 1
    on: bool = False
    name: str = "plain"
    note: str | None = None
    files: tuple[str, ...] = ()
    columns: dict[str, str] = Field(default_factory=dict)
    colour: Colour = Colour.RED
    either: int | str = 1
    inner: Inner = Inner()

    @model_validator(mode="after")
    def _count_below_1000(self) -> Sample:
        if self.count == 999:
            raise ValueError("count and rate exclude each other")
        return self


class Needs(Frozen):
    output_dir: str
    seed: int = 0


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_bytes(text.encode("utf-8"))
    return path


def mistakes(tmp_path: Path, text: str, *words: str, of: type[Frozen] = Sample) -> str:
    with pytest.raises(ConfigError) as raised:
        load(of, written(tmp_path, text), words)
    assert raised.value.next_step  # every mistake says what to do
    return raised.value.what


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1e-4", 0.0001),
        ("2.5E+3", 2500.0),
        ("3", 3.0),
        (".5", 0.5),
        ("1_000.5", 1000.5),
        ("-1e3", -1000.0),
        ("7.", 7.0),
    ],
)
def test_numbers_that_people_write_are_numbers(tmp_path: Path, text: str, rate: float) -> None:
    assert load(Sample, written(tmp_path, f"rate: {text}\n")).rate == rate
    assert load(Sample, None, ["--rate", text]).rate == rate


@pytest.mark.parametrize("text", ["inf", ".inf", "-.INF", "nan", ".nan", "1e999"])
def test_what_is_not_finite_is_refused(tmp_path: Path, text: str) -> None:
    assert "finite number" in mistakes(tmp_path, f"rate: {text}\n")


@pytest.mark.parametrize(
    "text", ["no", "off", "on", "y", "010", "1:30", "2024-01-01", "1e-4", "true", "0x10", "=", "<<"]
)
def test_a_text_field_takes_a_plain_scalar_as_it_was_typed(tmp_path: Path, text: str) -> None:
    assert load(Sample, written(tmp_path, f"name: {text}\nfiles: []\n")).name == text
    assert load(Sample, None, ["--name", text]).name == text


@pytest.mark.parametrize(
    ("text", "on"), [("no", False), ("off", False), ("false", False), ("yes", True), ("on", True), ("True", True)]
)
def test_a_boolean_field_takes_the_usual_words(tmp_path: Path, text: str, on: bool) -> None:
    assert load(Sample, written(tmp_path, f"on: {text}\n")).on is on


def test_a_boolean_is_not_a_number(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "\ncount: true\n").endswith("c.yaml:2: count is True; expected a number")


def test_japanese_keys_values_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    config = load(Sample, written(tmp_path, '\ufeffname: パン屋・ﾊﾟﾝ👨‍👩‍👧 # 註\ncolumns: {質問: "が"}\n'))
    assert config.name == "パン屋・ﾊﾟﾝ👨‍👩‍👧"
    assert config.columns == {"質問": "が"}


def test_overrides_go_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, "count: 2\nrate: 2\ninner: {size: 2}\n")
    defaults = {"count": 1, "name": "default", "inner": {"size": 1, "name": "kept"}}
    config = load(Sample, path, ["--count", "3", "--inner.size=30"], defaults)
    assert (config.count, config.rate, config.name) == (3, 2.0, "default")
    assert (config.inner.size, config.inner.name) == (30, "kept")


def test_options_are_flags_lists_and_either_spelling() -> None:
    words = ["--on", "--files", "a", "--files", "b", "--inner.size", "4", "--note=--x y", "--count", "-5"]
    config = load(Sample, None, words)
    assert (config.on, config.files, config.inner.size, config.note, config.count) == (True, ("a", "b"), 4, "--x y", -5)
    assert load(Sample, None, ["--no-on", "--name", "key: value", "--files", "[a, b]"]).files == ("a", "b")
    assert load(Sample, None, ["--name", "key: value"]).name == "key: value"
    assert load(Sample, None, ["--name", "[broken"]).name == "[broken"
    assert load(Needs, None, ["--output-dir", "2024"]).output_dir == "2024"


def test_a_mapping_of_python_values_overrides_too() -> None:
    config = load(Sample, None, {"inner.size": 5, "rate": 0.1, "columns": {"a": "b"}})
    assert (config.inner.size, config.rate, config.columns) == (5, 0.1, {"a": "b"})


def test_every_mistake_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    text = 'method: smaple\ncuont: 3\nrate: fast\ninner:\n  size: 0\n  nmae: "x"\nfiles: [a, 3]\ncount: 1\ncount: 2\n'
    said = mistakes(tmp_path, text, "--onn", "--either", "{a: 1}", "stray")
    lines = [line.replace(str(tmp_path), "") for line in said.splitlines()]
    assert lines[0] == "9 mistakes in the config:"
    in_the_file = [int(found) for found in re.findall(r"c\.yaml:(\d+): (?!key)", said)]
    assert in_the_file == sorted(in_the_file)
    expected = [
        "/c.yaml:1: method is 'smaple'; possible: sample, other (did you mean \"sample\"?)",
        '/c.yaml:2: unknown key "cuont" (did you mean "count"?)',
        "/c.yaml:3: rate is 'fast'; expected number",
        "/c.yaml:5: inner.size is 0; expected greater than or equal to 1",
        '/c.yaml:6: unknown key "inner.nmae" (did you mean "name"?)',
        '/c.yaml:9: key "count" stands twice, first on line 8',
        '--onn: unknown key "onn" (did you mean "on"?)',
        "--either: either is {'a': 1}; expected",
        '"stray" is not an option; write --key value',
    ]
    for line in expected:
        assert any(found.strip().startswith(line) for found in lines), (line, lines)


def test_a_missing_key_and_a_rule_between_keys_are_named(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "seed: 1\n", of=Needs).endswith('c.yaml: key "output_dir" is missing')
    assert mistakes(tmp_path, "output_dir:\n", of=Needs).endswith("c.yaml:1: output_dir is None; expected text")
    assert mistakes(tmp_path, "count: 999\n").endswith("c.yaml: count and rate exclude each other")


def test_a_part_of_a_key_helps_to_find_it(tmp_path: Path) -> None:
    text = "model_name_or_path: m\ntrain_file: t\noutput_dir: o\nepochs: 3\n"
    assert "num_train_epochs" in mistakes(tmp_path, text, of=sft.Config)


def test_secrets_in_a_config_are_refused_and_not_repeated(tmp_path: Path) -> None:
    said = mistakes(tmp_path, "hf_token: hf_abcdef\napi_key: [sk-123]\n")
    assert said.count("environment variables") == 2
    assert "abcdef" not in said and "sk-123" not in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x 1\nb: *x\n", ":1: not YAML: anchors and aliases"),
        ("name: !!python/object/apply:os.system [ls]\n", "is not read here"),
        ("inner: !mine {size: 2}\n", "is not read here"),
        ("- a\n- b\n", "expected `key: value` lines"),
        ("name: [a\nrate: 1\n", ":2: not YAML"),
        ("name: 'a\n", "not YAML"),
        ("name: a\n---\nname: b\n", ":2: not YAML"),
        ("\tname: a\n", ":1: not YAML"),
        ("name: a\x00\n", "not YAML"),
        ("? [a, b]\n: 1\n", ":1: a key must be plain text"),
        ("name: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("# " + "x" * 1_000_000, "larger than 1,000,000 bytes"),
    ],
)
def test_what_is_not_a_plain_config_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    assert said in mistakes(tmp_path, text)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load(Sample, path)
    (tmp_path / "sjis.yaml").write_bytes("rate: 1\nname: パン\n".encode("shift_jis"))
    with pytest.raises(ConfigError, match=r"sjis\.yaml:2: the file is not UTF-8"):
        load(Sample, tmp_path / "sjis.yaml")


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(Sample, written(tmp_path, "# nothing\n")) == Sample()


def test_a_config_does_not_change_after_it_is_made() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Sample().rate = 2.0  # type: ignore[misc]


def test_the_method_says_which_config_is_read(tmp_path: Path) -> None:
    classes: Mapping[str, Any] = {"sft": sft.Config, "pretrain": pretrain.Config}
    path = written(tmp_path, "method: pretrain\noutput_dir: o\ntrain_file: t.txt\n")
    assert type(load_by(classes, path)) is pretrain.Config
    with pytest.raises(ConfigError, match=r'c\.yaml:1: method is \'pretain\' \(did you mean "pretrain"\?\)'):
        load_by(classes, written(tmp_path, "method: pretain\n"))
    with pytest.raises(ConfigError, match='key "method" is missing'):
        load_by(classes, written(tmp_path, "output_dir: o\n"))


def test_an_option_below_a_plain_value_is_a_mistake(tmp_path: Path) -> None:
    assert '--count.x: "count" is 3' in mistakes(tmp_path, "count: 3\n", "--count.x", "1")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    [
        "no",
        "off",
        "~",
        "null",
        "1e-4",
        "0o7",
        "1:30",
        "2024-01-01",
        "- a",
        "a: b",
        "#x",
        "é\u0301",
        "\u2028",
        "\x85",
        "パン👩‍🍳",
        " a ",
    ]
)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
SAMPLES = st.builds(
    Sample,
    rate=NUMBER,
    count=st.integers().filter(lambda count: count != 999),
    on=st.booleans(),
    name=TEXT,
    note=st.none() | TEXT,
    files=st.lists(TEXT, max_size=3).map(tuple),
    columns=st.dictionaries(TEXT, TEXT, max_size=3),
    colour=st.sampled_from(Colour),
    either=st.integers() | TEXT,
    inner=st.builds(Inner, size=st.integers(1), name=TEXT),
)


@given(config=SAMPLES)
def test_a_dumped_config_loads_equal(config: Sample, tmp_path: Path) -> None:
    assert load(Sample, written(tmp_path, dump(config))) == config


@given(config=SAMPLES)
def test_other_yaml_readers_see_the_same_texts(config: Sample) -> None:
    seen = yaml.safe_load(dump(config))
    assert (seen["name"], seen["note"], seen["files"]) == (config.name, config.note, list(config.files))
    assert seen["columns"] == config.columns
    assert float(seen["rate"]) == config.rate


@given(key=st.sampled_from(list(Sample.model_fields)), where=st.integers(0, 5), seed=st.integers(0, 1000))
def test_a_misspelt_key_is_always_reported(key: str, where: int, seed: int, tmp_path: Path) -> None:
    letter = random.Random(seed).choice("qxzj")
    wrong = key[:where] + letter + key[where:]
    said = mistakes(tmp_path, f"rate: 1\n{wrong}: 1\n")
    assert f'c.yaml:2: unknown key "{wrong}"' in said
    assert f'--{wrong}: unknown key "{wrong}"' in mistakes(tmp_path, "", f"--{wrong}", "1")


TRAINING = {"model_name_or_path": "m", "train_file": "t", "output_dir": "o"}


def refused(*words: str, of: type[Frozen] = sft.Config, **changes: object) -> str:
    with pytest.raises(ConfigError) as raised:
        load(of, None, words, {**TRAINING, **changes})
    return raised.value.text()


def test_an_option_without_its_value_and_one_given_twice_are_told_as_such() -> None:
    assert "--train_file needs a value" in refused("--train_file")
    assert "--batch_size needs a value" in refused("--batch_size")
    assert "--max_steps is given 2 times (2, 8); it takes one value" in refused("--max_steps", "2", "--max_steps", "8")
    assert refused("--columns", "prompt=question").startswith("--columns: columns is 'prompt=question'; expected keys")


@pytest.mark.parametrize("key", ["model_name_or_path", "train_file", "output_dir", "chat_template"])
def test_an_empty_name_is_not_the_folder_one_stands_in(key: str) -> None:
    assert "must not be empty" in refused(f"--{key}", "")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--train", "lorra", 'train is \'lorra\'; possible: all, top:K, head, embeddings, names:REGEX, lora, dora, rslora, ia3, prompt_tuning (did you mean "lora"?)'),
        ("--adam_beta1", "1", "adam_beta1 is 1; expected less than 1"),
        ("--train", "names:", "names: needs a pattern"),
        ("--device", "gpu", "device is 'gpu'; possible: auto, cpu, cuda, cuda:N, mps"),
        ("--device", "cuda0", 'did you mean "cuda"?'),
    ],
)  # fmt: skip
def test_a_value_outside_the_possible_ones_names_them_once(option: str, value: str, said: str) -> None:
    text = refused(option, value)
    assert said in text
    assert "tomoni sft --help" in text


def test_the_method_is_looked_for_under_names_near_to_it(tmp_path: Path) -> None:
    for text, said in (("metod: sft\n", 'is "metod" meant?'), ("method: sftt\n", 'write "method: sft" at the top')):
        with pytest.raises(ConfigError) as raised:
            load_by({"pretrain": pretrain.Config, "sft": sft.Config}, written(tmp_path, text))
        assert said in raised.value.text()


def test_a_data_file_in_the_place_of_a_config_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="--train_file"):
        load(sft.Config, path)


def test_a_key_far_from_all_others_does_not_list_fifty() -> None:
    text = refused("--zork", "1")
    assert 'unknown key "zork"' in text
    assert len(text) < 200


def test_an_adapter_from_scratch_is_refused() -> None:
    with pytest.raises(ConfigError, match="lora stands on a trained model"):
        load(pretrain.Config, None, ["--train", "lora"], {"train_file": "t", "output_dir": "o"})
