"""What is answered, as the OpenAPI document tells it. Answers themselves are built as plain dicts: that is faster."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    error: ErrorDetail


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class EmbeddingsUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class ChatReplyMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: ChatReplyMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatReply(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class TextLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class TextReply(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsReply(BaseModel):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


class FeedbackReply(BaseModel):
    object: Literal["feedback"]
    id: str
    completion: str
    choice: int
    saved: Literal[True]
    duplicate: bool


class AnswerReply(BaseModel):
    id: str
    text: str
    finish: str
    tokens: int
    logprob: float
    features: str | None


class AnswersReply(BaseModel):
    version: str
    version_hash: str
    answers: list[AnswerReply]
    seconds: float


class FailedVersion(BaseModel):
    version: str
    reason: str


class StateReply(BaseModel):
    name: str
    version: str
    version_hash: str
    ready: bool
    running: int
    waiting: int
    loaded: list[str]
    failed: FailedVersion | None
    records: bool
    lost: int


_WHY = {
    400: "the request is not right, or asks for what the server cannot do",
    401: "no key, or none that is known",
    403: "the Host, Origin or Sec-Fetch-Site header is not of this server",
    404: "no such model, version or completion",
    408: "it took too long",
    409: "the Idempotency-Key was used for something else",
    413: "the body is too large",
    429: "the queue is full",
    507: "the disk is full",
}


def errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: these, and what every route may say."""
    every = sorted({400, 401, 403, 408, 413, *codes})
    return {code: {"model": ErrorReply, "description": _WHY[code]} for code in every}
