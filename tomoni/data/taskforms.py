"""Forms of data for the tasks of encoders: texts with labels, pairs of texts, marked spans, questions. No torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tomoni.data.badrows import BadValue
from tomoni.data.characters import inside_character, is_unspaced
from tomoni.data.files import RawRow
from tomoni.data.made import Made, kind_of_value, list_of, text_of
from tomoni.records import Labelled, Question, Source, Span, Tagged, TextPair

Label = str | float | tuple[str, ...]
SHOWN = 30  # characters of a text quoted in a message


def label_of(value: Any, column: str = "label") -> Label:
    """A class (text, or a truth value), a number, or several classes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        if not math.isfinite(value):
            raise BadValue("not_a_number", f"{column} is {value}")
        return float(value)
    if isinstance(value, str):
        return text_of(value, column)
    if isinstance(value, list):
        names = tuple(_class_of(part, f"{column}[{index}]") for index, part in enumerate(value))
        if len(set(names)) < len(names):
            raise BadValue("wrong_value", f"{column} names a class twice")
        return names
    if value is None:
        raise BadValue("empty", column)
    raise BadValue("wrong_value", f"{column} is {kind_of_value(value)}")


def _class_of(value: Any, place: str) -> str:
    label = label_of(value, place)
    if isinstance(label, tuple):
        raise BadValue("wrong_value", f"{place} is a list in a list")
    return label if isinstance(label, str) else class_name(label, place)


def class_name(number: float, place: str = "label") -> str:
    """What a class is called that the file writes as a whole number."""
    if number != int(number):
        raise BadValue("wrong_value", f"{place} is {number:g}, which is no class; `tomoni regress` learns numbers")
    return str(int(number))


def labelled(row: Mapping[str, Any], source: Source, extra: Mapping[str, Any]) -> Made:
    text, label = text_of(row["text"], "text"), label_of(row["label"])
    return Made([text, label], lambda id: Labelled(id, source, text, label, extra))


def text_pair(row: Mapping[str, Any], source: Source, extra: Mapping[str, Any]) -> Made:
    first, second = text_of(row["sentence1"], "sentence1"), text_of(row["sentence2"], "sentence2")
    label = label_of(row["label"])
    if isinstance(label, tuple):
        raise BadValue("wrong_value", "label is a list; a pair has one class or one number")
    return Made([first, second, label], lambda id: TextPair(id, source, first, second, label, extra))


# -- spans -----------------------------------------------------------------------------------------------------------


def tagged(row: Mapping[str, Any], source: Source, extra: Mapping[str, Any]) -> Made:
    """`spans` holds objects with start, end and type (or label), [start, end, type], or span: [start, end] and type."""
    text = text_of(row["text"], "text")
    parts = list_of(row["spans"], "spans")
    spans = tuple(sorted((_span(part, f"spans[{i}]") for i, part in enumerate(parts)), key=lambda s: (s.start, s.end)))
    check_spans(text, spans)
    for part in parts:
        _check_name(text, part)
    return _tagged(text, spans, source, extra)


def _tagged(text: str, spans: tuple[Span, ...], source: Source, extra: Mapping[str, Any]) -> Made:
    content = [text, [[span.start, span.end, span.type] for span in spans]]
    return Made(content, lambda id: Tagged(id, source, text, spans, extra))


