"""Records of the encoders' tasks become rows. No torch to import.

    classify, regress   [CLS] text [SEP], or [CLS] first [SEP] second [SEP]     label: a class, several, a number
    tag                 windows of the text; a target for each token            targets: 0 for O, 2k+1 for B-k, 2k+2 for I-k
    span                [CLS] question [SEP] window [SEP]                       label: first and last token of the answer
    pretrain (mlm)      windows of the text                                     offsets: the word each token belongs to

One record is one item; the windows of a long text are its rows, so that they are never parted.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tomoni.data.badrows import BadValue
from tomoni.data.encode import Framed, Pieces, TextEncoder
from tomoni.data.labels import Labels, classes_of, number_of
from tomoni.data.render import OnLongRows, TooLong
from tomoni.data.words import words_of
from tomoni.errors import DataError
from tomoni.records import Labelled, Question, Record, Span, Tagged, Text, TextPair
from tomoni.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RECENT = 4  # texts that are not tokenised again at once
NO_ANSWER = (0, 0)  # the first token of a row stands for it


class TaskRenderer:
    """`labels` of classify with their `weights` (None: numbers, with their `mean` and `spread`), `labelled`: whether a
    record's label is learnt, `types` of the spans of tag, `answerable`: every question has an answer. `left_out`, `truncated` and `cut_through` (spans whose borders no
    token has) count since `begin_part`."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int = 512,
        on_long_rows: OnLongRows = "stop",
        labels: Labels | None = None,
        labelled: bool = True,
        types: Sequence[str] = (),
        stride: int = 0,
        weights: Sequence[float] | None = None,
        mean: float = 0.0,
        spread: float = 1.0,
        answerable: bool = True,
    ) -> None:
        self.tokenizer = tokenizer
        self.encoder = TextEncoder(tokenizer)
        self.max_length = max_length
        self.on_long_rows = on_long_rows
        self.labels = labels
        self.labelled = labelled
        self.types = tuple(types)
        self.stride = stride
        self.weights = None if weights is None else tuple(weights)
        self.mean, self.spread = mean, spread
        self.answerable = answerable
        self.notes: list[str] = list(self.encoder.notes)
        self.template = None
        made: list[Any] = [None if labels is None else [labels.names, labels.kind], self.types, stride, self.weights]
        made += [mean, spread, answerable]
        self.template_sha256 = hashlib.sha256(json.dumps(made, ensure_ascii=False).encode()).hexdigest()
        self.left_out: Counter[str] = Counter()
        self.truncated = self.contradictions = self.cut_through = 0
        self._recent: dict[str, Pieces] = {}

    def begin_part(self) -> None:
        self.left_out.clear()
        self.truncated = self.contradictions = self.cut_through = 0

    # -- what cannot be learnt -----------------------------------------------------------------------------------------

    def check(self, record: Record) -> None:
        """BadValue for a record that cannot be learnt with this tokenizer and these labels."""
        match record:
            case Labelled():
                self._check_label(record.label)
                self._check_known(record.text)
            case TextPair():
                self._check_label(record.label)
                self._check_known(record.first)
                self._check_known(record.second)
            case Tagged():
                self._check_known(record.text)
                for span in record.spans:
                    if self.types and span.type not in self.types:
                        raise BadValue("unknown_class", f"{span.type[:40]!r}")
            case Question():
                self._check_known(record.context)
            case _:
                pass

    def _check_label(self, label: str | float | tuple[str, ...]) -> None:
        if self.labels is not None:
            self.labels.check(label)
        elif self.labelled:  # else the record's form is what is wrong, and the method says so
            number_of(label)

    def _check_known(self, text: str) -> None:
        if not self.knows(text):
            raise BadValue("unknown_characters", f"{text[:20]!r}")

    def knows(self, text: str) -> bool:
        """A text of only unknown characters says nothing: every such text looks the same."""
        return any(id != self.encoder.unknown for id in self._pieces(text).ids)

    # -- one label a text ----------------------------------------------------------------------------------------------

    def label(self, label: str | float | tuple[str, ...]) -> Any:
        """As rows have it: a class's number, float32 [C] of several, a number brought to mean 0 and spread 1."""
        if self.labels is None:
            return (number_of(label) - self.mean) / self.spread
        numbers = [self.labels.numbers[name] for name in classes_of(label)]
        if not self.labels.several:
            return numbers[0]
        marks = np.zeros(len(self.labels.names), dtype=np.float32)
        marks[numbers] = 1
        return marks

    def weight(self, label: str | float | tuple[str, ...]) -> float:
        """Of a record by its class."""
        if self.weights is None or self.labels is None or self.labels.several:
            return 1.0
        return self.weights[self.labels.numbers[classes_of(label)[0]]]

    def whole(self, first: str, second: str | None, name: str) -> Row | None:
        """A row of one text or two, nothing of it trained; None where it is left out."""
        one = self._pieces(first)
        two = None if second is None else self._pieces(second)
        frame = self.encoder.frame
        room = self.max_length - (frame.one if two is None else frame.two)
        length = len(one) + (0 if two is None else len(two))
        if length > room:
            if self.on_long_rows == "stop":
                raise TooLong(name, length + self.max_length - room, self.max_length)
            if self.on_long_rows == "drop" or room < 2:
                self.left_out["longer than max_length"] += 1
                return None
            self.truncated += 1
            one, two = _shortened(one, two, room)
        framed = self.encoder.framed(one, two)
        return _row(framed, weights=np.zeros(len(framed.tokens), dtype=np.float32))

    # -- spans ---------------------------------------------------------------------------------------------------------

    def tagged(self, record: Tagged) -> list[Row]:
        """Windows of the text. A token in the overlap of two counts in the one where it stands further from the edge."""
        pieces = self._pieces(record.text)
        targets = self._targets(pieces, record.spans)
        rows = []
        for start, end, first, last in self._windows(len(pieces), self.encoder.frame.one):
            framed = self.encoder.framed(pieces.cut(start, end))
            head = len(self.encoder.frame.before)
            counts = np.zeros(len(framed.tokens), dtype=np.float32)
            counts[head + first - start : head + last - start] = 1
            aims = np.zeros(len(framed.tokens), dtype=np.int32)
            aims[head : head + end - start] = targets[start:end]
            rows.append(_row(framed, weights=counts, targets=aims))
        return rows

    def _targets(self, pieces: Pieces, spans: Sequence[Span]) -> np.ndarray:
        """A token belongs to the span that it overlaps; the first one of a span begins it."""
        targets = np.zeros(len(pieces), dtype=np.int32)
        for span in spans:
            inside = [i for i, (start, end) in enumerate(pieces.places) if start < span.end and end > span.start]
            if not inside:
                self.cut_through += 1
                continue
            kind = self.types.index(span.type)
            targets[inside] = 2 * kind + 2
            targets[inside[0]] = 2 * kind + 1
            ends = (pieces.places[inside[0]][0], pieces.places[inside[-1]][1])
            self.cut_through += ends != (span.start, span.end)
        return targets

    def question(self, record: Question) -> list[Row]:
        """Windows of the context behind the question. A window without the whole answer has none (`NO_ANSWER`)."""
        asked, context = self._pieces(record.question), self._pieces(record.context)
        room = self.max_length - self.encoder.frame.two
        asked = asked.cut(0, max(1, room // 2))
        answer = _tokens_of(context, record.answers)
        rows = []
        head = len(self.encoder.frame.before) + len(asked) + len(self.encoder.frame.between)
        for start, end, _, _ in self._windows(len(context), self.encoder.frame.two + len(asked)):
            framed = self.encoder.framed(asked, context.cut(start, end), places_of=1)
            counts = np.zeros(len(framed.tokens), dtype=np.float32)
            counts[0] = 1
            counts[head : head + end - start] = 1
            label = NO_ANSWER
            if answer is not None and start <= answer[0] and answer[1] < end:
                label = (head + answer[0] - start, head + answer[1] - start)
            rows.append(_row(framed, weights=counts, targets=framed.tokens, label=label))
        return rows

    # -- masked language modelling -------------------------------------------------------------------------------------

    def words(self, record: Text) -> list[Row]:
        """Windows of the text; `offsets` [T, 2] name the word of each token, -1 for the frame's."""
        pieces = self._pieces(record.text)
        numbers = words_of(record.text, pieces)
        room = self.max_length - self.encoder.frame.one
        rows = []
        for start in range(0, len(pieces), room):
            framed = self.encoder.framed(pieces.cut(start, start + room))
            head = len(self.encoder.frame.before)
            of_word = np.full((len(framed.tokens), 2), -1, dtype=np.int32)
            part = np.asarray(numbers[start : start + room], dtype=np.int32)
            of_word[head : head + len(part)] = part[:, None]
            row = _row(framed, weights=np.zeros(len(framed.tokens), dtype=np.float32))
            rows.append(row.with_(offsets=of_word, segments=None))
        return rows

    # -- inside --------------------------------------------------------------------------------------------------------

    def _pieces(self, text: str) -> Pieces:
        """A record is looked at before it is rendered; its text is tokenised once."""
        if text not in self._recent:
            if len(self._recent) >= RECENT:
                self._recent.clear()
            self._recent[text] = self.encoder.pieces(text)
        return self._recent[text]

    def _windows(self, length: int, framing: int) -> Iterator[tuple[int, int, int, int]]:
        """(start, end, first, end of those that count) of windows that fit beside `framing` tokens."""
        room = self.max_length - framing
        stride = min(self.stride, room // 2)
        if room < 1 + stride:
            raise DataError(
                f"max_length {self.max_length} leaves no room for a text",
                next_step="set a larger max_length, or a smaller stride",
            )
        step = room - stride
        starts = list(range(0, max(1, length - stride), step))
        for number, start in enumerate(starts):
            end = min(length, start + room)
            first = start if number == 0 else start + stride // 2
            last = end if number == len(starts) - 1 else start + step + stride // 2
            yield start, end, first, last


def _row(framed: Framed, **columns: Any) -> Row:
    offsets = framed.places if "targets" in columns else None
    return Row(tokens=framed.tokens, segments=framed.segments, offsets=offsets, **columns)


def _shortened(one: Pieces, two: Pieces | None, room: int) -> tuple[Pieces, Pieces | None]:
    """The end is cut off; of two texts the longer one's, until both are of a length."""
    if two is None:
        return one.cut(0, room), None
    first = min(len(one), max(room - len(two), room // 2))
    return one.cut(0, first), two.cut(0, room - first)


def _tokens_of(context: Pieces, answers: Sequence[tuple[int, str]]) -> tuple[int, int] | None:
    """First and last token of the first answer."""
    if not answers:
        return None
    start, end = answers[0][0], answers[0][0] + len(answers[0][1])
    inside = [i for i, place in enumerate(context.places) if place[0] < end and place[1] > start]
    return (inside[0], inside[-1]) if inside else None
