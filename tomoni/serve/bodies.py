"""What may be asked, field by field. A field that nobody knows is named; one that OpenAI has and we cannot do is
refused, unless it asks for nothing (null, an empty list, the default)."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from tomoni.records import Message
from tomoni.serve.refusals import Refusal

MOST_CHOICES = 32
MOST_TEXTS = 512  # of one embeddings request
LARGEST_SEED = 2**63 - 1
# what asks for nothing; any other value of these is refused
ASKS_NOTHING: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "dimensions": (None,),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True, False),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "response_format": (None, {"type": "text"}),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
}
# what clients send back of an answer that they were given
_ECHOED: dict[str, tuple[Any, ...]] = {
    "refusal": (None,),
    "annotations": (None, []),
    "audio": (None,),
    "function_call": (None,),
    "tool_calls": (None, []),
}


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair is no character") from None
    return text


Words = Annotated[str, AfterValidator(_whole)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _without(given: Any, harmless: dict[str, tuple[Any, ...]], known: Any) -> Any:
    if not isinstance(given, dict):
        return given
    for name, values in harmless.items():
        if name in given and name not in known and not any(_same(given[name], value) for value in values):
            raise Refusal(400, f"'{name}' is not supported by this server.", code="unsupported_parameter", param=name)
    return {key: value for key, value in given.items() if key in known or key not in harmless}


def _same(given: Any, value: Any) -> bool:
    if isinstance(value, bool) or isinstance(given, bool):
        return given is value
    return bool(given == value)


class Sampled(Body):
    """How an answer is drawn. Left out: as the model's own generation config says, else the likeliest tokens."""

    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=0, le=1_000_000)] = None
    min_p: Annotated[float | None, Field(ge=0, lt=1)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    repetition_penalty: Annotated[float | None, Field(ge=0.01, le=100)] = None
    max_tokens: Annotated[int | None, Field(ge=1, le=LARGEST_SEED)] = None
    n: Annotated[int | None, Field(ge=1, le=MOST_CHOICES)] = None
    seed: Annotated[int | None, Field(ge=-LARGEST_SEED - 1, le=LARGEST_SEED)] = None

    @property
    def choices(self) -> int:
        return self.n or 1


Stop = Annotated[Words, StringConstraints(min_length=1, max_length=256)]


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Asked(Sampled):
    """What chat and plain completions have in common."""

    model: Annotated[Words, StringConstraints(min_length=1, max_length=256)]
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[Words | None, StringConstraints(max_length=128)] = None
    safety_identifier: Annotated[Words | None, StringConstraints(max_length=128)] = None
    prompt_cache_key: Annotated[Words | None, StringConstraints(max_length=256)] = None

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, given: Any) -> Any:
        return _without(given, ASKS_NOTHING, cls.model_fields)

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def tells_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class TextPart(Body):
    type: Literal["text"]
    text: Words


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Words | Annotated[list[TextPart], Field(min_length=1)]
    name: Annotated[Words | None, StringConstraints(max_length=64)] = None

    @model_validator(mode="before")
    @classmethod
    def _drop_echo(cls, given: Any) -> Any:
        return _without(given, _ECHOED, cls.model_fields)

    def message(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=2048)]


class ChatBody(Asked):
    messages: Messages
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=LARGEST_SEED)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None

    @property
    def longest(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class TextBody(Asked):
    prompt: Words | Annotated[list[Words], Field(min_length=1, max_length=MOST_CHOICES)]
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


Text = Annotated[Words, StringConstraints(min_length=1)]


class EmbeddingsBody(Body):
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]
    model: Annotated[Words, StringConstraints(min_length=1, max_length=256)]
    encoding_format: Literal["float", "base64"] | None = None
    user: Annotated[Words | None, StringConstraints(max_length=128)] = None

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, given: Any) -> Any:
        return _without(given, ASKS_NOTHING, cls.model_fields)

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class FeedbackBody(Body):
    """What somebody says of an answer: at least one of thumb, rating, correction, comment and flags."""

    id: Annotated[Words, StringConstraints(min_length=1, max_length=128)]
    choice: Annotated[int, Field(ge=0, lt=256)] = 0
    thumb: Literal["up", "down"] | None = None
    rating: Annotated[int | None, Field(ge=1, le=5)] = None
    correction: Annotated[Words | None, StringConstraints(max_length=200_000)] = None
    comment: Annotated[Words | None, StringConstraints(max_length=20_000)] = None
    flags: Annotated[list[Literal["harmful", "private", "untrue"]], Field(max_length=3)] = []
    tags: Annotated[list[Annotated[Words, StringConstraints(min_length=1, max_length=64)]], Field(max_length=32)] = []
    user: Annotated[Words | None, StringConstraints(max_length=128)] = None

    @property
    def says_something(self) -> bool:
        return bool(self.thumb or self.rating or self.correction is not None or self.comment or self.flags)


class AnswersBody(Sampled):
    messages: Messages
    version: Annotated[Words | None, StringConstraints(max_length=32)] = None
    stop: Annotated[list[Stop], Field(max_length=16)] = []
    features: bool = False
    record: bool = True
    user: Annotated[Words | None, StringConstraints(max_length=128)] = None


def finite(value: float) -> float:
    """JSON has no infinity; a log-probability of 0 probability is told as a very small number, as OpenAI does."""
    return value if math.isfinite(value) else -9999.0
