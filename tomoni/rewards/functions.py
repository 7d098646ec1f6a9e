"""Rewards that are Python functions of the user's: "path/file.py:name" or "package.module:name".

A function takes lists, in the form that TRL's trainers call:

    def score(prompts, completions, **columns) -> list[float]

or, where its first parameter is `completion`, one completion at a time:

    def score(completion, prompt, **columns) -> float

`prompt` is the list of messages. Only the columns that a function names, or all with `**columns`, are passed; a column
that a record does not have is None.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tomoni.errors import ConfigError, RunError, did_you_mean
from tomoni.records import as_dicts
from tomoni.rewards.answered import Answered

SHOWN = 200  # characters of a completion in an error
SOME = 20  # functions of a file that are named


class FunctionReward:
    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function
        parameters = inspect.signature(function).parameters
        self.one_by_one = next(iter(parameters), "") == "completion"
        kinds = {name: parameter.kind for name, parameter in parameters.items()}
        self.takes_all = inspect.Parameter.VAR_KEYWORD in kinds.values()
        collecting = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        self.named = frozenset(name for name, kind in kinds.items() if kind not in collecting)
        self.file = getattr(getattr(function, "__code__", None), "co_filename", "")
        self.unread = set(self.named - _GIVEN)  # columns that it names and that no record had so far: misspelt, perhaps

    def __call__(self, answers: Sequence[Answered]) -> list[Any]:
        self.unread.difference_update(name for answer in answers for name in answer.columns)
        if self.one_by_one:
            return [self._one(answer) for answer in answers]
        columns = sorted({name for answer in answers for name in answer.columns} | (self.named - _GIVEN))
        given: dict[str, Any] = {
            "prompts": [as_dicts(answer.prompt) for answer in answers],
            "completions": [answer.completion for answer in answers],
            **{name: [answer.columns.get(name) for answer in answers] for name in columns},
        }
        try:
            found = self.function(**self._known(given))
        except (Exception, SystemExit) as error:  # a reward must not end the run as if all were well
            raise self._failed(answers, error) from error
        if not isinstance(found, Sequence) and not hasattr(found, "tolist"):
            raise RunError(
                f"reward {self.name}: gave {type(found).__name__}, not a list of {len(answers)} numbers",
                next_step="return one number for each completion",
            )
        return list(found.tolist() if hasattr(found, "tolist") else found)

    def _one(self, answer: Answered) -> Any:
        given = {"completion": answer.completion, "prompt": as_dicts(answer.prompt), **answer.columns}
        missing = {name: None for name in self.named - set(given) if self._is_open(name)}
        try:
            return self.function(**self._known(given | missing))
        except (Exception, SystemExit) as error:
            raise self._failed([answer], error) from error

    def _is_open(self, name: str) -> bool:
        parameter = inspect.signature(self.function).parameters[name]
        usual = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return parameter.default is parameter.empty and parameter.kind in usual

    def _known(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return dict(given) if self.takes_all else {name: value for name, value in given.items() if name in self.named}

    def _failed(self, answers: Sequence[Answered], error: BaseException) -> RunError:
        many = f" (one of {len(answers)})" if len(answers) > 1 else ""
        return RunError(
            f"reward {self.name} raised {_told(error, self.file)}{self._lacking(answers)}; at completion {answers[0].id}{many}: "
            f"{answers[0].completion[:SHOWN]!r}",
            next_step="mend the function; the same command goes on from the last checkpoint, or begins anew where there is none",
        )

    def _lacking(self, answers: Sequence[Answered]) -> str:
        there = sorted({name for answer in answers for name in answer.columns})
        unknown = ", ".join(f"{name}{did_you_mean(name, there)}" for name in sorted(self.unread))
        return f" (no record has {unknown}; columns: {', '.join(there) or 'none'})" if unknown else ""


_GIVEN = frozenset({"prompts", "completions", "completion", "prompt", "columns", "kwargs"})


def load_function(spec: str) -> FunctionReward:
    """Raises ConfigError where there is no such file, module or function."""
    place, _, name = spec.rpartition(":")
    module = _from_file(Path(place).expanduser(), spec) if place.endswith(".py") else _from_package(place, spec)
    function = getattr(module, name, None)
    if not callable(function):
        known = [found for found, value in vars(module).items() if not found.startswith("_") and _may_score(value)]
        raise ConfigError(
            f"reward_funcs: {place} has no function {name!r}{did_you_mean(name, known)}",
            choices=known[:SOME] + (["…"] if len(known) > SOME else []),
            next_step="name one of its functions: file.py:name",
        )
    if inspect.iscoroutinefunction(function):
        raise ConfigError(
            f"reward_funcs: {name} in {place} is async; a reward is called and gives its numbers at once",
            next_step="write def instead of async def, and asyncio.run within it where that is needed",
        )
    reward = FunctionReward(name, function)
    if not reward.takes_all and not reward.named & {"completion", "completions"}:
        raise ConfigError(
            f"reward_funcs: {name} in {place} takes ({', '.join(inspect.signature(function).parameters)}): the completions "
            "are not among them",
            choices=["def score(completion, prompt, …)", "def score(prompts, completions, …)"],
            next_step="name its parameters so; a first parameter `completion` gets one at a time",
        )
    return reward


def _may_score(value: Any) -> bool:
    return callable(value) and not isinstance(value, type) and not inspect.iscoroutinefunction(value)


def _told(error: BaseException, file: str) -> str:
    """The error on one line, with the last place in the user's `file` that led to it."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename == file]
    place = f" ({file}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def _from_file(path: Path, spec: str) -> Any:
    if not path.is_file():
        raise ConfigError(f"reward_funcs: there is no file {path} (of {spec})", next_step="check the path")
    made = importlib.util.spec_from_file_location(f"tomoni_reward_{path.stem}", path)
    if made is None or made.loader is None:
        raise ConfigError(f"reward_funcs: {path} cannot be read as Python", next_step="name a .py file")
    module = importlib.util.module_from_spec(made)
    sys.modules[made.name] = module
    try:
        made.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"reward_funcs: {path} raised {_told(error, str(path))} when it was read", next_step="mend the file"
        ) from error
    return module


def _from_package(place: str, spec: str) -> Any:
    try:
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"reward_funcs: {spec}: {_told(error, '')}",
            next_step="write file.py:name, or package.module:name of what is installed",
        ) from error
