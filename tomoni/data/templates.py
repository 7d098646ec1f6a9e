"""What a chat template writes, and where in it each message's content stands. No torch to import.

The template is rendered twice: with the real contents, and with a mark in the place of each. The second rendering
says where the contents go; aligning it with the first proves that the template writes every content once and
unchanged (or only trimmed). What cannot be aligned is refused, because a mask over it would be a guess.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateSyntaxError

from tomoni.errors import ConfigError, DataError
from tomoni.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = re.compile("\ue000(\\d+)\ue001")
# names that apply_chat_template itself reads
RESERVED = (
    "conversation", "tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message",
    "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs", "messages",
)  # fmt: skip

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# for tokenizers without ChatML's control tokens; a person could write such a marker too, but never the end of text
MARKERS = (
    "{% for message in messages %}{{ '### ' + message['role']|capitalize + ':\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token + '\\n' }}{% else %}{{ '\\n\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is given to a template."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    name: str = "the conversation"  # for messages to the user

    def before(self, index: int) -> Conversation:
        return Conversation(self.messages[:index], self.tools, self.template_kwargs, self.name)


@dataclass(frozen=True, slots=True)
class Layout:
    """A rendered conversation: its text, and where the contents and the answers stand in it."""

    text: str
    contents: tuple[tuple[int, int, int], ...]  # (start, end, message), by start; without empty contents
    answers: tuple[tuple[int, int, int], ...]  # (start, end, message) of assistant turns: from the end of the prompt


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A rendering with marks: `literals[k]`, then message `order[k]`'s content, then `literals[k + 1]` …"""

    text: str
    literals: tuple[str, ...]
    order: tuple[int, ...]


def default_template(tokenizer: PreTrainedTokenizerBase, *, adds_bos: bool) -> str:
    """ChatML where the tokenizer has its control tokens, else plain-text markers with the end-of-text token."""
    vocabulary = tokenizer.get_vocab()
    body = CHATML if "<|im_start|>" in vocabulary and "<|im_end|>" in vocabulary else MARKERS
    return "{{ bos_token }}" + body if adds_bos and tokenizer.bos_token else body


