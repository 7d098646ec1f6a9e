"""What a client is told when something is not to be had, in the shape that OpenAI's clients know."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tomoni.errors import DiskError, UserError

log = logging.getLogger("tomoni.serve")
MOST_NAMED = 8  # of the mistakes in one request


class Refusal(Exception):
    """`code` is for programs, `param` the field at fault; the message is for people and names value and limit."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code = status, code
        self.message, self.param = _sendable(message), None if param is None else _sendable(param)
        self.kind = kind or _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, headers=self.headers)


def _sendable(text: str) -> str:
    """A name that a client made up may hold half of a surrogate pair, which no response can carry."""
    return text.encode("utf-8", "replace").decode()


_KINDS = {401: "authentication_error", 403: "permission_error", 408: "timeout", 429: "rate_limit_error"}


def model_not_found(asked: str, known: Sequence[str]) -> Refusal:
    return Refusal(
        404,
        f"The model `{asked[:100]}` does not exist here. Models: {', '.join(known)}.",
        code="model_not_found",
        param="model",
    )


def too_busy(seconds: int, why: str) -> Refusal:
    return Refusal(
        429,
        f"{why} Try again in {seconds} s.",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(seconds)},
    )


def refusal_of(error: Exception) -> Refusal:
    """Any exception as a refusal. What was not foreseen is logged by its kind and place; its text, which may hold what
    people wrote, goes nowhere."""
    match error:
        case Refusal():
            return error
        case DiskError():
            log.error("%s", error.what)
            return Refusal(507, "The server's disk takes no more. Nothing was saved.", code="insufficient_storage")
        case UserError():
            return Refusal(400, " ".join(error.text().split()), code="invalid_value")
        case HTTPException():
            return Refusal(error.status_code, str(error.detail), headers=error.headers)
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames))
    log.error("unexpected %s at %s", type(error).__name__, places)
    return Refusal(500, "The server made a mistake; its log says where.", code="internal_error")


def invalid(error: RequestValidationError) -> Refusal:
    """Every mistake by field and reason, never with what was given: it may be a prompt."""
    told: list[str] = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"] if part not in ("body", "query", "path", "header"))
        if problem["type"] == "extra_forbidden":
            told.append(f"Unknown parameter: '{place[:100]}'.")
        elif problem["type"] == "json_invalid":
            told.append("The body is not valid JSON.")
        else:
            told.append(f"{place[:200] or 'The body'}: {problem['msg']}.")
    first = error.errors()[0]
    where = [str(part) for part in first["loc"] if part != "body"]
    code = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter"}.get(first["type"])
    more = len(told) - MOST_NAMED
    text = " ".join(told[:MOST_NAMED]) + (f" And {more} more." if more > 0 else "")
    return Refusal(400, text, code=code or "invalid_value", param=".".join(where)[:200] or None)


def install(app: FastAPI) -> None:
    """Every error of the app leaves it as a refusal."""

    async def by_validation(request: Request, error: Exception) -> JSONResponse:
        return invalid(cast(RequestValidationError, error)).response()

    async def by_exception(request: Request, error: Exception) -> JSONResponse:
        return refusal_of(error).response()

    app.add_exception_handler(RequestValidationError, by_validation)
    for kind in (Refusal, UserError, HTTPException, Exception):
        app.add_exception_handler(kind, by_exception)
