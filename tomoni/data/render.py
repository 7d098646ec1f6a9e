"""Records become rows: tokens, and how much predicting each of them counts. No torch to import.

One function turns a rendered conversation into tokens, for training and for prompts, so that a model meets at
inference exactly what it was trained on. Control tokens come from the template only: a content that spells one is
tokenised as the plain characters it is made of.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tomoni.data.templates import Conversation, Layout, Template, default_template
from tomoni.data.tokenize import Encoder
from tomoni.errors import DataError, ModelError
from tomoni.records import Chat, Comparison, Message, Prompt, Source, Text
from tomoni.rows import Int32, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LossOn = Literal["assistant", "last", "all"]
OnLongRows = Literal["stop", "truncate", "drop"]


class TooLong(DataError):
    """A row is longer than max_length under on_long_rows="stop"; who reads many records collects these."""

    def __init__(self, name: str, length: int, max_length: int) -> None:
        self.name = name
        self.length = length
        super().__init__(
            f"{name}: {length} tokens, and max_length is {max_length}",
            next_step=f"set max_length to {length} or more (if the model reads so many), or on_long_rows to truncate or drop",
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a rendered conversation: a control token (`id`) or plain text, wholly learnt or not at all."""

    text: str
    id: int | None
    learnt: bool
    continues: bool  # plain text right behind plain text


