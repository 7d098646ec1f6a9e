"""An Ollama Modelfile whose TEMPLATE writes what the model's own chat template writes.

Ollama does not run Jinja. Its own language needs the template as pieces: what stands before and after each role's
message. They are found by rendering conversations of marks with the model's template, and then proven: conversations
put together from the pieces must equal what the template writes for them. A template that is not made of such pieces
(one that counts turns, or writes the date) gives no Modelfile, and that is said.

Many templates take white space off the ends of a message (Llama's and Gemma's do). Ollama's language cannot; a message
without any is written the same, and for the others the Modelfile says what differs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tomoni.errors import ModelError

Turn = Mapping[str, str]
Render = Callable[[Sequence[Turn], bool], str]  # messages, whether an answer is asked for

MARKS: Final = ("qZ1", "qZ2", "qZ3", "qZ4", "qZ5")
WHITE_SPACE: Final = ((" ", ""), ("", " "), ("\n", ""), ("", "\n"), ("\u3000\n ", " \n\u3000"))  # before, after
NEXT_STEP: Final = "use the GGUF file with llama.cpp (which runs the template itself), or write the Modelfile by hand"


@dataclass(frozen=True, slots=True)
class Modelfile:
    """`notes` say what Ollama writes otherwise than the model's template; they stand in the text too."""

    text: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pieces:
    """What the template writes around messages. `opening` stands first where there is no system message; `system` is
    (before, after) where it can have one. `answer` is what asks for an answer."""

    opening: str
    system: tuple[str, str] | None
    user: tuple[str, str]
    assistant: tuple[str, str]
    answer: str

    def put_together(self, turns: Sequence[Turn], asks: bool) -> str:
        """What the pieces write for a conversation."""
        parts = {"user": self.user, "assistant": self.assistant, "system": self.system or ("", "")}
        text = "" if turns[0]["role"] == "system" else self.opening
        for turn in turns:
            before, after = parts[turn["role"]]
            text += before + turn["content"] + after
        return text + (self.answer if asks else "")


def modelfile(
    file_name: str,
    render: Render,
    *,
    stops: Sequence[str],
    parameters: Mapping[str, Any],
    bos: str = "",
) -> Modelfile:
    """A Modelfile for the GGUF file beside it. `bos` is a text that the tokenizer puts in front by itself,
    so that the template must not. Raises ModelError where the chat template is not made of pieces."""
    found = pieces(render)
    notes = _white_space(render, found)
    if bos:
        found = _without(found, bos)
    template = _go(found)
    lines = [
        "# made from the chat template in the GGUF file, and compared with it",
        *(f"# {note}" for note in notes),
        f"FROM ./{file_name}",
        f'TEMPLATE """{template}"""',
        *(f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops),
        *(f"PARAMETER {name} {value}" for name, value in parameters.items()),
    ]
    return Modelfile("\n".join(lines) + "\n", tuple(notes))


def pieces(render: Render) -> Pieces:
    """Find them, and prove them on conversations; ModelError where they do not write what the template writes."""
    try:
        found = _found(render)
    except (ValueError, IndexError) as problem:
        raise _not_of_pieces(str(problem)) from problem
    for turns, asks in _conversations(found.system is not None):
        wanted = render(turns, asks)
        made = found.put_together(turns, asks)
        if made != wanted:
            raise _not_of_pieces(f"for {[turn['role'] for turn in turns]} it writes {wanted!r}, the pieces {made!r}")
    return found


def _not_of_pieces(why: str) -> ModelError:
    return ModelError(
        "the chat template cannot be written as an Ollama template (a text before and after each message): "
        + why[:500],
        next_step=NEXT_STEP,
    )


def _found(render: Render) -> Pieces:
    one, two, three, four, five = MARKS
    talk = [_turn("user", one), _turn("assistant", two), _turn("user", three), _turn("assistant", four)]
    head, to_answer, to_user, _, _ = _between(render(talk, False), MARKS[:4])
    user_after = _after(render(talk[:1], False), one)
    assistant_after = _after(render(talk[:2], False), two)
    user_before = _cut_front(to_user, assistant_after)
    assistant_before = _cut_front(to_answer, user_after)
    if not head.endswith(user_before):
        raise ValueError(f"the first message begins with {head!r}, later ones with {user_before!r}")
    opening = head[: len(head) - len(user_before)]
    answer = _cut_front(_after(render(talk[:3], True), three), user_after)
    system = _system(render, user_before, five)
    return Pieces(opening, system, (user_before, user_after), (assistant_before, assistant_after), answer)


