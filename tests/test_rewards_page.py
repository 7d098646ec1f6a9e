"""The functions that docs/rewards.md shows do what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tomoni.errors import ConfigError
from tomoni.records import Message
from tomoni.rewards.answered import Answered
from tomoni.rewards.functions import load_function
from tomoni.rows import Row

PAGE = Path(__file__).parents[1] / "docs" / "rewards.md"


def answered(text: str, **columns: Any) -> Answered:
    row = Row(np.array([1, 2], dtype=np.int32), np.array([0, 1], dtype=np.float32))
    return Answered("q/0/0", (Message("user", "When?"),), text, row, columns)


def shown(tmp_path: Path, number: int) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    path = tmp_path / f"reward{number}.py"
    path.write_text(blocks[number], encoding="utf-8")
    return f"{path}:score"


def test_the_function_of_one_completion_reads_the_answer_of_the_data(tmp_path: Path) -> None:
    score = load_function(shown(tmp_path, 0))
    answers = [answered("At nine o'clock.", answer="nine"), answered("At ten.", answer="nine"), answered("At nine.")]
    assert score(answers) == pytest.approx([0.97, -0.02, -0.02])


def test_the_function_of_all_completions_takes_every_column(tmp_path: Path) -> None:
    score = load_function(shown(tmp_path, 1))
    assert score([answered("九時です。", lang="ja"), answered("nine", lang="en")]) == [1.0, 0.0]


def test_what_collects_columns_is_no_column_itself(tmp_path: Path) -> None:
    (tmp_path / "seen.py").write_text(
        "def score(prompts, completions, **others):\n    return [float(sorted(others) == ['lang'])]\n", encoding="utf-8"
    )
    assert load_function(f"{tmp_path / 'seen.py'}:score")([answered("nine", lang="en")]) == [1.0]


def test_a_function_that_takes_no_completions_is_refused_when_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("def score(text):\n    return 1.0\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"takes \(text\)"):
        load_function(f"{tmp_path / 'wrong.py'}:score")
