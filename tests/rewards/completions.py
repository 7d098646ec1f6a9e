"""Completions for tests of rewards."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests import tiny
from tomoni.data.render import Renderer
from tomoni.records import Message
from tomoni.rewards.answered import Answered
from tomoni.rows import Row

ASKED = (Message("user", "何時に開きますか。"),)


def answered(text: str, *, name: str = "問-1/0/0", **columns: Any) -> Answered:
    """As a policy with the tiny tokenizer samples it."""
    prompt = Renderer(tiny.tokenizer()).prompt(ASKED)
    made = np.array([*tiny.tokenizer()(text, add_special_tokens=False)["input_ids"], 258], dtype=np.int32)
    weights = np.concatenate([np.zeros(len(prompt)), np.ones(len(made))]).astype(np.float32)
    return Answered(name, ASKED, text, Row(np.concatenate([prompt, made]), weights), columns)