def _span(part: Any, place: str) -> Span:
    if isinstance(part, dict):
        if isinstance(part.get("span"), list) and len(part["span"]) == 2:
            start, end = part["span"]
        else:
            start, end = part.get("start"), part.get("end")
        kind = part.get("type", part.get("label"))
    elif isinstance(part, list) and len(part) == 3:
        start, end, kind = part
    else:
        raise BadValue("wrong_value", f"{place} is {kind_of_value(part)}, not start, end and type")
    for name, value in (("start", start), ("end", end)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadValue("wrong_value", f"{place}.{name} is {kind_of_value(value)}; it counts characters from 0")
    return Span(start, end, text_of(kind, f"{place}.type"))


def check_spans(text: str, spans: Sequence[Span]) -> None:
    """BadValue for spans (in order of their starts) out of the text, that overlap, or that split a character."""
    for span in spans:
        if not 0 <= span.start < span.end <= len(text):
            raise BadValue("outside", f"[{span.start}, {span.end}) of a text of {len(text)} characters")
        for place in (span.start, span.end):
            if inside_character(text, place):
                raise BadValue("splits_character", f"{place} stands inside {text[max(0, place - 1) : place + 1]!r}")
    for one, other in itertools.pairwise(spans):
        if other.start < one.end:
            raise BadValue(
                "overlap", f"[{one.start}, {one.end}) {one.type} and [{other.start}, {other.end}) {other.type}"
            )


def _check_name(text: str, part: Any) -> None:
    """Some files repeat the marked text; where it is another one, the offsets count something else than characters."""
    if not isinstance(part, dict) or not isinstance(name := part.get("name", part.get("text")), str):
        return
    span = _span(part, "spans")
    if text[span.start : span.end] != name:
        raise BadValue(
            "elsewhere", f"[{span.start}, {span.end}) is {text[span.start : span.end][:SHOWN]!r}, not {name[:SHOWN]!r}"
        )


def tokens(row: Mapping[str, Any], source: Source, extra: Mapping[str, Any]) -> Made:
    """Words with a tag each (B-X, I-X, O); the text is the words joined, with spaces where the script has them."""
    words = [text_of(word, f"tokens[{i}]") for i, word in enumerate(list_of(row["tokens"], "tokens"))]
    tags = list_of(row["ner_tags"], "ner_tags")
    if not words:
        raise BadValue("empty", "tokens")
    if len(tags) != len(words):
        raise BadValue("wrong_value", f"{len(tags)} ner_tags for {len(words)} tokens")
    if any(isinstance(tag, int) for tag in tags):
        raise BadValue("wrong_value", "ner_tags are numbers; write their names (B-PER, I-PER, O)")
    text, places = joined(words)
    spans = spans_of_tags([text_of(tag, f"ner_tags[{i}]") for i, tag in enumerate(tags)], places)
    check_spans(text, spans)
    return _tagged(text, spans, source, extra)


def joined(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """One text of words, and where each stands in it."""
    text, places = "", []
    for word in words:
        if text and not is_unspaced(text[-1]) and not is_unspaced(word[0]):
            text += " "
        places.append((len(text), len(text) + len(word)))
        text += word
    return text, places


def spans_of_tags(tags: Sequence[str], places: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
    """Spans of BIO tags over stretches of a text, as CoNLL's script reads them: an I- behind another type, or behind
    O, begins a new one."""
    spans: list[Span] = []
    for index, tag in enumerate(tags):
        if tag == "O":
            continue
        mark, _, kind = tag.partition("-")
        if mark not in ("B", "I") or not kind:
            raise BadValue("wrong_value", f"ner_tags[{index}] is {tag[:SHOWN]!r}; possible: O, B-TYPE, I-TYPE")
        start, end = places[index]
        goes_on = mark == "I" and index > 0 and tags[index - 1] in (f"B-{kind}", f"I-{kind}")
        if goes_on:
            spans[-1] = replace(spans[-1], end=end)
        else:
            spans.append(Span(start, end, kind))
    return tuple(spans)


# -- questions -------------------------------------------------------------------------------------------------------


def question(row: Mapping[str, Any], source: Source, extra: Mapping[str, Any]) -> Made:
    """SQuAD's flat form: answers {text: [...], answer_start: [...]}, both empty where there is no answer."""
    asked, context = text_of(row["question"], "question"), text_of(row["context"], "context")
    answers = tuple(_answers(row["answers"]))
    if row.get("is_impossible") is True:
        if answers:
            raise BadValue("wrong_value", "is_impossible is true, and there are answers")
    elif row.get("is_impossible") is False and not answers:
        raise BadValue("wrong_value", "is_impossible is false, and there is no answer")
    for start, text in answers:
        _check_answer(context, start, text)
    content = [asked, context, [list(answer) for answer in answers]]
    return Made(content, lambda id: Question(id, source, asked, context, answers, extra))


def _answers(value: Any) -> Iterator[tuple[int, str]]:
    if isinstance(value, list):  # SQuAD's nested form: objects
        if not all(isinstance(part, dict) for part in value):
            raise BadValue("wrong_value", "answers must be objects with text and answer_start")
        value = {key: [part.get(key) for part in value] for key in ("text", "answer_start")}
    if not isinstance(value, dict):
        raise BadValue("wrong_value", f"answers is {kind_of_value(value)}, not an object with text and answer_start")
    texts, starts = (list_of(value.get(key), f"answers.{key}") for key in ("text", "answer_start"))
    if len(texts) != len(starts):
        raise BadValue("wrong_value", f"{len(texts)} answers with {len(starts)} starts")
    for index, (text, start) in enumerate(zip(texts, starts, strict=True)):
        if isinstance(start, bool) or not isinstance(start, int):
            raise BadValue("wrong_value", f"answers.answer_start[{index}] is {kind_of_value(start)}")
        yield start, text_of(text, f"answers.text[{index}]")


def _check_answer(context: str, start: int, text: str) -> None:
    if not 0 <= start <= len(context) or context[start : start + len(text)] != text:
        place = context.find(text)
        hint = f"; it stands at {place}" if place >= 0 else "; it does not stand in the context"
        raise BadValue("elsewhere", f"{text[:SHOWN]!r} is not at {start}{hint}")
    for place in (start, start + len(text)):
        if inside_character(context, place):
            raise BadValue("splits_character", f"{place} stands inside {context[max(0, place - 1) : place + 1]!r}")


def expanded(raw: RawRow, first: int) -> Iterator[RawRow]:
    """SQuAD's nested form as rows, one a question, counted on from `first`; any other row as it is."""
    articles = raw.values.get("data") if not raw.fault else None
    if not isinstance(articles, list):
        articles = [raw.values] if isinstance(raw.values.get("paragraphs"), list) else None
    if articles is None or not all(isinstance(article, dict) and "paragraphs" in article for article in articles):
        yield raw
        return
    number = first
    for place, article in enumerate(articles):
        for values, where in _questions_of(article, f"data[{place}]"):
            fault = values if isinstance(values, BadValue) else None
            row = values if isinstance(values, dict) else {}
            yield RawRow(raw.file, number, None, f"{where} {row.get('question', '')}", row, fault)
            number += 1


def _questions_of(article: Mapping[str, Any], where: str) -> Iterator[tuple[dict[str, Any] | BadValue, str]]:
    title = article.get("title")
    paragraphs = article.get("paragraphs")
    for p, paragraph in enumerate(paragraphs if isinstance(paragraphs, list) else ()):
        asked = paragraph.get("qas") if isinstance(paragraph, dict) else None
        place = f"{where}.paragraphs[{p}]"
        if not isinstance(asked, list):
            yield BadValue("missing_column", f"{place}.qas"), place
            continue
        for q, entry in enumerate(asked):
            if not isinstance(entry, dict):
                yield BadValue("not_an_object", f"{place}.qas[{q}]"), place
                continue
            row = {**entry, "context": paragraph.get("context"), "answers": entry.get("answers", [])}
            yield (row if title is None else row | {"title": title}), f"{place}.qas[{q}]"
