"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from tomoni.serve.asking import asker, gone, service_of, told_tokens, usage
from tomoni.serve.bodies import ChatBody, finite
from tomoni.serve.refusals import Refusal
from tomoni.serve.replies import ChatReply, errors
from tomoni.serve.service import Service
from tomoni.serve.sse import DONE, event, streaming, text_of
from tomoni.serve.streams import Ask, Part, Stream, Token
from tomoni.serve.tokentext import TokenTexts, Told

router = APIRouter()
EVENTS = {"title": "An event", "description": "its data is a chunk as OpenAI streams it, at the end [DONE]"}
STREAMED = {
    "content": {"text/event-stream": {"schema": EVENTS}},
    "description": "the answer, or events where it is streamed",
}


@router.post(
    "/v1/chat/completions",
    response_model=None,
    responses={200: {"model": ChatReply, **STREAMED}, **errors(404, 429)},
    summary="Answer a conversation",
)
async def complete(body: ChatBody, request: Request) -> Response:
    service = service_of(request)
    loaded = service.versions.named(body.model)
    messages = [message.message() for message in body.messages]
    prompt = await service.chat_prompt(loaded, messages)
    if body.top_logprobs and not body.logprobs:
        raise Refusal(400, "top_logprobs needs logprobs: true.", code="invalid_value", param="top_logprobs")
    ask = Ask(
        id=service.ids.new("chatcmpl", body.choices),
        prompt=prompt,
        how=service.sampling(loaded, body, longest=body.longest, stop=body.stops, likeliest=body.top_logprobs or 0),
        choices=body.choices,
        streams=bool(body.stream),
        tells_tokens=bool(body.logprobs),
        messages=tuple((message.role, message.content) for message in messages),
        user=asker(request, body.user or body.safety_identifier),
        kept=service.recorder.keeps,
    )
    stream = service.open(ask, loaded)
    if body.stream:
        return streaming(_events(service, stream, tells_usage=body.tells_usage))
    parts = await service.finished(stream, gone(request))
    return JSONResponse(_reply(stream, parts))


def _head(stream: Stream, kind: str) -> dict[str, Any]:
    return {
        "id": stream.ask.id,
        "object": kind,
        "created": int(time.time()),
        "model": stream.loaded.id,
        "system_fingerprint": stream.loaded.fingerprint,
    }


def _reply(stream: Stream, parts: Sequence[Part]) -> dict[str, Any]:
    texts = stream.loaded.token_texts
    told = told_tokens(stream, parts)
    return {
        **_head(stream, "chat.completion"),
        "choices": [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": _logprobs(texts, told[choice.index]) if stream.ask.tells_tokens else None,
                "finish_reason": choice.finish,
            }
            for choice in stream.choices
        ],
        "usage": usage(stream),
    }


def _logprobs(texts: TokenTexts, tokens: Sequence[Token]) -> dict[str, Any]:
    def one(id: int, value: float) -> dict[str, Any]:
        return {"token": texts.text_of(id), "logprob": finite(value), "bytes": list(texts.bytes_of(id))}

    return {
        "content": [
            {**one(token.id, token.logprob), "top_logprobs": [one(*other) for other in token.likeliest]}
            for token in tokens
        ],
        "refusal": None,
    }


async def _events(service: Service, stream: Stream, *, tells_usage: bool) -> AsyncIterator[bytes]:
    """Chunks as they come. Leaving midway, for whatever reason, frees the places."""
    head = text_of(_head(stream, "chat.completion.chunk"))[:-1]
    tail = ',"usage":null}\n\n' if tells_usage else "}\n\n"
    texts = stream.loaded.token_texts
    logs = [Told(texts, stream.loaded.sampler.eos_ids) for _ in stream.choices]
    spoken: set[int] = set()

    def chunk(choice: int, delta: str, logprobs: str, finish: str | None) -> str:
        ends = f'"{finish}"' if finish else "null"
        inside = f'{{"index":{choice},"delta":{delta},"logprobs":{logprobs},"finish_reason":{ends}}}'
        return f'data: {head},"choices":[{inside}]{tail}'

    def chunks(part: Part) -> str:
        logprobs = "null"
        if stream.ask.tells_tokens:
            ready = logs[part.choice].add(part.tokens, part.text, part.finish)
            logprobs = text_of(_logprobs(texts, ready)) if ready else "null"
        first = part.choice not in spoken
        said = ""
        if part.text or first or logprobs != "null":
            spoken.add(part.choice)
            role = '"role":"assistant",' if first else ""
            said = chunk(part.choice, f'{{{role}"content":{text_of(part.text)}}}', logprobs, None)
        return said + (chunk(part.choice, "{}", "null", part.finish) if part.finish else "")

    try:
        while not stream.told_all:
            parts = await stream.next()
            if parts:
                yield "".join(map(chunks, parts)).encode("utf-8", "replace")
        if tells_usage:
            yield event({**_head(stream, "chat.completion.chunk"), "choices": [], "usage": usage(stream)})
        yield DONE
    finally:
        service.close(stream)