def _system(render: Render, user_before: str, mark: str) -> tuple[str, str] | None:
    """None where the template refuses system messages or leaves them out."""
    try:
        text = render([_turn("system", mark), _turn("user", MARKS[0])], False)
    except Exception:  # templates say no by raising what they like
        return None
    if mark not in text:
        return None
    before, between, _ = _between(text, (mark, MARKS[0]))
    if not between.endswith(user_before):
        raise ValueError("a system message is written into the first user message")
    return before, between[: len(between) - len(user_before)]


def _conversations(with_system: bool) -> list[tuple[list[Turn], bool]]:
    """Conversations other than those that the pieces were found with: of several turns, in two languages."""
    texts = ("こんにちは。", "Hello! How are you?", "二行\nの文🙂", "1 + 1 = 2", "はい", 'It\'s "quoted" {{ here }}.')
    turns = [_turn("user" if at % 2 == 0 else "assistant", text) for at, text in enumerate(texts)]
    made: list[tuple[list[Turn], bool]] = [(turns[:number], number % 2 == 1) for number in range(1, len(turns) + 1)]
    if with_system:
        made += [([_turn("system", "短く答えて。"), *turns[:number]], number % 2 == 1) for number in (1, 2, 5)]
    return made


def _white_space(render: Render, found: Pieces) -> list[str]:
    """Whose messages the template writes without the white space at their ends; ModelError where it makes of such a
    message more than that."""
    said = "短く答えて。", "Hello!", "はい", "Bye"
    roles = "system", "user", "assistant", "user"
    changed = []
    for role in ("system", "user", "assistant") if found.system else ("user", "assistant"):
        for before, after in WHITE_SPACE:
            turns = [
                _turn(one, before + text + after if one == role else text)
                for one, text in zip(roles, said, strict=True)
                if one != "system" or found.system
            ]
            wanted, made = render(turns, True), found.put_together(turns, True)
            if _tight(wanted) != _tight(made):
                raise _not_of_pieces(f"with white space around a message of {role} it writes {wanted!r}")
            if wanted != made and role not in changed:
                changed.append(role)
    if not changed:
        return []
    return [
        f"the chat template takes white space off the ends of messages ({', '.join(changed)}), which Ollama's templates "
        "cannot: send messages without it"
    ]


def _tight(text: str) -> str:
    return "".join(text.split())


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def _between(text: str, marks: Sequence[str]) -> list[str]:
    parts = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found:
            raise ValueError("a message is left out or changed")
        parts.append(before)
    return [*parts, text]


def _after(text: str, mark: str) -> str:
    return _between(text, (mark,))[1]


def _cut_front(text: str, front: str) -> str:
    if not text.startswith(front):
        raise ValueError(f"what follows a message differs: {front!r} or {text!r}")
    return text[len(front) :]


def _without(found: Pieces, bos: str) -> Pieces:
    system = found.system and (found.system[0].removeprefix(bos), found.system[1])
    return Pieces(found.opening.removeprefix(bos), system, found.user, found.assistant, found.answer)


def _go(found: Pieces) -> str:
    """The pieces in the template language of Go; each text is a quoted string, so that no white space is lost."""
    opening = _say(found.opening)
    if found.system:
        before, after = found.system
        opening = (
            "{{- if .System }}" + _say(before) + "{{- .System }}" + _say(after) + "{{- else }}" + opening + "{{- end }}"
        )
    user, assistant = found.user, found.assistant
    template = (
        opening
        + "{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 }}"
        + '{{- if eq .Role "user" }}' + _say(user[0]) + "{{- .Content }}" + _say(user[1])
        + '{{- else if eq .Role "assistant" }}' + _say(assistant[0]) + "{{- .Content }}"
        + "{{- if not $last }}" + _say(assistant[1]) + "{{- end }}"
        + '{{- end }}{{- if and $last (ne .Role "assistant") }}' + _say(found.answer) + "{{- end }}{{- end }}"
    )  # fmt: skip
    if '"""' in template:
        raise _not_of_pieces('it writes """, which ends a template in a Modelfile')
    return template


def _say(text: str) -> str:
    return "{{- " + json.dumps(text, ensure_ascii=False) + " }}" if text else ""