class Renderer:
    """Records to rows with one tokenizer and one template.

    `template` is the Jinja text (the tokenizer's own unless given, else a default), `template_sha256` its hash,
    `notes` what a user should know about them, `left_out` counts what did not become a row, by reason, `truncated` counts
    rows cut to max_length, `contradictions` pairs or thumbs whose opposite was read before. `stop_tokens` are the ids that end an answer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: str | None = None,
        loss_on: LossOn = "assistant",
        max_length: int = 1024,
        on_long_rows: OnLongRows = "stop",
    ) -> None:
        self.tokenizer = tokenizer
        self.encoder = Encoder(tokenizer)
        self.loss_on = loss_on
        self.max_length = max_length
        self.on_long_rows = on_long_rows
        self.notes: list[str] = []
        self.template = template if template is not None else self._own_template()
        self.template_sha256 = hashlib.sha256(self.template.encode()).hexdigest()
        self.left_out: Counter[str] = Counter()
        self.truncated = 0
        self.seen: set[bytes] = set()  # what pairs and thumbs said, see `data.pairs`
        self.thumbs: Counter[bool] = Counter()
        self.contradictions = 0
        self._template = Template(tokenizer, self.template)
        if self._template.tells_date:
            self.notes.append("the chat template writes the date; rows keep that of the day on which they were made")
        self.stop_tokens = self._stop_tokens()

    def begin_part(self) -> None:
        """Counting begins anew."""
        self.left_out.clear()
        self.seen.clear()
        self.thumbs.clear()
        self.truncated = self.contradictions = 0

    def _own_template(self) -> str:
        own = getattr(self.tokenizer, "chat_template", None)
        if isinstance(own, Mapping):  # several named templates
            own = own.get("default")
        if own:
            return str(own)
        self.notes.append("the model has no chat template; the default one is used and saved with it")
        return default_template(self.tokenizer, adds_bos=bool(self.encoder.bos))

    def _stop_tokens(self) -> tuple[int, ...]:
        """The end-of-text token, and the control token that the template puts behind an answer."""
        stops = [] if self.encoder.eos is None else [self.encoder.eos]
        probe = Conversation((Message("user", "x"), Message("assistant", "y")), name="a conversation to try")
        try:
            layout = self._template.lay_out(probe)
        except DataError:
            return tuple(stops)  # the records will say what is wrong
        end = layout.answers[-1][1]
        behind = [special for start, special in _specials_in(layout.text, end, len(layout.text), self.encoder)]
        if behind:
            stops = [behind[0], *(stop for stop in stops if stop != behind[0])]
        elif stops:
            self.notes.append("the chat template puts no end-of-text token behind the last answer; it is added")
        return tuple(stops)

    # conversations

    def chat(self, record: Chat) -> Row | None:
        """One row of a conversation; None where it is left out (counted in `left_out`)."""
        talk = Conversation(record.messages, record.tools, record.template_kwargs, _name(record.source, record.id))
        return self._row(talk, self._learnt(record.messages), everything=self.loss_on == "all")

    def comparison(self, record: Comparison) -> tuple[Row, Row] | None:
        """(first, second): the prompt with each answer, loss on the answer's turns; None where one is left out."""
        name, shared = _name(record.source, record.id), (record.tools, record.template_kwargs)
        first = self.completion(record.prompt, record.first, *shared, name=name)
        if first is None:  # a pair is left out once
            return None
        second = self.completion(record.prompt, record.second, *shared, name=name)
        return None if second is None else (first, second)

    def completion(
        self,
        prompt: Sequence[Message],
        completion: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        template_kwargs: Mapping[str, Any] | None = None,
        *,
        name: str = "the conversation",
    ) -> Row | None:
        """One row of prompt and completion with the loss on the completion's assistant turns, whatever `loss_on`."""
        messages = (*prompt, *completion)
        learnt = frozenset(
            index
            for index, message in enumerate(messages)
            if index >= len(prompt) and message.role == "assistant" and message.train is not False
        )
        return self._row(Conversation(messages, tuple(tools), template_kwargs or {}, name), learnt, everything=False)

    def prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> Int32:
        """Tokens that ask for an answer: int32 [T]. `chat` of the same messages and an answer begins with them."""
        talk = Conversation(tuple(messages), tuple(tools), template_kwargs or {}, "the prompt")
        self._refuse_specials_in_extras(talk)
        layout = self._template.lay_out(talk, generation=True)
        tokens, _ = self._tokens(talk, self._pieces(layout, talk, frozenset(), everything=False))
        return np.asarray(tokens, dtype=np.int32)

    def asked(self, messages: Sequence[Message], record: Prompt | Chat | Comparison) -> Int32 | None:
        """`prompt` of a record's messages; None, and counted in `left_out`, where it is longer than max_length and
        long rows are not to stop: a prompt that is cut would ask something else."""
        tokens = self.prompt(messages, record.tools, record.template_kwargs)
        if len(tokens) <= self.max_length:
            return tokens
        if self.on_long_rows == "stop":
            raise TooLong(_name(record.source, record.id), len(tokens), self.max_length)
        self.left_out["prompt longer than max_length"] += 1
        return None

    def _learnt(self, messages: Sequence[Message]) -> frozenset[int]:
        """Messages that are learnt: by the config, unless a message says otherwise."""
        answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
        chosen = {"assistant": answers, "last": answers[-1:], "all": list(range(len(messages)))}[self.loss_on]
        return frozenset(
            index
            for index, message in enumerate(messages)
            if (index in chosen if message.train is None else message.train)
        )

    def _row(self, talk: Conversation, learnt: frozenset[int], *, everything: bool) -> Row | None:
        self._refuse_specials_in_extras(talk)
        layout = self._template.lay_out(talk)
        tokens, weights = self._tokens(talk, self._pieces(layout, talk, learnt, everything))
        if self._unended(layout, talk):
            if self.encoder.eos is None:
                raise ModelError(
                    "neither the chat template nor the tokenizer has a token that ends an answer",
                    next_step="set eos_token in the model's tokenizer_config.json",
                )
            tokens.append(self.encoder.eos)
            weights.append(float(len(talk.messages) - 1 in learnt))
        weights[0] = 0.0  # nothing predicts the first token
        return self._fit(tokens, weights, talk.name)

    def _refuse_specials_in_extras(self, talk: Conversation) -> None:
        """Tools and tool calls are written by the template itself, so a control token spelt in them cannot be told apart."""
        pattern = self.encoder.pattern
        parts = [message.extra for message in talk.messages if message.extra] + list(talk.tools)
        if pattern and parts and (found := pattern.search(" ".join(_strings(parts)))):
            raise DataError(
                f"{talk.name}: a tool or tool call spells the control token {found.group()!r}",
                next_step="remove it from the record",
            )

    def _tokens(self, talk: Conversation, pieces: Iterator[Piece]) -> tuple[list[int], list[float]]:
        tokens: list[int] = []
        weights: list[float] = []
        for piece in pieces:
            ids = [piece.id] if piece.id is not None else self.encoder.plain(piece.text, continues=piece.continues)
            tokens += ids
            weights += [float(piece.learnt)] * len(ids)
        if not tokens:
            raise DataError(
                f"{talk.name}: the chat template writes nothing for it",
                next_step="set chat_template to a Jinja file that writes every message",
            )
        return tokens, weights

    def _unended(self, layout: Layout, talk: Conversation) -> bool:
        if talk.messages[-1].role != "assistant":
            return False
        end = layout.answers[-1][1]
        behind = _specials_in(layout.text, end, len(layout.text), self.encoder)
        return not any(special in self.stop_tokens for _, special in behind)

    def _pieces(self, layout: Layout, talk: Conversation, learnt: frozenset[int], everything: bool) -> Iterator[Piece]:
        """Cut the text at control tokens, at every answer's begin, and where learning begins and ends.

        Between two cuts template and content are tokenised as one, exactly as the whole text would be.
        """
        specials = self._template_specials(layout)
        regions = self._regions(layout, talk, learnt, specials, everything)
        cuts = {start for start, _, _ in layout.answers} | {edge for region in regions for edge in region[:2]}
        cuts |= {0, len(layout.text)}
        inside = {start: (end, special) for start, end, special in specials}
        covered = [(start, end) for start, end, _ in specials]
        cuts = {cut for cut in cuts if not any(start < cut < end for start, end in covered)}
        cuts |= {edge for span in covered for edge in span}
        places = sorted(cuts)
        behind_text = False
        for start, end in itertools.pairwise(places):
            learn = self._learns(start, regions, everything)
            if start in inside:
                yield Piece(layout.text[start:end], inside[start][1], learn, False)
                behind_text = not self.encoder.marks_after_special
            else:
                yield Piece(layout.text[start:end], None, learn, behind_text)
                behind_text = True

    @staticmethod
    def _learns(position: int, regions: list[tuple[int, int, bool]], everything: bool) -> bool:
        for start, end, learn in regions:
            if start <= position < end:
                return learn
        return everything

    def _regions(
        self,
        layout: Layout,
        talk: Conversation,
        learnt: frozenset[int],
        specials: list[tuple[int, int, int]],
        everything: bool,
    ) -> list[tuple[int, int, bool]]:
        """(start, end, learnt) of every answer with the token that ends it, and of other messages that are learnt."""
        answers = {index for _, _, index in layout.answers}
        starts = sorted(start for start, _, _ in layout.contents)
        regions = []
        for start, end, index in layout.answers:
            following = next((other for other in starts if other >= end and other > start), len(layout.text))
            stop = next((span for span in specials if end <= span[0] < following), None)
            if stop and stop[2] in self.stop_tokens:
                end = stop[1]
            elif index == len(talk.messages) - 1:
                end = len(layout.text)  # the end-of-text token is added behind it
            regions.append((start, end, index in learnt))
        for start, end, index in layout.contents:
            wanted = index in learnt
            if index not in answers and wanted != everything:
                regions.append((start, end, wanted))
        return regions

    def _template_specials(self, layout: Layout) -> list[tuple[int, int, int]]:
        """(start, end, id) of control tokens in what the template wrote, white space that they swallow included."""
        found: list[tuple[int, int, int]] = []
        position = 0
        for start, end, _ in [*layout.contents, (len(layout.text), len(layout.text), -1)]:
            stretch = layout.text[position:start]
            for match in self.encoder.pattern.finditer(stretch) if self.encoder.pattern else ():
                special = self.encoder.by_text[match.group()]
                left, right = match.span()
                if special.lstrip:
                    left = len(stretch[:left].rstrip())
                if special.rstrip:
                    right = len(stretch) - len(stretch[right:].lstrip())
                found.append((position + left, position + right, special.id))
            position = end
        return found

    # text

    def text(self, record: Text) -> list[Row]:
        """Rows of a document that ends with the end-of-text token; every token but the first is learnt exactly once.

        A document longer than max_length becomes several rows, whatever `on_long_rows` says: nothing is lost. Each
        row but the first begins with the token before it, which is only seen, not learnt again.
        """
        if self.encoder.eos is None:
            raise ModelError(
                "the tokenizer has no end-of-text token", next_step="set eos_token in the model's tokenizer_config.json"
            )
        tokens = np.asarray([*self.encoder.bos, *self.encoder.plain(record.text), self.encoder.eos], dtype=np.int32)
        return windows(tokens, self.max_length)

    def _fit(self, tokens: list[int], weights: list[float], name: str) -> Row | None:
        if len(tokens) > self.max_length:
            match self.on_long_rows:
                case "stop":
                    raise TooLong(name, len(tokens), self.max_length)
                case "drop":
                    self.left_out["longer than max_length"] += 1
                    return None
                case "truncate":
                    self.truncated += 1
                    tokens, weights = tokens[: self.max_length], weights[: self.max_length]
        if not any(weights):
            self.left_out["nothing left to learn"] += 1
            return None
        return Row(np.asarray(tokens, dtype=np.int32), np.asarray(weights, dtype=np.float32))


def windows(tokens: Int32, max_length: int) -> list[Row]:
    """Rows of at most `max_length` tokens that together predict every token of `tokens` [T] but the first once."""
    rows = []
    for start in range(0, max(1, len(tokens) - 1), max_length - 1):
        part = tokens[start : start + max_length]
        weights = np.ones(len(part), dtype=np.float32)
        weights[0] = 0.0
        rows.append(Row(part, weights))
    return rows


def _specials_in(text: str, start: int, end: int, encoder: Encoder) -> list[tuple[int, int]]:
    """(position, id) of control tokens' texts."""
    if encoder.pattern is None:
        return []
    return [(match.start(), encoder.by_text[match.group()].id) for match in encoder.pattern.finditer(text, start, end)]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield str(key)
            yield from _strings(part)
    elif isinstance(value, Sequence):
        for part in value:
            yield from _strings(part)


def _name(source: Source, id: str) -> str:
    return f"{source} (record {id})"
