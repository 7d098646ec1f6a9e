"""From a taste to a better model: it learns from its own answers those that please most, and from corrections as they are.

Two ways, found by measuring (LOG.md, "Learning from ten judgements"):

- Where what people want is among what the model already says now and then, it draws several answers to many prompts
  that nobody has judged, and learns the best of each (`rows`): best-of-n, distilled, with a small adapter. Two things
  keep facts right: it learns from those prompts on which it agrees with itself (`surest`), and what it
  doubts, and does not say each time anew, must please more (`taste.best_of`).
- Where corrections say what the model would hardly ever say (`surprise`), it first imitates them, a few steps with all
  weights; half of the answers are then drawn from that imitator, which must still tell prompts apart (`repeats_itself`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tomoni.durable import atomic_write
from tomoni.errors import RunError
from tomoni.loop.replay import OFF, Replayed
from tomoni.loop.taste import Drawn, Prompt, Reader, agreements
from tomoni.records import Chat, Message

if TYPE_CHECKING:
    from tomoni.evaluate.subject import Subject
    from tomoni.run.events import Event
    from tomoni.run.outcome import Result

ANSWERS = 8  # drawn to a prompt
PROMPTS = 120  # that are learnt from
SPARE = 2  # times as many are drawn for, where there are so many
SURE = 2 / 3  # of those drawn for are learnt from at most
FEWEST_PROMPTS = 16  # that must be there to practise on
MAX_NEW_TOKENS = 64
EARLY_ANSWERS = 4  # of the first version to each prompt, which the space of answers is made of besides
EARLY_SEED = 77
SURPRISE = 0.7  # nats a token: corrections above this are imitated first
IMITATION = 16  # times that each correction is seen by the imitator
REPEATED = 4  # times that each correction stands among the rows
STILL_DISTINCT = 0.8  # of the share of different answers before
SMALL = 50_000_000  # weights: up to here all of them are trained where corrections are imitated
WIDTH = 256  # of the model that the rates were found with; wider ones get lower rates
_JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True)
class Lessons:
    """What a run is to learn, and how much of it are corrections."""

    rows: list[dict[str, Any]]
    own: int
    corrected: int


def draw(
    subject: Subject,
    prompts: Sequence[Prompt],
    count: int,
    *,
    seed: int,
    told: Callable[[float], None] | None = None,
) -> list[Drawn]:
    """`count` answers to each prompt at temperature 1, as people are shown them. `told` is given the share that is done."""
    from tomoni.engine.sampler import Sampling

    how = Sampling(max_new_tokens=MAX_NEW_TOKENS, temperature=1.0, seed=seed)
    tokens = [subject.renderer.prompt(prompt) for prompt in prompts for _ in range(count)]
    ids = [f"{place}/{number}" for place in range(len(prompts)) for number in range(count)]
    texts = [completion.text.strip() for completion in subject.sampler().sample(tokens, how, ids=ids, told=told)]
    found = []
    for place, prompt in enumerate(prompts):
        given = tuple(text for text in texts[place * count : (place + 1) * count] if text)
        if given:  # a model may answer nothing at all
            found.append(Drawn(prompt, given))
    return found


def draw_one(
    subject: Subject, prompts: Sequence[Prompt], *, seed: int, told: Callable[[float], None] | None = None
) -> list[str]:
    """One answer to each prompt, drawn as people are shown them; empty where the model says nothing."""
    from tomoni.engine.sampler import Sampling

    how = Sampling(max_new_tokens=MAX_NEW_TOKENS, temperature=1.0, seed=seed)
    tokens = [subject.renderer.prompt(prompt) for prompt in prompts]
    return [completion.text.strip() for completion in subject.sampler().sample(tokens, how, told=told)]


def surest(drawn: Sequence[Drawn], most: int) -> list[Drawn]:
    """Two thirds of them, in each language, and at most `most`: those whose answers agree with each other most. Not fewer
    than the fewest that one practises on.

    A prompt whose answers all differ has no answer that the model knows: the best of them is well said and, as a rule,
    wrong, and learning a few of these costs right answers to all other questions (LOG.md, "Learning from what it knows").
    """
    kept = min(max(round(SURE * len(drawn)), min(FEWEST_PROMPTS, len(drawn))), most)
    agreed = [float(agreed_N.mean()) for agreed_N in agreements(drawn)]
    japanese = [place for place, one in enumerate(drawn) if in_japanese(one.prompt)]
    others = [place for place, one in enumerate(drawn) if not in_japanese(one.prompt)]
    of_japanese = round(kept * len(japanese) / max(len(drawn), 1))
    chosen: set[int] = set()
    for places, share in ((japanese, of_japanese), (others, kept - of_japanese)):
        chosen.update(sorted(places, key=lambda place: -agreed[place])[:share])
    return [one for place, one in enumerate(drawn) if place in chosen]


def eyes_of_first(first: Subject, drawn: Sequence[Drawn], *, told: Callable[[float], None] | None = None) -> Reader:
    """The first version of a line reads, in a space of its own answers and of what a later version was drawn to say.

    A version that has learnt a taste says less that differs, and sees less of it: in its own eyes the early judgements,
    of answers that it no longer gives, teach nothing any more, and the line comes to rest (LOG.md, "Whose eyes").
    """
    early = draw(first, [one.prompt for one in drawn], EARLY_ANSWERS, seed=EARLY_SEED)
    return Reader(first, [*early, *drawn], told=told)


def surprise(subject: Subject, corrections: Sequence[Chat]) -> float:
    """Nats a token: how unlikely the corrections are to the model, the middle one of them."""
    from tomoni.engine.reading import read_answers

    rows = [subject.renderer.completion(prompt_of(chat), chat.messages[-1:]) for chat in corrections]
    read = read_answers(subject.model, [row for row in rows if row is not None])
    return float(np.median(-read.logprob_N / read.tokens_N))


def rows_of_own(chosen: Sequence[tuple[Prompt, str]], rows: int | None = None) -> list[dict[str, Any]]:
    """One of each, or so many in all: from the first again where that is more."""
    return [_row(f"own-{number}", *one) for number, one in enumerate(islice(cycle(chosen), rows or len(chosen)))]


def rows_of_corrections(corrections: Sequence[Chat], times: int) -> list[dict[str, Any]]:
    return [
        _row(f"{chat.id}-{number}", prompt_of(chat), chat.messages[-1].content)
        for number in range(times)
        for chat in corrections
    ]


def prompt_of(chat: Chat) -> Prompt:
    return chat.messages[:-1]


def _row(id: str, prompt: Prompt, text: str) -> dict[str, Any]:
    messages = [{**message.extra, "role": message.role, "content": message.content} for message in prompt]
    return {"id": id, "prompt": messages, "completion": [{"role": "assistant", "content": text}]}


@dataclass(frozen=True, slots=True)
class Trainer:
    """Runs of `sft` that start from `base`, each in a folder of its own under `folder`."""

    base: str
    folder: Path
    weights: int
    width: int
    has_adapter: bool
    seed: int = 0
    threads: int | None = None
    replay: Replayed = OFF  # beside what is practised

    def imitate(self, corrections: Sequence[Chat], *, gently: float, on_event: Callable[[Event], None]) -> Result:
        """`gently`: 1, or a part of it where that made the model repeat itself."""
        rows = rows_of_corrections(corrections, IMITATION)
        settings = {**self._part(all_weights=5e-4, adapter=4e-3, times=gently), "batch_size": 4, "num_train_epochs": 1}
        return self._train(f"imitator-{gently:g}", rows, settings, on_event)

    def practise(self, rows: Sequence[dict[str, Any]], *, far: bool, on_event: Callable[[Event], None]) -> Result:
        """`far`: towards answers that the model would hardly have given by itself."""
        part = self._part(all_weights=3e-4, adapter=4e-3) if far else self._part(adapter=7e-4)
        settings = {**part, "batch_size": 8, "num_train_epochs": 2, **self.replay.settings()}
        return self._train("run", rows, settings, on_event)

    def _part(self, *, adapter: float, all_weights: float | None = None, times: float = 1.0) -> dict[str, Any]:
        scale = times * min(1.0, (WIDTH / self.width) ** 0.5)
        if all_weights is not None and self.weights <= SMALL and not self.has_adapter:
            return {"train": "all", "learning_rate": all_weights * scale}
        return {"train": "lora", "lora_r": 8, "learning_rate": adapter * scale}

    def _train(
        self, name: str, rows: Sequence[dict[str, Any]], settings: dict[str, Any], on_event: Callable[[Event], None]
    ) -> Result:
        from tomoni.run import start
        from tomoni.settings.sft import Config

        file = self.folder / f"{name}.jsonl"
        atomic_write(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        cfg = Config(
            model_name_or_path=self.base,
            train_file=(str(file),),
            output_dir=str(self.folder / name),
            form="prompt_completion",
            loss_on="last",
            on_long_rows="truncate",
            lr_scheduler_type="linear",
            warmup_ratio=0.1,
            sample_prompts=0,
            save_steps=100_000,
            seed=self.seed,
            threads=self.threads,
            **settings,
        )
        result = start(cfg, on_event=on_event)
        if result.status != "finished":
            raise RunError(f"{name} was stopped at step {result.step}", next_step="press Learn again")
        return result


def repeats_itself(before: Sequence[str], after: Sequence[str]) -> bool:
    """Whether different prompts now get the same answers far more often: the sign of a model that has learnt a few
    answers by heart."""
    return len(set(after)) / max(len(after), 1) < STILL_DISTINCT * len(set(before)) / max(len(before), 1)


def in_japanese(prompt: Sequence[Message]) -> bool:
    return any(_JAPANESE.search(message.content) for message in prompt if message.role == "user")
