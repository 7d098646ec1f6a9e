"""A trained reward model as a reward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tomoni.data.render import Renderer
from tomoni.data.textpairs import PairRenderer
from tomoni.data.tokenize import fingerprint, load_tokenizer
from tomoni.engine.scoring import open_scorer
from tomoni.errors import RunError
from tomoni.records import Message
from tomoni.rewards.answered import Answered
from tomoni.rows import Item, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tomoni.engine.setup import EngineSettings


class RewardModel:
    """Scores of mean 0 and standard deviation 1 on the answers that it was measured with. With the policy's tokenizer
    and chat template it reads the sampled tokens; else their text, tokenised in its own way."""

    def __init__(self, folder: Path, cfg: EngineSettings, tokenizer: PreTrainedTokenizerBase) -> None:
        folder = folder / "model" if (folder / "model" / "reward.json").is_file() else folder
        self.name = folder.parent.name if folder.name == "model" else folder.name
        self.engine, self.about = open_scorer(folder, cfg)
        own = load_tokenizer(folder)
        self.same = (
            not self.about.encoder
            and fingerprint(own) == fingerprint(tokenizer)
            and own.chat_template == tokenizer.chat_template
        )
        # an encoder's prompt may lose its beginning; a decoder's row would lose the end of the answer that is judged
        self.render = (
            PairRenderer(own, max_length=self.about.max_length, on_long_rows="truncate")
            if self.about.encoder
            else Renderer(own, max_length=self.about.max_length, on_long_rows="drop")
        )

    def __call__(self, answers: Sequence[Answered]) -> list[float]:
        items = [Item(answer.id, (self._row(answer),)) for answer in answers]
        return [self.about.gain * float(score[0]) + self.about.bias for (score,) in self.engine.scores(items)]

    def _row(self, answer: Answered) -> Row:
        if self.same:
            return _unlearnt(answer.row.tokens)
        said = (Message("assistant", answer.completion),)
        row = self.render.completion(answer.prompt, said, name=f"completion {answer.id}")
        if row is None:
            raise RunError(
                f"the reward model cannot read completion {answer.id}: with its prompt it is longer than "
                f"{self.about.max_length} tokens",
                next_step="train the reward model with a larger max_length, or lower max_completion_length",
            )
        learnt = np.flatnonzero(row.weights)
        return row if self.about.encoder else _unlearnt(row.tokens[: int(learnt[-1]) + 1])


def _unlearnt(tokens: np.ndarray) -> Row:
    return Row(tokens, np.zeros(len(tokens), dtype=np.float32))
