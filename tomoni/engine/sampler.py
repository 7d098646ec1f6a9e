"""Answers, token by token, for many prompts at once: for serving, for rollouts, for evaluation.

    add(prompt, how) -> id      step() -> one increment per running answer      cancel(id)      idle
    sample(prompts, how) is built on them

`step` gives every running answer one token; answers that end leave the batch, waiting prompts enter it. Draws are keyed
by (seed, id, position), so an answer does not depend on its neighbours (beyond the rounding of batched arithmetic), and
nothing outside moves: no global random stream, no gradient, no mode of the model.
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tomoni.engine import draw
from tomoni.engine.cohort import Cohort, Decoder
from tomoni.engine.decode import SlotCohort, SlotDecoder, slot_decoder
from tomoni.engine.draw import Likeliest, Sampling
from tomoni.engine.entering import Entering, next_pieces
from tomoni.engine.forward import in_eval_mode, virtual_tokens, without_adapter
from tomoni.engine.matrices import Weights
from tomoni.engine.saving import end_tokens
from tomoni.engine.slots import SlotRow
from tomoni.engine.textstream import TextStream
from tomoni.errors import ModelError, UserError
from tomoni.rows import Float32, Int32

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Completion", "Finish", "Increment", "Sampler", "Sampling"]

Finish = Literal["stop", "length", "cancelled"]
Prompt = Sequence[int] | Int32


@dataclass(frozen=True, slots=True)
class Increment:
    """One step of one answer. `text` is what became certain with it and may be empty: a character or a stop string
    may be half told. `token` is None where the answer was cancelled; `logprob` and the `likeliest` tokens only where they were asked for.
    `finished`: "stop" an end token or a stop string, "length" `max_new_tokens` or the model's context."""

    id: str
    token: int | None
    text: str
    logprob: float | None
    finished: Finish | None
    likeliest: Likeliest = ()


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """A finished answer: `tokens` with the end token where the model gave one, `text` without it and without the stop
    string, `logprobs` of the tokens under the model itself (empty unless asked for)."""

    tokens: Int32
    text: str
    logprobs: Float32
    finish: Finish


@dataclass(slots=True)
class _Answer:
    id: str
    prompt: list[int]
    how: Sampling
    key: bytes
    most: int  # tokens
    stream: TextStream
    streams: bool  # whether its text is wanted before its end
    tokens: list[int] = field(default_factory=list)


