"""A reward that another program gives, by HTTP: an address of the owner's config, never of data.

POST {"prompts": [[message, …], …], "completions": [text, …], "columns": [{…}, …]}  ->  {"scores": [number, …]}
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from tomoni.errors import ConfigError, RunError
from tomoni.records import as_dicts
from tomoni.rewards.answered import Answered

SECONDS = 120.0
TRIES = 3
MOST_BYTES = 2**26
SHOWN = 300


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An answer must come from the address that the owner wrote down."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Endpoint:
    def __init__(self, url: str, *, key_from: str | None = None, wait: Callable[[float], None] = time.sleep) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"reward_funcs: {url!r} is no address", next_step="write http://host:port/path or https://…"
            )
        if parts.username or parts.password:
            raise ConfigError(
                "reward_funcs: an address with a password in it would be written into the run's folder",
                next_step="put the key into an environment variable and name it: reward_api_key_env",
            )
        self.url = url
        self.name = parts.hostname
        self._wait = wait
        self._key = self._read_key(key_from)
        self._open = urllib.request.build_opener(_NoRedirect).open

    def __call__(self, answers: Sequence[Answered]) -> list[Any]:
        body = {
            "prompts": [as_dicts(answer.prompt) for answer in answers],
            "completions": [answer.completion for answer in answers],
            "columns": [dict(answer.columns) for answer in answers],
        }
        found = self._asked(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"), answers)
        scores = found.get("scores") if isinstance(found, dict) else None
        if not isinstance(scores, list):
            raise self._error("the answer has no list `scores`", answers)
        return scores

    @staticmethod
    def _read_key(name: str | None) -> str | None:
        if name is None:
            return None
        key = os.environ.get(name)
        if not key:
            raise ConfigError(
                f"reward_api_key_env: the environment variable {name} is not set", next_step=f"export {name}=…"
            )
        return key

    def _asked(self, body: bytes, answers: Sequence[Answered]) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        last = ""
        for attempt in range(TRIES):
            if attempt:
                self._wait(2.0**attempt)
            request = urllib.request.Request(self.url, data=body, headers=headers)  # noqa: S310 - http(s) is checked above
            try:
                with self._open(request, timeout=SECONDS) as response:
                    return json.loads(response.read(MOST_BYTES))
            except urllib.error.HTTPError as error:
                said = error.read(SHOWN).decode("utf-8", "replace")
                if error.code < 500:
                    raise self._error(f"it answers {error.code}: {said}", answers) from error
                last = f"it answers {error.code}: {said}"
            except RecursionError as error:
                raise self._error("its answer is nested too deep", answers) from error
            except ValueError as error:
                raise self._error(f"its answer is no JSON: {error}", answers) from error
            except (urllib.error.URLError, OSError) as error:
                last = f"it cannot be reached: {getattr(error, 'reason', error)}"
        raise self._error(f"{last} ({TRIES} tries)", answers)

    def _error(self, what: str, answers: Sequence[Answered]) -> RunError:
        return RunError(
            f"reward {self.url}: {what}; for {len(answers)} completions from {answers[0].id} on",
            next_step="start or mend that program; the same command goes on from the last checkpoint",
        )
