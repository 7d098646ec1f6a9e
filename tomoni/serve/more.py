"""The other routes: models, embeddings, feedback, what the studio asks, and whether all is well."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import secrets
import time
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse

from tomoni.feedback.inbox import FeedbackEvent, encode_features
from tomoni.rows import Float32
from tomoni.serve.asking import asker, gone, service_of
from tomoni.serve.bodies import AnswersBody, EmbeddingsBody, FeedbackBody
from tomoni.serve.ids import answer_id
from tomoni.serve.refusals import Refusal, model_not_found
from tomoni.serve.replies import (
    AnswersReply,
    EmbeddingsReply,
    FeedbackReply,
    Model,
    ModelList,
    StateReply,
    errors,
)
from tomoni.serve.service import REMEMBERED, Service
from tomoni.serve.streams import Ask, Stream
from tomoni.serve.versions import Loaded

router = APIRouter()
SETTLING = 2.0  # seconds
AT_ONCE = 16  # texts of one embeddings request between two steps of the answers that run


# -- models ----------------------------------------------------------------------------------------------------------


def _models(service: Service) -> list[dict[str, Any]]:
    versions = service.versions
    names = {versions.name: versions.current.created} | {loaded.id: loaded.created for loaded in versions.models}
    return [{"id": name, "object": "model", "created": made, "owned_by": "tomoni"} for name, made in names.items()]


@router.get("/v1/models", response_model=ModelList, responses=errors(), summary="What can be named as model")
async def models(request: Request) -> Any:
    return {"object": "list", "data": _models(service_of(request))}


@router.get("/v1/models/{model:path}", response_model=Model, responses=errors(404), summary="One of them")
async def model(model: str, request: Request) -> Any:
    known = _models(service_of(request))
    for one in known:
        if one["id"] == model:
            return one
    raise model_not_found(model, [one["id"] for one in known])


# -- embeddings ------------------------------------------------------------------------------------------------------


@router.post(
    "/v1/embeddings",
    response_model=None,
    responses={200: {"model": EmbeddingsReply}, **errors(404)},
    summary="Texts as vectors of length 1: the mean of the last layer's states",
)
async def embeddings(body: EmbeddingsBody, request: Request) -> JSONResponse:
    service = service_of(request)
    loaded = service.versions.named(body.model)
    rows = [await service.text_prompt(loaded, text, "input") for text in body.texts]
    vectors: list[Float32] = []
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        found: list[Float32] = await asyncio.wrap_future(service.worker.call(partial(loaded.pooled.texts, part)))
        vectors += found
    tokens = sum(map(len, rows))
    data = [
        {"object": "embedding", "index": index, "embedding": _embedding(vector, body.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    used = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": loaded.id, "usage": used})


def _embedding(vector: Float32, form: str | None) -> list[float] | str:
    unit = (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype("<f4")
    return base64.b64encode(unit.tobytes()).decode("ascii") if form == "base64" else unit.tolist()


# -- feedback --------------------------------------------------------------------------------------------------------


@router.post(
    "/v1/feedback",
    response_model=FeedbackReply,
    responses=errors(404, 409, 507),
    summary="Say what somebody thinks of an answer",
)
async def feedback(
    body: FeedbackBody,
    request: Request,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Any:
    """On the disk when this returns. The same Idempotency-Key again is the same feedback: it counts once."""
    service = service_of(request)
    if not service.recorder.keeps:
        raise Refusal(404, "This server keeps no feedback: it was started without --workspace.", code="no_workspace")
    choices = service.ids.choices(body.id)
    if choices is None or body.choice >= choices:
        raise Refusal(404, "No such completion, or no such choice of it.", code="completion_not_found", param="id")
    if not body.says_something:
        said = "Nothing is said: give thumb, rating, correction, comment or flags."
        raise Refusal(400, said, code="missing_required_parameter", param="thumb")
    id = secrets.token_hex(12) if idempotency_key is None else service.ids.event(idempotency_key)
    digest = hashlib.sha256(body.model_dump_json().encode("utf-8", "replace")).digest()
    known = service.said.get(id)
    if known is not None and known != digest:
        raise Refusal(409, "This Idempotency-Key came with something else before.", code="idempotency_conflict")
    if known is None:
        await _save(service, body, id, asker(request, body.user) or "unnamed")
        service.said[id] = digest
        while len(service.said) > REMEMBERED:
            del service.said[next(iter(service.said))]
    return {
        "object": "feedback",
        "id": id,
        "completion": body.id,
        "choice": body.choice,
        "saved": True,
        "duplicate": known is not None,
    }


async def _save(service: Service, body: FeedbackBody, id: str, person: str) -> None:
    event = FeedbackEvent(
        completion=answer_id(body.id, body.choice),
        person=person,
        up=None if body.thumb is None else body.thumb == "up",
        stars=body.rating,
        correction=body.correction,
        comment=body.comment or "",
        flags=tuple(body.flags),
        tags=tuple(body.tags),
        event=id,
    )
    with contextlib.suppress(TimeoutError):  # what it speaks of is written first, where that is possible
        await asyncio.wait_for(asyncio.wrap_future(service.worker.settle()), SETTLING)
    await asyncio.wrap_future(service.recorder.write(event))


# -- the studio's ----------------------------------------------------------------------------------------------------


@router.post(
    "/tomoni/answers",
    response_model=None,
    responses={200: {"model": AnswersReply}, **errors(404, 429)},
    summary="Several answers by a named version, with what is known of them",
)
async def answers(body: AnswersBody, request: Request) -> JSONResponse:
    service = service_of(request)
    begun = time.monotonic()
    loaded = service.versions.current if body.version is None else await service.versions.version(body.version)
    stream = await _stream(service, loaded, body, asker(request, body.user))
    await service.finished(stream, gone(request))
    if body.features:
        await asyncio.wrap_future(stream.settled)
    return JSONResponse(
        {
            "version": loaded.version or loaded.id,
            "version_hash": loaded.hash,
            "answers": [
                {
                    "id": stream.ask.name(choice.index),
                    "text": choice.text,
                    "finish": choice.finish,
                    "tokens": len(choice.tokens),
                    "logprob": choice.logprob,
                    "features": encode_features(choice.features) if body.features else None,
                }
                for choice in stream.choices
            ],
            "seconds": round(time.monotonic() - begun, 4),
        }
    )


async def _stream(service: Service, loaded: Loaded, body: AnswersBody, user: str | None) -> Stream:
    messages = [message.message() for message in body.messages]
    ask = Ask(
        id=service.ids.new("answers", body.choices),
        prompt=await service.chat_prompt(loaded, messages),
        how=service.sampling(loaded, body, longest=body.max_tokens, stop=body.stop),
        choices=body.choices,
        messages=tuple((message.role, message.content) for message in messages),
        user=user,
        asked_by="studio",
        kept=service.recorder.keeps and body.record,
        with_features=body.features,
    )
    return service.open(ask, loaded)


@router.get(
    "/tomoni/state", response_model=StateReply, responses=errors(), summary="What is served, and how busy it is"
)
async def state(request: Request) -> Any:
    service = service_of(request)
    versions = service.versions
    failed = versions.failed
    return {
        "name": versions.name,
        "version": versions.current.version or versions.current.id,
        "version_hash": versions.current.hash,
        "ready": service.worker.alive,
        "running": service.load.running,
        "waiting": service.load.waiting,
        "loaded": [loaded.id for loaded in versions.models],
        "failed": None if failed is None else {"version": failed.version, "reason": failed.reason},
        "records": service.recorder.keeps,
        "lost": service.recorder.lost,
    }