class Sampler:
    """`max_batch` bounds the answers that run at once, `max_tokens` what they may come to remember together (prompt and
    answer), `max_prefill` the prompts' tokens that one step computes: a long prompt is computed over several steps, so
    that running answers go on. One answer always runs, whatever its size.

    `weights`: "int8" decodes with rounded weights, which is faster and less exact (see `matrices`); for models of the
    Llama family on a CPU in float32. These have a decoder of their own (see `decode`); others run as transformers has
    them, their prompts computed whole.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        eos_ids: Sequence[int] | None = None,
        max_batch: int = 64,
        max_tokens: int = 262_144,
        max_prefill: int = 1_024,
        dtype: torch.dtype | None = None,
        weights: Weights = "float32",
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.eos_ids = frozenset(ends_of(model, tokenizer) if eos_ids is None else eos_ids)
        self.max_batch, self.max_tokens, self.max_prefill = max_batch, max_tokens, max_prefill
        self.dtype = dtype  # of the arithmetic, by autocast; None: the weights' own
        self._weights = weights
        if weights != "float32" and self._slots is None:
            raise ModelError(
                f"{weights} weights are for models of the Llama family on a CPU in float32, and this is {_kind_of(model)}",
                next_step="leave the weights as they are (float32)",
            )
        self._virtual_tokens = virtual_tokens(model)
        self.context = context_of(model)
        self._waiting: deque[_Answer] = deque()
        self._entering: list[Entering[_Answer]] = []
        self._running: list[tuple[Cohort | SlotCohort, list[_Answer]]] = []
        self._cancelled: list[Increment] = []
        self._added = 0

    @cached_property
    def _slots(self) -> SlotDecoder | None:
        """Made when it is first needed: it copies the weights."""
        return slot_decoder(self.model, self._weights) if self.dtype in (None, torch.float32) else None

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self.model)

    # -- the verbs -------------------------------------------------------------------------------------------------

    def add(self, prompt: Prompt, how: Sampling, id: str | None = None, *, draws: str | None = None) -> str:
        """Queue a prompt (tokens, as `Renderer.prompt` gives them). The id names the answer and keys its draws, unless
        `draws` does; without one it is the number of prompts added so far.

        Raises UserError where the prompt is empty, fills the context or has a token that the model does not know.
        """
        return self._add(prompt, how, id, streams=True, draws=draws)

    def _add(self, prompt: Prompt, how: Sampling, id: str | None, *, streams: bool, draws: str | None = None) -> str:
        tokens = [int(token) for token in prompt]
        self._check(tokens)
        if id is None:
            id = str(self._added)
        if any(answer.id == id for answer in self._answers()):
            raise ValueError(f"an answer with the id {id!r} is still running")
        self._added += 1
        most = min(how.max_new_tokens, self.room(tokens))
        stream = TextStream(self.tokenizer, prompt=tokens, stop=how.stop)
        self._waiting.append(_Answer(id, tokens, how, draw.key(how.seed, draws or id), most, stream, streams))
        return id

    def step(self) -> list[Increment]:
        """A token for every running answer, and for those whose prompt is done now."""
        told, self._cancelled = self._cancelled, []
        if self._slots:
            with torch.no_grad():
                return told + self._step_in_slots(self._slots)
        with _looking(self.model, self.dtype):
            for cohort, answers in self._running:
                assert isinstance(cohort, Cohort)
                logits_NV = self._decoder.decode(cohort, [answer.tokens[-1] for answer in answers])
                told += self._advance(cohort, answers, logits_NV)
            self._running = [(cohort, answers) for cohort, answers in self._running if answers]
            while newcomers := self._admit():
                told += self._enter(newcomers)
        return told

    def cancel(self, id: str) -> None:
        """End an answer; the next `step` says so. An id that does not run (any more) is no mistake."""
        for answer in list(self._waiting):
            if answer.id == id:
                self._waiting.remove(answer)
                self._cancelled.append(Increment(id, None, "", None, "cancelled"))
        for entering in list(self._entering):
            kept_answers = [answer for answer in entering.answers if answer.id != id]
            if len(kept_answers) < len(entering.answers):
                entering.answers = kept_answers
                self._cancelled.append(Increment(id, None, "", None, "cancelled"))
            if not kept_answers and self._slots:
                self._slots.slots.free(entering.row)
                self._entering.remove(entering)
        for cohort, answers in self._running:
            kept = [row for row, answer in enumerate(answers) if answer.id != id]
            if len(kept) < len(answers):
                gone = next(answer for answer in answers if answer.id == id)
                self._cancelled.append(Increment(id, None, gone.stream.finish(), None, "cancelled"))
                self._keep(cohort, answers, kept)
        self._running = [(cohort, answers) for cohort, answers in self._running if answers]

    @property
    def idle(self) -> bool:
        """Nothing runs, waits or is still to be told."""
        return not (self._running or self._entering or self._waiting or self._cancelled)

    def sample(
        self,
        prompts: Sequence[Prompt],
        how: Sampling | Sequence[Sampling],
        *,
        ids: Sequence[str] | None = None,
        told: Callable[[float], None] | None = None,
    ) -> list[Completion]:
        """An answer to each prompt, in order. Without `ids` the draws are keyed by the prompts' numbers, so the same
        call gives the same answers. Nothing else may be running. `told` is given the share of answers that have ended,
        as they end."""
        if not self.idle:
            raise RuntimeError("sample() needs a sampler on which nothing runs")
        hows = [how] * len(prompts) if isinstance(how, Sampling) else list(how)
        names = [str(number) for number in range(len(prompts))] if ids is None else list(ids)
        if len(set(names)) < len(names):
            raise ValueError("two prompts have the same id")
        prepared = list(zip(prompts, hows, names, strict=True))
        try:
            for prompt, one, name in sorted(prepared, key=lambda entry: len(entry[0])):  # neighbours of like length
                self._add(prompt, one, name, streams=bool(one.stop))
        except UserError:
            self._waiting.clear()
            raise
        parts: dict[str, list[Increment]] = {name: [] for name in names}
        ended = 0
        while not self.idle:
            before = ended
            for increment in self.step():
                parts[increment.id].append(increment)
                ended += increment.finished is not None
            if told is not None and ended > before:
                told(ended / len(names))
        return [_completion(parts[name]) for name in names]

    def room(self, prompt: Prompt) -> int:
        """How many tokens an answer to this prompt can have at most; 0 or less: none."""
        taken = self._virtual_tokens + len(prompt)
        return sys.maxsize if self.context is None else self.context - taken

    # -- entering and leaving --------------------------------------------------------------------------------------

    def _check(self, tokens: list[int]) -> None:
        if not tokens:
            raise UserError("the prompt is empty", next_step="give at least one token")
        if self.room(tokens) <= 0:
            raise UserError(
                f"the prompt has {self._virtual_tokens + len(tokens)} tokens and the model's context is {self.context}: no room for an answer",
                next_step="shorten the prompt, or drop the oldest turns of the conversation",
            )
        vocabulary = without_adapter(self.model).config.get_text_config().vocab_size
        if not 0 <= min(tokens) <= max(tokens) < vocabulary:
            raise ModelError(
                f"the prompt has token {max(tokens)} and the model knows {vocabulary} tokens",
                next_step="use the tokenizer that belongs to the model",
            )

    def _answers(self) -> Iterator[_Answer]:
        yield from self._waiting
        for entering in self._entering:
            yield from entering.answers
        for _, answers in self._running:
            yield from answers

    def _step_in_slots(self, decoder: SlotDecoder) -> list[Increment]:
        told: list[Increment] = []
        if not (self._running or self._entering):
            decoder.refresh()
        for cohort, answers in self._running:
            assert isinstance(cohort, SlotCohort)
            told += self._advance(
                cohort, answers, decoder.decode(cohort.rows, [answer.tokens[-1] for answer in answers])
            )
        self._running = [(cohort, answers) for cohort, answers in self._running if answers]
        left = self.max_prefill
        while left > 0:
            self._let_in(decoder)
            pieces = next_pieces(self._entering, left)
            if not pieces:
                break
            left -= sum(len(piece.tokens) for _, piece in pieces)
            logits_PV = decoder.extend([piece for _, piece in pieces])
            done = [entering for entering, piece in pieces if piece.last]
            if done:
                told += self._join(decoder, done, logits_PV)
        return told

    def _let_in(self, decoder: SlotDecoder) -> None:
        """Waiting prompts become entering ones, in their order, as long as there are places and memory."""
        present = [answer for entering in self._entering for answer in entering.answers]
        present += [answer for _, answers in self._running for answer in answers]
        used = sum(len(answer.prompt) + answer.most for answer in present)
        count = len(present)
        same = {tuple(entering.prompt): entering for entering in self._entering}
        while self._waiting and count < self.max_batch:
            answer = self._waiting[0]
            size = len(answer.prompt) + answer.most
            if count and used + size > self.max_tokens:
                return
            self._waiting.popleft()
            count, used = count + 1, used + size
            known = same.get(tuple(answer.prompt))
            if known:
                known.answers.append(answer)
                continue
            entering = Entering([answer], answer.prompt, decoder.slots.new(len(answer.prompt)))
            same[tuple(answer.prompt)] = entering
            self._entering.append(entering)

    def _join(self, decoder: SlotDecoder, done: list[Entering[_Answer]], logits_PV: Tensor) -> list[Increment]:
        """Prompts that are done become running answers; those that have the same prompt get a copy of its row."""
        rows: list[SlotRow] = []
        answers: list[_Answer] = []
        sources: list[int] = []
        for index, entering in enumerate(done):
            self._entering.remove(entering)
            copies = [decoder.slots.copy(entering.row, entering.row.length) for _ in entering.answers[1:]]
            rows += [entering.row, *copies]
            answers += entering.answers
            sources += [index] * len(entering.answers)
        cohort = SlotCohort(decoder.slots, rows)
        told = self._advance(cohort, answers, logits_PV[sources] if len(sources) > len(done) else logits_PV)
        if answers and self._running:
            running = self._running[0][0]
            assert isinstance(running, SlotCohort)
            running.rows += cohort.rows
            self._running[0][1].extend(answers)
        elif answers:
            self._running.append((cohort, answers))
        return told

    def _admit(self) -> list[_Answer]:
        """The waiting prompts that enter now as one prefill. While more than half of the places are taken they wait, so
        that in a long queue they enter many at a time and not one by one."""
        running = [answer for _, answers in self._running for answer in answers]
        if len(running) > self.max_batch // 2:
            return []
        used = sum(len(answer.prompt) + answer.most for answer in running)
        chosen: list[_Answer] = []
        width = 0
        while self._waiting and len(running) + len(chosen) < self.max_batch:
            answer = self._waiting[0]
            used += len(answer.prompt) + answer.most
            width = max(width, len(answer.prompt))
            first = not (chosen or running)
            if not first and used > self.max_tokens:
                break
            if chosen and (width * (len(chosen) + 1) > self.max_prefill or not self._fits(chosen, answer)):
                break
            chosen.append(self._waiting.popleft())
        return chosen

    def _fits(self, chosen: list[_Answer], answer: _Answer) -> bool:
        return self._decoder.pads or len(answer.prompt) == len(chosen[0].prompt)

    def _enter(self, answers: list[_Answer]) -> list[Increment]:
        """Prefill; prompts that are the same are computed once."""
        distinct = list(dict.fromkeys(tuple(answer.prompt) for answer in answers))
        rows = [distinct.index(tuple(answer.prompt)) for answer in answers]
        cohort, logits_NV = self._decoder.prefill([list(prompt) for prompt in distinct])
        cohort.select(rows)
        told = self._advance(cohort, answers, logits_NV[rows])
        if answers and self._running and self._decoder.mergeable:
            running = self._running[0][0]
            assert isinstance(running, Cohort)
            running.merge(cohort)
            self._running[0][1].extend(answers)
        elif answers:
            self._running.append((cohort, answers))
        return told

    def _keep(self, cohort: Cohort | SlotCohort, answers: list[_Answer], rows: list[int]) -> None:
        if len(rows) == len(answers):
            return
        answers[:] = [answers[row] for row in rows]
        if isinstance(cohort, SlotCohort):
            cohort.select(rows)
        elif rows:
            cohort.select(rows)
            if self._decoder.mergeable:
                cohort.trim()

    # -- tokens ----------------------------------------------------------------------------------------------------

    def _advance(self, cohort: Cohort | SlotCohort, answers: list[_Answer], logits_NV: Tensor) -> list[Increment]:
        """Choose each row's token; rows that end leave `cohort` and `answers`."""
        tokens, logprobs = self._choose(answers, logits_NV)
        likeliest = _likeliest(answers, logits_NV)
        told = [self._tell(*entry) for entry in zip(answers, tokens, logprobs, likeliest, strict=True)]
        self._keep(cohort, answers, [row for row, increment in enumerate(told) if increment.finished is None])
        return told

    def _choose(self, answers: list[_Answer], logits_NV: Tensor) -> tuple[list[int], list[float | None]]:
        logits_NV = logits_NV.float()
        if not torch.isfinite(logits_NV.amax(-1)).all():  # amax passes NaN on; -inf is a token that is ruled out
            raise ModelError(
                "the model's output is not a number: its weights are damaged or its training diverged",
                next_step="take an earlier checkpoint or version of the model",
            )
        tokens_N = torch.empty(len(answers), dtype=torch.long, device=logits_NV.device)
        for shape in {answer.how.shape for answer in answers}:
            rows = [row for row, answer in enumerate(answers) if answer.how.shape == shape]
            group = [answers[row] for row in rows]
            tokens_N[rows] = draw.choose(
                logits_NV[rows] if len(rows) < len(answers) else logits_NV,
                group[0].how,
                [draw.uniform(answer.key, len(answer.tokens)) for answer in group],
                prompts=[answer.prompt for answer in group],
                answers=[answer.tokens for answer in group],
            )
        if not any(answer.how.logprobs for answer in answers):
            return tokens_N.tolist(), [None] * len(answers)
        values = draw.logprobs(logits_NV, tokens_N).tolist()
        return tokens_N.tolist(), [
            value if answer.how.logprobs else None for answer, value in zip(answers, values, strict=True)
        ]

    def _tell(self, answer: _Answer, token: int, logprob: float | None, likeliest: Likeliest) -> Increment:
        answer.tokens.append(token)
        finished: Finish | None = None
        text = ""
        if token in self.eos_ids:
            finished = "stop"
        else:
            if answer.streams:
                text = answer.stream.add(token)
            else:
                answer.stream.keep(token)
            if len(answer.tokens) >= answer.most:
                finished = "length"
        if finished:
            text += answer.stream.finish()
        if answer.stream.stopped:
            finished = "stop"
        return Increment(answer.id, token, text, logprob, finished, likeliest)


