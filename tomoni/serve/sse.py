"""Server-sent events, as OpenAI's clients read them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse

from tomoni.serve.refusals import refusal_of

DONE = b"data: [DONE]\n\n"
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def text_of(value: Any) -> str:
    """JSON on one line. A lone surrogate becomes U+FFFD."""
    return _encode(value)


def event(value: Any) -> bytes:
    return b"data: " + _encode(value).encode("utf-8", "replace") + b"\n\n"


async def guarded(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What fails after the first byte can only be told as an event."""
    try:
        async for part in events:
            yield part
    except Exception as error:
        yield event(refusal_of(error).body())


def streaming(events: AsyncIterator[bytes]) -> StreamingResponse:
    return StreamingResponse(guarded(events), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
