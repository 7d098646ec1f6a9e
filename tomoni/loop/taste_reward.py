"""The taste that people's judgements give, as a reward which `grpo` and `ppo` raise: a file beside the run that they start.

    taste.json      the space, the head, and what the base usually says to each prompt, by `loop.taste`
    taste.py        what `reward_funcs` names: taste.py:score

r = w . d - CAUTION sqrt(d' Sigma d), d = phi(answer) - mean phi of the base's own answers to the prompt: only differences
are known, and what nobody has judged anything like is not believed (Coste et al. 2024, for one head with a posterior).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tomoni.durable import atomic_write, write_object
from tomoni.feedback.arrays import Float
from tomoni.feedback.entries import message_from, prompt_id
from tomoni.feedback.head import Head, Space
from tomoni.loop.taste import Drawn, Reader

if TYPE_CHECKING:
    from tomoni.evaluate.subject import Subject

CAUTION: Final = 1.0
CODE = '''"""What people like, as `tomoni round` found it. The numbers stand in taste.json."""

from pathlib import Path

from tomoni.loop.taste_reward import TasteReward

score = TasteReward(Path(__file__).with_name("taste.json")).score
'''


def write(folder: Path, reader: Reader, head: Head, drawn: Sequence[Drawn]) -> str:
    """The two files; what `reward_funcs` names. Whoever read the judgements reads the completions too."""
    usual = {prompt_id(one.prompt): _mean(reader, one).tolist() for one in drawn}
    body = {
        "reader": reader.subject.name,
        "space": reader.space.to_json(),
        "head": head.to_json(),
        "usual": usual,
        "usual_of_all": np.mean(list(usual.values()), axis=0).tolist(),
    }
    write_object(folder / "taste.json", body, indent=None)
    atomic_write(folder / "taste.py", CODE)
    return f"{folder / 'taste.py'}:score"


def _mean(reader: Reader, drawn: Drawn) -> Float:
    mean_D: Float = np.mean([one.phi_D for one in reader.read([(drawn.prompt, text) for text in drawn.texts])], axis=0)
    return mean_D


class TasteReward:
    """Reads taste.json, and opens the model that reads at the first answers."""

    def __init__(self, path: Path) -> None:
        body = json.loads(path.read_text(encoding="utf-8"))
        self.reads = str(body["reader"])
        self.space, self.head = Space.from_json(body["space"]), Head.from_json(body["head"])
        self.usual: Mapping[str, Float] = {name: np.array(phi_D) for name, phi_D in body["usual"].items()}
        self.usual_of_all: Float = np.array(body["usual_of_all"])
        self._subject: Subject | None = None

    def score(self, prompts: Sequence[Sequence[Mapping[str, Any]]], completions: Sequence[str]) -> list[float]:
        """One number an answer; 0 for what the base usually says, and for an empty one what the head fears most of."""
        from tomoni.evaluate.subject import open_subject

        if self._subject is None:
            self._subject = open_subject(self.reads)
        asked = [tuple(message_from(message) for message in prompt) for prompt in prompts]
        # an empty answer has no features of its own: read as a mark, it is far from all that was judged
        texts = [text.strip() or "…" for text in completions]
        reader = Reader.of(self._subject, self.space)
        known = reader.read(list(zip(asked, texts, strict=True)))
        usual_ND = np.array([self.usual.get(prompt_id(prompt), self.usual_of_all) for prompt in asked])
        d_ND = np.array([one.phi_D for one in known]) - usual_ND
        doubt_N = np.sqrt(np.maximum(np.einsum("nd,de,ne->n", d_ND, self.head.covariance_DD, d_ND), 0.0))
        return [float(r) for r in d_ND @ self.head.w_D - CAUTION * doubt_N]
