"""`tomoni VERB …`: finds the verb and hands the rest over.

The table below is all that `tomoni --help` needs, so that it answers at once; typer, torch and the rest are imported
by the verb that uses them. A verb is a module `tomoni/cli/<verb>.py` with `command(argv: list[str]) -> int`.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from tomoni import __version__
from tomoni.errors import UserError, did_you_mean

USER_ERROR = 2
UNEXPECTED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
# what the operating system says of a person's files and disks
FROM_OUTSIDE = {errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE}


@dataclass(frozen=True, slots=True)
class Verb:
    name: str
    stage: str
    help: str
    learns: bool = False  # a method; all but pretrain and sft share a module

    @property
    def module(self) -> str:
        return "tomoni.cli.learning" if self.learns else f"tomoni.cli.{self.name}"


VERBS = (
    Verb("demo", "start", "fine-tune a small bundled model and see that it became better (about 3 minutes)"),
    Verb("init", "start", "make a folder with a commented config and sample data"),
    Verb("doctor", "start", "versions, hardware and what fits; for bug reports"),
    Verb("check", "data", "read a config's data and show what will be trained on"),
    Verb("train", "train", "run the method that a config names"),
    Verb("pretrain", "train", "train on plain text, from scratch or on from an existing model"),
    Verb("sft", "train", "train on prompts and the answers you want"),
    Verb("classify", "task", "texts or pairs of texts into classes", learns=True),
    Verb("regress", "task", "a number for a text or a pair of texts", learns=True),
    Verb("tag", "task", "mark names, amounts and other spans in texts", learns=True),
    Verb("span", "task", "find answers to questions in a text", learns=True),
    Verb("reward", "learn", "a model that scores answers, from pairs of a better and a worse one", learns=True),
    Verb("dpo", "learn", "from such pairs at once, beside a reference (also ipo, hinge, robust)", learns=True),
    Verb("orpo", "learn", "from such pairs, together with the answers themselves", learns=True),
    Verb("simpo", "learn", "from such pairs, by mean log-probability, without a reference", learns=True),
    Verb("kto", "learn", "from single answers with a thumb up or down", learns=True),
    Verb("grpo", "learn", "raise a reward: completions of a prompt against each other", learns=True),
    Verb("rloo", "learn", "raise a reward: each completion against the mean of the others", learns=True),
    Verb("ppo", "learn", "raise a reward: with a value for every token", learns=True),
    Verb("bestofn", "learn", "raise a reward the safe way: learn the best of several completions", learns=True),
    Verb("studio", "people", "web pages: chat with the model, judge it, teach it; for people who know no Python"),
    Verb("learn", "people", "what people said becomes a candidate version, tried before and after"),
    Verb("round", "people", "the same, judged blind by people and promoted only where the gate is sure"),
    Verb("feedback", "people", "what people said: export, import, resolve to training data, erase, back up"),
    Verb("rehearse", "people", "experiments with simulated people, by protocols fixed before the first run"),
    Verb("chat", "look", "talk with a model"),
    Verb("predict", "look", "what a model for a task says of each row of a file"),
    Verb("embed", "look", "a vector for each text"),
    Verb("evaluate", "look", "measure a model on data it was not trained on"),
    Verb("compare", "look", "small against large: quality, speed, memory and cost on the same data"),
    Verb("curve", "look", "how much data is enough, and what twice as much would bring"),
    Verb("serve", "use", "a model behind OpenAI's API; feedback on its answers; its version a pointer that moves"),
    Verb("promote", "use", "serve this version of a workspace from now on"),
    Verb("rollback", "use", "serve again what was served before"),
    Verb("log", "use", "the versions of a workspace as a family line, with win rates and costs"),
    Verb("why", "use", "trace a version or an answer to its run, data and judgements"),
    Verb("export", "look", "write a model for other programs, and prove that it is still the same model"),
)
STAGES = {
    "start": "Start here",
    "data": "Look at data",
    "train": "Train",
    "task": "Train an encoder for a task",
    "learn": "Learn from preferences and rewards",
    "people": "Let people make it better",
    "look": "Use and judge a model",
    "use": "Serve a model and choose its version",
}


def available() -> tuple[Verb, ...]:
    return tuple(verb for verb in VERBS if find_spec(verb.module) is not None and (not verb.learns or _is_method(verb)))


def _is_method(verb: Verb) -> bool:
    return find_spec(f"tomoni.settings.{verb.name}") is not None


def help_text() -> str:
    verbs = available()
    lines = [
        "Usage: tomoni VERB [options]",
        "",
        "Finish a pretrained language model on your own data and your own machine.",
    ]
    for stage, title in STAGES.items():
        of_stage = [verb for verb in verbs if verb.stage == stage]
        if of_stage:
            lines += ["", f"{title}:", *(f"  {verb.name:<10} {verb.help}" for verb in of_stage)]
    lines += [
        "",
        "Options:",
        "  --help     this text; `tomoni VERB --help` for a verb's own",
        "  --version  the version",
        "  --debug    show where in the code an error came from",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit code: 0 done, 2 something to mend, 1 a bug, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # the reader went away (`tomoni … | head`); the interpreter's last flush must not complain about it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as end:  # what an option parser does after --help
        return end.code if isinstance(end.code, int) else USER_ERROR if end.code else 0
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        message, code = _worded(error)
        print(message, file=sys.stderr)
        return code


def _worded(error: BaseException) -> tuple[str, int]:
    """What is said of an error, and the exit code."""
    match error:
        case UserError():
            return f"tomoni: {error.text()}", USER_ERROR
        case KeyboardInterrupt():
            return "\ninterrupted", INTERRUPTED
        case ModuleNotFoundError(name=str(name)) if name.partition(".")[0] != "tomoni":
            said = f"the package {name} is missing in {sys.executable}"
            step = "run the Python that tomoni was installed in, or install it there: pip install tomoni"
        case OSError() if error.errno in FROM_OUTSIDE:
            said = f"{error.filename or 'the disk'}: {error.strerror}"
            step = "check permissions and free space, then run the same command again"
        case _:
            said = f"unexpected {type(error).__name__}: {error}"
            return f"tomoni: {said}\n  next: run again with --debug and report what it shows", UNEXPECTED
    return f"tomoni: {said}\n  next: {step}", USER_ERROR


def _run(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        print(help_text())
        return 0
    if words[0] in ("--version", "-V"):
        print(f"tomoni {__version__}")
        return 0
    verbs = {verb.name: verb for verb in available()}
    names = tuple(verbs)
    if words[0] not in verbs:
        kind = "option" if words[0].startswith("-") else "verb"
        what = f'unknown {kind} "{words[0]}"{did_you_mean(words[0], names)}'
        raise UserError(what, choices=names, next_step="tomoni --help")
    verb = verbs[words[0]]
    more = (verb.name,) if verb.learns else ()
    code: int = import_module(verb.module).command(words[1:], *more)
    return code


if __name__ == "__main__":
    sys.exit(main())
