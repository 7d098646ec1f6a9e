"""What every route needs of a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from fastapi import Request

from tomoni.serve.service import Service
from tomoni.serve.streams import Part, Stream, Token
from tomoni.serve.tokentext import Told


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def asker(request: Request, user: str | None) -> str | None:
    """Who asked: as the application names its user, else the key's name."""
    key: str | None = request.scope.get("tomoni.key")
    return user or key


def gone(request: Request) -> Callable[[], Awaitable[None]]:
    """Returns when the client has left."""

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return wait


def usage(stream: Stream) -> dict[str, int]:
    """The end token counts, as it was computed; a prompt that several choices share counts once."""
    prompt, said = len(stream.ask.prompt), sum(len(choice.tokens) for choice in stream.choices)
    return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}


def told_tokens(stream: Stream, parts: Sequence[Part]) -> list[list[Token]]:
    """Per choice the tokens that its text is made of."""
    logs = [Told(stream.loaded.token_texts, stream.loaded.sampler.eos_ids) for _ in stream.choices]
    tokens: list[list[Token]] = [[] for _ in stream.choices]
    for part in parts:
        tokens[part.choice] += logs[part.choice].add(part.tokens, part.text, part.finish)
    return tokens