class Template:
    """A chat template and its tokenizer's variables; `lay_out` is the whole of it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str) -> None:
        self.tokenizer = tokenizer
        self.text = text
        self.tells_date = "strftime_now" in text
        self._skeletons: dict[Any, Skeleton] = {}

    def render(self, talk: Conversation, *, generation: bool, marked: bool = False) -> str:
        """The template's text, in transformers' immutable sandbox; raises DataError with the template's own words."""
        clash = [key for key in talk.template_kwargs if key in RESERVED]
        if clash:
            raise DataError(
                f"{talk.name}: chat_template_kwargs cannot set {', '.join(clash)}",
                next_step="remove it from the record: tomoni sets it itself",
            )
        dicts = [
            {
                "role": message.role,
                "content": f"\ue000{index}\ue001" if marked and message.content else message.content,
                **message.extra,
            }
            for index, message in enumerate(talk.messages)
        ]
        try:
            text: Any = self.tokenizer.apply_chat_template(
                dicts,
                tools=list(talk.tools) or None,  # type: ignore[arg-type]
                chat_template=self.text,
                add_generation_prompt=generation,
                tokenize=False,
                **talk.template_kwargs,
            )
        except TemplateSyntaxError as error:
            raise ConfigError(
                f"the chat template is not Jinja: line {error.lineno}: {error.message}",
                next_step="mend it in the model's folder, or set chat_template to a Jinja file",
            ) from error
        except Exception as error:  # a template can raise anything, and the sandbox its own errors
            raise DataError(
                f"{talk.name}: the chat template refuses it: {str(error)[:300]}",
                next_step="mend the record, or set chat_template to a Jinja file that accepts it",
            ) from error
        return str(text)

    def skeleton(self, talk: Conversation, *, generation: bool) -> Skeleton:
        """Where the template puts each content; kept for conversations of the same shape."""
        plain = not (talk.tools or talk.template_kwargs or any(message.extra for message in talk.messages))
        plain = plain and not self.tells_date  # a skeleton from before midnight fits no text from behind it
        key = (generation, tuple((message.role, bool(message.content)) for message in talk.messages))
        if plain and key in self._skeletons:
            return self._skeletons[key]
        text = self.render(talk, generation=generation, marked=True)
        parts = MARK.split(text)
        made = Skeleton(text, tuple(parts[::2]), tuple(map(int, parts[1::2])))
        self._check(made, talk)
        if plain and len(self._skeletons) < 4096:
            self._skeletons[key] = made
        return made

    def _check(self, skeleton: Skeleton, talk: Conversation) -> None:
        for index, message in enumerate(talk.messages):
            count = skeleton.order.count(index)
            if message.content and count != 1:
                fault = "leaves out" if count == 0 else "repeats"
                raise _unfaithful(talk, f"it {fault} message {index + 1} (of the {message.role})")
        answers = [index for index in skeleton.order if talk.messages[index].role == "assistant"]
        if answers != sorted(answers):
            raise _unfaithful(talk, "it changes the order of the answers")

    def lay_out(self, talk: Conversation, *, generation: bool = False) -> Layout:
        """The rendered text with its contents and answers found; raises DataError where that is impossible.

        The last message's answer begins where the prompt for it would end, so that training and inference see the
        same text; an answer further up begins behind the same words.
        """
        skeleton = self.skeleton(talk, generation=generation)
        text = self.render(talk, generation=generation)
        spans = align(text, skeleton, [message.content for message in talk.messages])
        if isinstance(spans, int):
            if not generation and (found := self._behind_prompt(talk, skeleton, text)):
                return found
            message = talk.messages[spans]
            raise _unfaithful(talk, f"it changes the text of message {spans + 1} (of the {message.role})")
        return Layout(text, tuple(spans), tuple(self._answers(talk, skeleton, spans, text, generation)))

    def _behind_prompt(self, talk: Conversation, skeleton: Skeleton, text: str) -> Layout | None:
        """The layout of a last answer that stands whole behind its prompt, whatever the template did to get there.

        Templates of thinking models take a thought in the answer apart and write it again; where that gives the same
        text, nothing was changed.
        """
        final = len(talk.messages) - 1
        if final == 0 or talk.messages[final].role != "assistant":
            return None
        prompt = self.lay_out(talk.before(final), generation=True)
        start = len(prompt.text)
        for answer in _variants(talk.messages[final].content):
            if text == prompt.text + answer + skeleton.literals[-1]:
                span = (start, start + len(answer), final)
                return Layout(text, (*prompt.contents, span), (*prompt.answers, span))
        return None

    def _answers(
        self, talk: Conversation, skeleton: Skeleton, spans: list[tuple[int, int, int]], text: str, generation: bool
    ) -> list[tuple[int, int, int]]:
        final = len(talk.messages) - 1
        ends_with_answer = not generation and talk.messages[final].role == "assistant"
        opening = self._opening(talk.before(final) if ends_with_answer else talk)
        places = {
            index: (start, end, literal) for (start, end, index), literal in zip(spans, skeleton.literals, strict=False)
        }
        found = []
        for index, message in enumerate(talk.messages):
            if message.role != "assistant":
                continue
            if index not in places:  # no content, only tool calls
                start = self._prompt_length(talk, index, text)
                found.append((start, start, index))
                continue
            start, end, literal = places[index]
            if index == final and ends_with_answer:
                gap = self._gap(talk, skeleton, literal, index)
                if gap is None:
                    raise _unfaithful(
                        talk,
                        "the prompt it writes for an answer is not how the finished conversation begins, "
                        "so that the model would be trained on a text it never meets",
                    )
            elif opening:
                cut = literal.rfind(opening)
                gap = len(literal) - cut - len(opening) if cut >= 0 else 0
            else:
                gap = self._gap(talk, skeleton, literal, index) or 0
            found.append((start - gap, end, index))
        return found

    def _opening(self, talk: Conversation) -> str:
        """What the template adds to ask for an answer."""
        if not talk.messages:
            return ""
        bare = self.skeleton(talk, generation=False).text
        asked = self.skeleton(talk, generation=True).text
        return asked[len(bare) :] if asked.startswith(bare) else ""

    def _gap(self, talk: Conversation, skeleton: Skeleton, literal: str, index: int) -> int | None:
        """Characters between the end of an answer's prompt and its content; None where the text begins otherwise."""
        if index == 0:
            return 0
        prompt = self.skeleton(talk.before(index), generation=True).text
        here = skeleton.text.index(f"\ue000{index}\ue001")
        if not skeleton.text.startswith(prompt) or len(prompt) > here:
            return None
        return min(here - len(prompt), len(literal))

    def _prompt_length(self, talk: Conversation, index: int, text: str) -> int:
        prompt = self.render(talk.before(index), generation=True) if index else ""
        if not text.startswith(prompt):
            raise _unfaithful(talk, f"the answer without text at message {index + 1} cannot be found in what it writes")
        return len(prompt)


def _unfaithful(talk: Conversation, why: str) -> DataError:
    return DataError(
        f"{talk.name}: the chat template cannot render it faithfully: {why}",
        next_step="set chat_template to a Jinja file that writes every message once and unchanged",
    )


def _variants(content: str) -> list[str]:
    """The content, what is left where a template trims it, and its spelling as JSON (of a tool's result)."""
    tries = [content, content.strip(), content.lstrip("\n"), content.rstrip("\n"), content.strip("\n")]
    return list(
        dict.fromkeys([*tries, content.lstrip(), content.rstrip(), json.dumps(content, ensure_ascii=False)[1:-1]])
    )


def align(text: str, skeleton: Skeleton, contents: Sequence[str]) -> list[tuple[int, int, int]] | int:
    """(start, end, message) of each content in the text; the message that could not be placed, where one could not."""
    literals, order = skeleton.literals, skeleton.order
    if not text.startswith(literals[0]):
        return order[0] if order else 0
    # depth first over the ways of trimming; `path` holds the spans chosen so far
    waiting: list[tuple[int, int, tuple[Any, ...]]] = [(0, len(literals[0]), ())]
    seen: set[tuple[int, int]] = set()
    furthest = 0
    while waiting:
        depth, position, path = waiting.pop()
        if depth == len(order):
            if position == len(text):
                return _unrolled(path)
            continue
        index = order[depth]
        for variant in reversed(_variants(contents[index])):
            end = position + len(variant)
            after = end + len(literals[depth + 1])
            if (depth + 1, after) in seen or not text.startswith(variant, position):
                continue
            furthest = max(furthest, depth + 1)  # this one is found: what does not fit comes behind it
            if text.startswith(literals[depth + 1], end):
                seen.add((depth + 1, after))
                waiting.append((depth + 1, after, ((position, end, index), path)))
    return order[min(furthest, len(order) - 1)] if order else 0


def _unrolled(path: tuple[Any, ...]) -> list[tuple[int, int, int]]:
    spans = []
    while path:
        span, path = path
        spans.append(span)
    return spans[::-1]