def _likeliest(answers: Sequence[_Answer], logits_NV: Tensor) -> list[Likeliest]:
    """What each answer asked to see of them."""
    most = max(answer.how.top_logprobs for answer in answers)
    if not most:
        return [()] * len(answers)
    found = draw.likeliest(logits_NV, most)
    return [row[: answer.how.top_logprobs] for answer, row in zip(answers, found, strict=True)]


def _kind_of(model: nn.Module) -> str:
    weight = next(model.parameters())
    return (
        f"{type(without_adapter(model)).__name__} in {str(weight.dtype).removeprefix('torch.')} on {weight.device.type}"
    )


def ends_of(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: by the generation config, by the config, by the tokenizer and its chat template."""
    found: list[int] = []
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        ends = getattr(config, "eos_token_id", None)
        found += ends if isinstance(ends, list) else [ends] if isinstance(ends, int) else []
    return list(dict.fromkeys([*found, *end_tokens(tokenizer)]))


def context_of(model: nn.Module) -> int | None:
    """The longest sequence that the model was built for, in tokens; None where it does not say."""
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    size = getattr(config, "max_position_embeddings", None)
    return size if isinstance(size, int) and size > 0 else None


def longest_row(model: nn.Module) -> int | None:
    """Tokens that fit into the context beside the virtual ones of prompt tuning; None where the model does not say."""
    size = context_of(model)
    return None if size is None else size - virtual_tokens(model)


def _completion(parts: Sequence[Increment]) -> Completion:
    tokens = [part.token for part in parts if part.token is not None]
    logprobs = [part.logprob for part in parts if part.logprob is not None]
    finish = parts[-1].finished
    assert finish is not None  # the loop ended, so each answer did
    return Completion(
        np.array(tokens, dtype=np.int32),
        "".join(part.text for part in parts),
        np.array(logprobs, dtype=np.float32),
        finish,
    )


@contextlib.contextmanager
def _looking(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Eval mode, no gradients, and each module's own mode back afterwards.

    Not `torch.inference_mode`: some models recompute a rotary buffer in the forward pass, and training could not use a
    tensor made there.
    """
    device = next(model.parameters()).device.type
    with in_eval_mode(model), torch.no_grad(), torch.autocast(device, dtype=dtype, enabled=dtype is not None):
        yield
