"""`tomoni chat MODEL_OR_RUN`: talk with a model; answers stream. torch comes last."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, TextIO, TypeVar

import typer

from tomoni.cli.options import invoke
from tomoni.errors import ConfigError, UserError, did_you_mean

if TYPE_CHECKING:
    from tomoni.engine.sampler import Sampling
    from tomoni.evaluate.subject import Subject
    from tomoni.evaluate.talk import Talk

Number = TypeVar("Number", int, float)

HELP = """  /reset            begin a new conversation
  /system [TEXT]    say how the model should behave (nothing: no system message); begins anew
  /temperature X    0 always takes the likeliest token, 1 draws as the model was trained
  /seed N           other draws
  /help             this
  /quit             leave (or Ctrl-D)
Ctrl-C stops an answer."""
COMMANDS = ("/help", "/quit", "/reset", "/seed", "/system", "/temperature")


def command(argv: list[str]) -> int:
    return invoke(chat, argv, verb="chat")


def chat(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="a folder, org/name of a hub, bundled:small, or a run's folder")
    ],
    once: Annotated[str | None, typer.Option(help="answer this one question and leave")] = None,
    system: Annotated[str, typer.Option(help="how the model should behave")] = "",
    temperature: Annotated[
        float | None, typer.Option(help="0: the likeliest token; default: the model's own, else 0")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="default: the model's own, else 1")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="longest answer")] = 512,
    seed: Annotated[int, typer.Option(help="of the draws")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    weights: Annotated[str, typer.Option(help="float32, or int8: faster on a CPU, a little less exact")] = "float32",
) -> int:
    """Talk with a model.

    On a terminal: type, and /help shows the commands. From a pipe: each line is a turn, and stdout has the answers only.
    """
    from tomoni.engine import kernels

    kernels.build_ahead()  # where they are still to be built: while PyTorch is loaded
    from tomoni.engine.models import quiet
    from tomoni.evaluate.subject import open_subject
    from tomoni.evaluate.talk import Talk

    with quiet():
        subject = open_subject(model, device=device, weights=weights)  # type: ignore[arg-type]  # it names the choices
    talk = Talk(subject, _how(subject, temperature, top_p, max_new_tokens, seed), system)
    if once is not None:
        return _answer(talk, once)
    if sys.stdin.isatty():
        return _converse(talk)
    return _answer_lines(talk)


def _how(subject: Subject, temperature: float | None, top_p: float | None, max_new_tokens: int, seed: int) -> Sampling:
    """As asked, else as the model's generation config samples, else greedily."""
    from tomoni.engine.sampler import Sampling

    own = subject.model.generation_config
    drawn = bool(getattr(own, "do_sample", False))
    if temperature is None:
        temperature = float(own.temperature or 1.0) if drawn else 0.0
    if top_p is None:
        top_p = float(own.top_p or 1.0) if drawn else 1.0
    return Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)


# -- a conversation on a terminal ------------------------------------------------------------------------------------


def _converse(talk: Talk) -> int:
    from tomoni.evaluate.talk import opening, printable

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # gives input() a history and editing
    text, questions = opening(talk.subject)
    print(f"{talk.subject.description}, context {talk.subject.sampler().context or '?'} tokens")
    for note in talk.subject.renderer.notes:
        print(f"note: {note}", file=sys.stderr)
    if text:
        print(f"\n{printable(text)}")
    if questions:
        print("\nTry (type the number) / 番号で質問できます:")
        for number, question in enumerate(questions, start=1):
            print(f"  {number}  {printable(question)}")
    print("\n/help shows the commands, /quit leaves.")
    for line in _typed():
        asked = _numbered(line, questions)
        if asked != line:
            print(f"> {printable(asked)}")
        if not _handle(talk, asked):
            break
    return 0


def _typed() -> Iterator[str]:
    """Lines from the keyboard. Ctrl-C throws a half-typed line away; on an empty prompt twice it leaves, like Ctrl-D."""
    interrupted = False
    while True:
        try:
            line = input("\n> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            if interrupted:
                print()
                return
            interrupted = True
            print("\n(Ctrl-C again or /quit leaves)")
            continue
        interrupted = False
        if line.strip():
            yield line


def _numbered(line: str, questions: tuple[str, ...]) -> str:
    number = line.strip()
    if number.isdecimal() and 1 <= int(number) <= len(questions):
        return questions[int(number) - 1]
    return line


def _handle(talk: Talk, line: str) -> bool:
    """A command or a turn; False: leave."""
    try:
        if line.startswith("/"):
            return _obey(talk, line)
        _answer(talk, line)
    except UserError as error:
        print(error.text(), file=sys.stderr)
    return True


# -- lines from a pipe -----------------------------------------------------------------------------------------------


def _answer_lines(talk: Talk) -> int:
    """Each line is a turn of one conversation. A turn that fails is reported, the others go on; then the exit code is 2."""
    reconfigure: Callable[..., None] | None = getattr(sys.stdin, "reconfigure", None)
    if reconfigure:
        reconfigure(encoding="utf-8", errors="replace")
    code = 0
    for line in sys.stdin:
        line = line.rstrip("\r\n")
        if not line.strip():
            continue
        try:
            if line.startswith("/"):
                if not _obey(talk, line, out=sys.stderr):
                    break
            else:
                _answer(talk, line)
        except UserError as error:
            print(f"tomoni: {error.text()}", file=sys.stderr)
            code = 2
    return code


# -- one turn, one command -------------------------------------------------------------------------------------------


def _answer(talk: Talk, question: str) -> int:
    """Print the answer as it comes. Ctrl-C ends the answer, not the conversation."""
    from tomoni.evaluate.talk import printable

    parts = talk.say(question.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    first = True
    try:
        for part in parts:
            if first and talk.forgotten:
                print(
                    f"(the conversation outgrew the context: its oldest {talk.forgotten} messages are dropped)",
                    file=sys.stderr,
                )
            text = printable(part.lstrip() if first else part)
            first = first and not text
            print(text, end="", flush=True)
    except KeyboardInterrupt:
        print(" … (stopped)")
        return 130
    finally:
        parts.close()  # type: ignore[attr-defined]
    print(flush=True)
    if talk.finish == "length":
        print("(cut off at --max-new-tokens or the end of the context)", file=sys.stderr)
    return 0


def _obey(talk: Talk, line: str, out: TextIO | None = None) -> bool:
    """Raises UserError for a command or a value that does not exist. False: leave."""
    name, _, value = line.strip().partition(" ")
    value = value.strip()
    match name:
        case "/quit" | "/exit":
            return False
        case "/help":
            said = HELP
        case "/reset":
            talk.reset()
            said = "(a new conversation)"
        case "/system":
            talk.reset()
            talk.system = value
            said = f"(a new conversation, {'system message set' if value else 'no system message'})"
        case "/temperature":
            talk.change(temperature=_number(name, value, float))
            said = f"(temperature {talk.how.temperature:g})"
        case "/seed":
            talk.change(seed=_number(name, value, int))
            said = f"(seed {talk.how.seed})"
        case _:
            raise ConfigError(
                f"unknown command {name}{did_you_mean(name, COMMANDS)}",
                choices=COMMANDS,
                next_step="a question that begins with / can be asked with a space before it",
            )
    print(said, file=out)
    return True


def _number(name: str, value: str, kind: Callable[[str], Number]) -> Number:
    try:
        return kind(value)
    except ValueError as error:
        raise ConfigError(f"{name} needs a number, not {value!r}", next_step=f"for example {name} 1") from error
