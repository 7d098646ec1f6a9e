"""POST /v1/completions: a text goes on, without a conversation's template."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from tomoni.serve.asking import asker, gone, service_of, told_tokens, usage
from tomoni.serve.bodies import MOST_CHOICES, TextBody, finite
from tomoni.serve.chat import STREAMED
from tomoni.serve.refusals import Refusal
from tomoni.serve.replies import TextReply, errors
from tomoni.serve.service import Service
from tomoni.serve.sse import DONE, event, streaming
from tomoni.serve.streams import Ask, Part, Stream, Token
from tomoni.serve.tokentext import TokenTexts, Told
from tomoni.serve.versions import Loaded

router = APIRouter()


@router.post(
    "/v1/completions",
    response_model=None,
    responses={200: {"model": TextReply, **STREAMED}, **errors(404, 429)},
    summary="Go on with a text",
)
async def complete(body: TextBody, request: Request) -> Response:
    service = service_of(request)
    loaded = service.versions.named(body.model)
    prompts = body.prompts
    if body.stream and len(prompts) > 1:
        raise Refusal(
            400, "Several prompts are not streamed: send them one by one.", code="invalid_value", param="prompt"
        )
    if len(prompts) * body.choices > MOST_CHOICES:
        raise Refusal(
            400, f"At most {MOST_CHOICES} choices at once, all prompts together.", code="invalid_value", param="n"
        )
    asks = await _asks(service, loaded, body, asker(request, body.user or body.safety_identifier))
    streams: list[Stream] = []
    try:
        streams += [service.open(ask, loaded) for ask in asks]
        if body.stream:
            return streaming(_events(service, streams[0], tells_usage=body.tells_usage))
        parts = [await service.finished(stream, gone(request)) for stream in streams]
    except Exception:
        for stream in streams:
            service.close(stream)
        raise
    return JSONResponse(_reply(streams, parts))


async def _asks(service: Service, loaded: Loaded, body: TextBody, user: str | None) -> list[Ask]:
    id = service.ids.new("cmpl", len(body.prompts) * body.choices)
    how = service.sampling(loaded, body, longest=body.max_tokens, stop=body.stops, likeliest=body.logprobs or 0)
    return [
        Ask(
            id=id,
            prompt=await service.text_prompt(loaded, text),
            how=how,
            choices=body.choices,
            streams=bool(body.stream),
            tells_tokens=body.logprobs is not None,
            messages=(("user", text),),
            form="text",
            user=user,
            kept=service.recorder.keeps,
            offset=number * body.choices,
        )
        for number, text in enumerate(body.prompts)
    ]


def _head(stream: Stream) -> dict[str, Any]:
    return {
        "id": stream.ask.id,
        "object": "text_completion",
        "created": int(time.time()),
        "model": stream.loaded.id,
        "system_fingerprint": stream.loaded.fingerprint,
    }


def _reply(streams: Sequence[Stream], parts: Sequence[Sequence[Part]]) -> dict[str, Any]:
    choices = []
    for stream, told in zip(streams, parts, strict=True):
        tokens = told_tokens(stream, told)
        for choice in stream.choices:
            logprobs = None
            if stream.ask.tells_tokens:
                logprobs = _logprobs(stream.loaded.token_texts, tokens[choice.index], 0, stream.ask.how.top_logprobs)
            index = stream.ask.offset + choice.index
            choices.append({"index": index, "text": choice.text, "logprobs": logprobs, "finish_reason": choice.finish})
    every = [usage(stream) for stream in streams]
    return {
        **_head(streams[0]),
        "choices": choices,
        "usage": {key: sum(one[key] for one in every) for key in every[0]},
    }


def _logprobs(texts: TokenTexts, tokens: Sequence[Token], offset: int, likeliest: int) -> dict[str, Any]:
    """`offset`: characters of the answer before the first of these tokens."""
    shown = [texts.text_of(token.id) for token in tokens]
    offsets = []
    for text in shown:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": shown,
        "token_logprobs": [finite(token.logprob) for token in tokens],
        "top_logprobs": [
            {texts.text_of(id): finite(value) for id, value in reversed(token.likeliest)} for token in tokens
        ]
        if likeliest
        else None,
        "text_offset": offsets,
    }


async def _events(service: Service, stream: Stream, *, tells_usage: bool) -> AsyncIterator[bytes]:
    texts, likeliest = stream.loaded.token_texts, stream.ask.how.top_logprobs
    logs = [Told(texts, stream.loaded.sampler.eos_ids) for _ in stream.choices]
    said = [0] * len(stream.choices)  # characters
    more = {"usage": None} if tells_usage else {}

    def chunk(part: Part) -> bytes:
        logprobs = None
        if stream.ask.tells_tokens:
            ready = logs[part.choice].add(part.tokens, part.text, part.finish)
            logprobs = _logprobs(texts, ready, said[part.choice], likeliest)
            said[part.choice] += len(part.text)
        choice = {"index": part.choice, "text": part.text, "logprobs": logprobs, "finish_reason": part.finish}
        return event({**_head(stream), "choices": [choice], **more})

    try:
        while not stream.told_all:
            parts = await stream.next()
            if parts:
                yield b"".join(map(chunk, parts))
        if tells_usage:
            yield event({**_head(stream), "choices": [], "usage": usage(stream)})
        yield DONE
    finally:
        service.close(stream)
