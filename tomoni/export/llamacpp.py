"""llama.cpp, really run: it reads a GGUF file and says which text, tokens and answers it makes of a prompt.

It runs in a process of its own (the wheel `xllamacpp`): where it ends itself over a file that it does not like, tomoni
lives on and says so. It listens on the loopback address with a key that nobody else has.
"""

from __future__ import annotations

import importlib.metadata
import json
import secrets
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np

from tomoni.errors import ModelError
from tomoni.export.answers import KEPT, Answer, Prompt
from tomoni.rows import Int32

CHILD: Final = Path(__file__).with_name("llamacpp_child.py")
SECONDS: Final = 600.0  # the longest that one answer may take


def require_llamacpp() -> None:
    """Raises ModelError where the package is missing, without loading it."""
    from importlib.util import find_spec

    if find_spec("xllamacpp") is None:
        raise ModelError(
            "the package xllamacpp is missing, with which an exported GGUF file is tried out",
            next_step='pip install "tomoni[export]"',
        )


class LlamaCpp:
    """One model in llama.cpp; a context manager. `bos` is the text of the begin-of-text token where it is put in front
    of every prompt: llama.cpp takes it off the template's text, to add it as a token. `exact` keeps keys and values in float32
    and attention plain, where llama.cpp by itself rounds both to float16.

    Raises ModelError where llama.cpp cannot load the file, with what it said.
    """

    def __init__(self, path: Path, *, context: int = 0, threads: int = 1, exact: bool = False, bos: str = "") -> None:
        require_llamacpp()
        self.name = f"llama.cpp (xllamacpp {importlib.metadata.version('xllamacpp')})"
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
        self._bos = bos
        self._key = secrets.token_hex(16)
        # -P: the folder of the script is no place to import from, its modules have names of libraries
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        settings = {
            "path": str(path),
            "context": context,
            "threads": threads,
            "exact": exact,
            "key": self._key,
        }
        self._address = self._start(settings, path)

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with suppress(OSError):
                    stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _start(self, settings: Mapping[str, Any], path: Path) -> str:
        line = ""
        with suppress(BrokenPipeError):
            print(json.dumps(settings), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline() if self._process.stdout else ""
        if not line.startswith("{"):
            said = self._last_words()
            self.close()
            raise ModelError(
                f"llama.cpp cannot load {path.name}: {said}",
                next_step="report this with the model's config.json; --to hf and --to onnx are other ways out",
            )
        return str(json.loads(line)["address"])

    def _last_words(self) -> str:
        self._process.wait(timeout=60)
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        errors = [line for line in lines if " E " in line or "rror" in line]
        return " / ".join((errors or lines)[-4:])[:600] or f"it ended with code {self._process.returncode}"

    def _ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310  (the address is the child's own)
            self._address + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"},
        )
        try:
            with _OPENER.open(request, timeout=SECONDS) as reply:
                return dict(json.load(reply))
        except urllib.error.HTTPError as error:
            said = error.read().decode("utf-8", "replace")[:500]
            raise ModelError(f"llama.cpp refused {path}: {said}", next_step="report this with the prompt") from error
        except (urllib.error.URLError, OSError) as error:
            raise ModelError(
                f"llama.cpp ended while it was asked ({path}): {error}",
                next_step="report this with the model's config.json",
            ) from error

    # -- what parity asks --------------------------------------------------------------------------------------------

    def text(self, prompt: Prompt) -> str:
        """The prompt as llama.cpp's own template engine writes it from the template in the file."""
        if prompt.text is not None:
            return prompt.text
        return self._bos + self._without_bos(prompt)

    def _without_bos(self, prompt: Prompt) -> str:
        body = {"messages": [{"role": turn.role, "content": turn.content} for turn in prompt.messages]}
        return str(self._ask("/apply-template", body)["prompt"])

    def tokens(self, prompt: Prompt) -> Int32:
        """int32 [T]: as its own tokenizer reads that text; control tokens are read out of a template's text only."""
        text = self._without_bos(prompt) if prompt.text is None else prompt.text
        body = {"content": text, "add_special": True, "parse_special": prompt.text is None}
        return np.asarray(self._ask("/tokenize", body)["tokens"], dtype=np.int32)

    def answers(self, prompts: Sequence[Int32], most: int) -> list[Answer]:
        """To each prompt, tokens int32 [T]: the likeliest tokens, one after another, at most `most`."""
        return [_answer(self.complete(tokens, most, n_probs=KEPT)) for tokens in prompts]

    def ends_at(self, token: int, tokens: Int32) -> bool:
        """Whether an answer ends where this token comes; it is made the likeliest by force."""
        return bool(self.complete(tokens, 3, logit_bias=[[token, 1e6]])["stop_type"] == "eos")

    def complete(self, tokens: Sequence[int] | Int32, most: int, **more: Any) -> dict[str, Any]:
        """llama.cpp's own reply (`/completion`) with the likeliest tokens after `tokens`, nothing drawn."""
        body = {
            "prompt": [int(token) for token in tokens],
            "n_predict": most,
            "temperature": 0,
            "samplers": ["temperature"],
            "cache_prompt": False,
            "return_tokens": True,
            **more,
        }
        return self._ask("/completion", body)


def _answer(said: Mapping[str, Any]) -> Answer:
    made = [int(token) for token in said["tokens"]]
    told = said.get("completion_probabilities", [])
    rows = _places(made, [entry["id"] for entry in told])
    most = max((len(entry["top_logprobs"]) for entry in told), default=1)
    ids = np.full((len(made), most), -1, dtype=np.int32)
    logprobs = np.full((len(made), most), -np.inf, dtype=np.float32)
    for place, entry in zip(rows, told, strict=True):
        if place is not None:
            top = entry["top_logprobs"]
            ids[place, : len(top)] = [one["id"] for one in top]
            logprobs[place, : len(top)] = [one["logprob"] for one in top]
    return Answer(np.asarray(made, dtype=np.int32), "stop" if said["stop_type"] == "eos" else "length", ids, logprobs)


def _places(made: list[int], told: list[int]) -> list[int | None]:
    """Where in `made` the tokens of `told` stand. llama.cpp tells nothing about a token that leaves a character
    half written; a place that could be another one is None."""
    first = _matched(made, told)
    last = [len(made) - 1 - place for place in reversed(_matched(made[::-1], told[::-1]))]
    return [early if early == late else None for early, late in zip(first, last, strict=True)]


def _matched(made: list[int], told: list[int]) -> list[int]:
    places, at = [], 0
    for token in told:
        at = made.index(token, at)
        places.append(at)
        at += 1
    return places


# never through a proxy
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
