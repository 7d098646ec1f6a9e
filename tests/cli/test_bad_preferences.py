"""Preferences, thumbs, prompts and settings that say nothing or cannot be: a clear refusal before anything is trained, or
an exclusion that is counted; and never a number that is none."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tomoni.cli.app import main

PAIRS = [{"prompt": f"質問{n}は？", "chosen": f"答え{n}です。", "rejected": "知らない"} for n in range(6)]
THUMBS = [{"prompt": f"質問{n}は？", "completion": f"答え{n}", "label": bool(n % 2)} for n in range(6)]
PROMPTS = [{"prompt": f"質問{n}は？"} for n in range(6)]
REWARD = "def score(completions):\n    return [float(len(text)) for text in completions]\n"
PAIRED = ("dpo", "orpo", "simpo", "reward")
SAMPLED = ("bestofn", "grpo", "rloo", "ppo")
LITTLE = ("--batch_size", "2", "--max_completion_length", "6")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("built") / "model", max_position_embeddings=256)


@pytest.fixture
def place(tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path / "cache"))
    shutil.copytree(built, tmp_path / "model")
    (tmp_path / "r.py").write_text(REWARD, encoding="utf-8")
    return tmp_path


def data(*rows: dict[str, Any]) -> str:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    Path("d.jsonl").write_text(text, encoding="utf-8")
    return "d.jsonl"


def run(method: str, file: str, *words: str) -> int:
    options = {"model_name_or_path": "model", "train_file": file, "output_dir": "run", "max_steps": "2", "threads": "1"}
    options |= {"max_length": "128", "sample_prompts": "0"}
    options |= {"reward_funcs": "r.py:score"} if method in SAMPLED else {}
    return main([method, *(word for key, value in options.items() for word in (f"--{key}", value)), *words])


Said = Callable[[], str]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    def read() -> str:
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return told.out + told.err

    return read


def means_of(measured: dict[str, Any]) -> dict[str, float]:
    from tomoni.run.outcome import Measured

    return Measured.from_json(measured).stats.means()


def numbers_are_numbers() -> None:
    """Of every step and look; the slope of rewards against lengths is none where all lengths are the same."""
    for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines():
        for name, value in json.loads(line).items():
            assert "length_slope" in name or (value is not None and math.isfinite(value)), (name, value)


@pytest.mark.parametrize("method", PAIRED)
def test_identical_answers_are_bad_rows_named_by_line_or_put_aside_and_counted(
    method: str, place: Path, said: Said
) -> None:
    file = data(*PAIRS, {"prompt": "同じ？", "chosen": "はい", "rejected": "はい"})
    assert run(method, file, "--batch_size", "2") == 2
    assert "d.jsonl:7" in (told := said()) and "chosen and rejected are equal" in told and not Path("run").exists()
    assert run(method, file, "--batch_size", "2", "--on_bad_rows", "quarantine") == 0
    assert "1 bad row" in said()
    (line,) = Path("run/quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["line"] == 7
    numbers_are_numbers()


@pytest.mark.parametrize("side", ["chosen", "rejected", "prompt"])
def test_an_empty_side_of_a_pair_is_a_bad_row(side: str, place: Path, said: Said) -> None:
    assert run("dpo", data(*PAIRS, PAIRS[0] | {side: " 　"})) == 2
    assert "d.jsonl:7" in (told := said()) and "empty" in told and side in told


def test_an_empty_answer_with_a_thumb_is_a_bad_row(place: Path, said: Said) -> None:
    assert run("kto", data(*THUMBS, THUMBS[0] | {"completion": ""})) == 2
    assert "d.jsonl:7" in (told := said()) and "empty" in told


def test_contradictory_duplicates_are_kept_counted_and_train_to_numbers(place: Path, said: Said) -> None:
    other = [{"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"]} for row in PAIRS[:2]]
    assert run("dpo", data(*PAIRS, *other, PAIRS[0]), "--batch_size", "4") == 0
    assert "3 pairs say the opposite of an earlier one; all are kept" in said()
    numbers_are_numbers()


@pytest.mark.parametrize("method", [*PAIRED, "kto", *SAMPLED])
def test_a_prompt_that_fills_the_row_stops_or_is_left_out_and_counted(method: str, place: Path, said: Said) -> None:
    rows: list[dict[str, Any]] = THUMBS if method == "kto" else PAIRS if method in PAIRED else PROMPTS
    file = data(*rows, rows[0] | {"prompt": "長い。" * 60})
    words = LITTLE if method in SAMPLED else ("--batch_size", "2")
    assert run(method, file, *words) == 2
    assert "max_length is 128" in said() and not Path("run").exists()
    assert run(method, file, *words, "--on_long_rows", "drop") == 0
    assert "left out" in said()
    numbers_are_numbers()


@pytest.mark.parametrize("method", SAMPLED)
def test_prompts_and_completions_that_cannot_both_be_in_the_context_are_refused_before_the_first_step(
    method: str, place: Path, said: Said
) -> None:
    assert run(method, data(*PROMPTS), "--max_completion_length", "250", "--batch_size", "2") == 2
    told = said()
    assert "the longest prompt has" in told and "more than the 256 that the model has room for" in told
    assert "set max_completion_length to" in told and not Path("run").exists()


@pytest.mark.parametrize("method", ["dpo", "orpo", "simpo", "kto"])
@pytest.mark.parametrize("beta", ["0", "-0.1", "nan"])
def test_a_beta_of_0_is_refused_where_nothing_would_be_learnt(method: str, beta: str, place: Path, said: Said) -> None:
    assert run(method, data(*(THUMBS if method == "kto" else PAIRS)), "--beta", beta) == 2
    assert "beta" in said() and not Path("run").exists()


@pytest.mark.parametrize("method", SAMPLED)
def test_without_a_divergence_it_trains_to_numbers(method: str, place: Path) -> None:
    none = {"ppo": ("--kl_coef", "0"), "grpo": ("--beta", "0"), "rloo": ("--beta", "0"), "bestofn": ()}[method]
    assert run(method, data(*PROMPTS), *LITTLE, *none) == 0
    numbers_are_numbers()


@pytest.mark.parametrize("method", ["grpo", "rloo", "bestofn"])
def test_a_group_of_one_has_nothing_to_be_compared_with(method: str, place: Path, said: Said) -> None:
    assert run(method, data(*PROMPTS), "--num_generations", "1") == 2
    assert "num_generations" in (told := said()) and "at least 2" in told and not Path("run").exists()


def test_ppo_learns_from_one_completion_of_one_token_without_a_number_that_is_none(place: Path, said: Said) -> None:
    one = ("--batch_size", "1", "--num_generations", "1", "--max_completion_length", "1", "--whiten_rewards", "true")
    assert run("ppo", data(*PROMPTS), *one) == 0
    numbers_are_numbers()
    assert run("ppo", data(*PROMPTS), *one, "--num_mini_batches", "2") == 2
    assert "num_mini_batches is 2, and a rollout has 1" in said()


@pytest.mark.parametrize(
    "how", [("--scale_rewards", "group"), ("--scale_rewards", "batch"), ("--loss_type", "dr_grpo")]
)
def test_rewards_that_are_all_alike_teach_nothing_and_are_numbers(how: tuple[str, str], place: Path) -> None:
    Path("r.py").write_text("def score(completions):\n    return [1.0] * len(completions)\n", encoding="utf-8")
    assert run("grpo", data(*PROMPTS), *LITTLE, *how) == 0
    numbers_are_numbers()
    seen = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["frac_reward_zero_std"] for line in seen if "frac_reward_zero_std" in line} == {1.0}


def test_that_nothing_is_learnt_from_a_reward_is_said_with_the_column_that_no_record_has(
    place: Path, said: Said
) -> None:
    Path("r.py").write_text("def score(completion, anwser=None):\n    return 1.0\n", encoding="utf-8")
    rows = [row | {"answer": "九時"} for row in PROMPTS]
    assert run("bestofn", data(*rows), *LITTLE) == 0
    told = " ".join(said().split())
    assert "nothing is learnt: in 2 steps all completions of each prompt earned the same" in told
    assert "no record has the column anwser (of score)" in told


def test_a_reward_that_would_end_the_program_stops_the_run_as_an_error(place: Path, said: Said) -> None:
    Path("r.py").write_text("import sys\n\n\ndef score(completions):\n    sys.exit(0)\n", encoding="utf-8")
    assert run("grpo", data(*PROMPTS), *LITTLE) == 2
    told = " ".join(said().split())
    assert "reward score raised SystemExit: 0" in told and "r.py:5" in told
    Path("r.py").write_text("raise SystemExit(0)\n", encoding="utf-8")
    shutil.rmtree("run", ignore_errors=True)
    assert run("grpo", data(*PROMPTS), *LITTLE) == 2
    assert "raised SystemExit: 0" in said()


@pytest.mark.parametrize("value", [10**400, 1e300, -1e12], ids=["digits", "float", "negative"])
def test_a_margin_that_no_loss_can_hold_is_a_bad_row(value: float, place: Path, said: Said) -> None:
    assert run("reward", data(*PAIRS, PAIRS[0] | {"margin": value}), "--batch_size", "2") == 2
    told = said()
    assert "d.jsonl:7" in told and "margin is" in told and "possible: up to 1e+09" in told


def test_thumbs_may_be_written_as_numbers_and_those_that_say_the_opposite_or_all_the_same_are_told(
    place: Path, said: Said
) -> None:
    numbers = [row | {"label": int(row["label"])} for row in THUMBS]
    assert run("kto", data(*numbers, numbers[0] | {"label": 1}), "--batch_size", "4") == 0
    assert "1 thumb say" in (told := said()) and "opposite" in told
    up = [row | {"label": True} for row in THUMBS]
    shutil.rmtree("run", ignore_errors=True)
    assert run("kto", data(*up), "--batch_size", "4") == 0
    assert "all 6 thumbs are up: what to avoid is not learnt" in said()
    words = [row | {"label": "true"} for row in THUMBS]
    shutil.rmtree("run", ignore_errors=True)
    assert run("kto", data(*words), "--batch_size", "4") == 2
    assert "its label is 'true', which is no truth value" in said()


@pytest.mark.parametrize(
    ("method", "rows", "name", "start"),
    [
        ("dpo", PAIRS, "rewards/accuracies", 0.5),
        ("kto", THUMBS, "accuracy", 0.5),
    ],
)
def test_before_a_step_rounding_is_no_preference(
    method: str, rows: list[dict[str, Any]], name: str, start: float, place: Path
) -> None:
    assert run(method, data(*rows), "--batch_size", "4") == 0
    before = json.loads(Path("run/before.json").read_text(encoding="utf-8"))["measured"]
    assert means_of(before)[name] == start


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_where_no_completion_came_to_its_end_and_those_are_left_out_nothing_is_learnt(method: str, place: Path) -> None:
    Path("r.py").write_text(
        "def score(completions):\n    return [float(hash(text) % 7) for text in completions]\n", encoding="utf-8"
    )
    how = ("--batch_size", "2", "--max_completion_length", "2", "--mask_truncated_completions", "true")
    assert run(method, data(*PROMPTS), *how) == 0
    seen = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["completions/clipped_ratio"] for line in seen if "reward_std" in line} == {1.0}
    numbers_are_numbers()


@pytest.mark.parametrize("method", SAMPLED)
def test_a_reward_that_raises_ends_the_run_with_the_completions_name_and_not_with_a_0(
    method: str, place: Path, said: Said
) -> None:
    Path("r.py").write_text(
        "def score(completion):\n    return 1 / (len(completion) - len(completion))\n", encoding="utf-8"
    )
    assert run(method, data(*PROMPTS), *LITTLE) == 2
    assert "reward score raised ZeroDivisionError" in (told := said()) and "at completion" in told and "next:" in told
    assert not list(Path("run").glob("checkpoints/*"))


def test_a_reference_with_another_tokenizer_is_refused(place: Path, said: Said) -> None:
    other = tiny.tokenizer()
    other.add_tokens(["九時"])
    shutil.copytree("model", "other")
    other.save_pretrained("other")
    assert run("dpo", data(*PAIRS), "--reference", "other") == 2
    assert "reference: other has another tokenizer" in said() and not Path("run").exists()


def test_all_thumbs_up_train_to_numbers(place: Path) -> None:
    assert run("kto", data(*(row | {"label": True} for row in THUMBS)), "--batch_size", "2") == 0
    numbers_are_numbers()


def test_pairs_of_which_none_says_anything_are_refused_with_the_reason(place: Path, said: Said) -> None:
    long = [row | {"prompt": "長い。" * 60 + str(number)} for number, row in enumerate(PAIRS)]
    assert run("dpo", data(*long), "--on_long_rows", "drop") == 2
    assert "every row is left out: 6 rows" in said()
