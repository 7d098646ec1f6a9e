"""Prompts: what the model is asked, where each comes from; anyone proposes, the owner decides."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

from pydantic import StringConstraints
from starlette.responses import JSONResponse, Response

from tomoni.data.read import Reading
from tomoni.errors import UserError
from tomoni.feedback.entries import NewPrompt
from tomoni.feedback.masking import Masker
from tomoni.records import Chat, Message, Prompt
from tomoni.studio.access import Caller, Routes, Rule
from tomoni.studio.faults import Fault
from tomoni.studio.holding import sums, upload
from tomoni.studio.pages.data import Content, FileName
from tomoni.studio.pages.entrance import Body
from tomoni.studio.showing import page

router = Routes()

SHOWN = 60  # prompts of a page
PromptId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Topic = Annotated[str, StringConstraints(strip_whitespace=True, max_length=80)]
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=20_000)]


class New(Body):
    text: Words
    topic: Topic = ""


class Change(Body):
    id: PromptId
    status: Literal["active", "retired"]


class Many(Body):
    name: FileName
    content: Content  # base64; a text file has a prompt a line
    topic: Topic = ""


@router.get("/prompts", rule=Rule.PERSON)
def prompts_page(caller: Caller, topic: str | None = None, after: str | None = None, retired: bool = False) -> Response:
    store = caller.house.store
    every = store.prompts()
    shown = [
        prompt
        for prompt in every
        if not prompt.held_out
        and (prompt.status == "retired") == retired
        and prompt.status != "proposed"
        and (topic is None or prompt.topic == topic)
    ]
    shown.reverse()
    start = next((place + 1 for place, prompt in enumerate(shown) if prompt.id == after), 0)
    names = {person.id: person.name for person in store.people()}
    return page(
        caller,
        "prompts",
        words=("prompts", "masked"),
        prompts=shown[start : start + SHOWN],
        more=shown[start + SHOWN - 1].id if len(shown) > start + SHOWN else None,
        total=len(shown),
        proposed=[prompt for prompt in every if prompt.status == "proposed"],
        held_out=sum(prompt.held_out and prompt.status == "active" for prompt in every),
        topics=sorted({prompt.topic for prompt in every if prompt.topic and not prompt.held_out}),
        topic=topic,
        retired=retired,
        names=names,
    )


@router.post("/api/prompts/add", rule=Rule.PERSON)
def add(caller: Caller, body: New) -> Response:
    """Of the owner in use at once; of others a proposal."""
    store, person = caller.house.store, caller.somebody
    status: Literal["active", "proposed"] = "active" if caller.owner else "proposed"
    new = NewPrompt((Message("user", body.text),), "typed", by=person.id, topic=body.topic, status=status)
    known = {prompt.id for prompt in store.prompts()}
    row = store.add_prompts([new])[0]
    caller.house.asking.wake()
    return JSONResponse({"saved": True, "id": row.id, "known": row.id in known, "status": row.status})


@router.post("/api/prompts/change", rule=Rule.OWNER, may=(404,))
def change(caller: Caller, body: Change) -> Response:
    try:
        caller.house.store.change_prompt(body.id, status=body.status)
    except UserError:
        raise Fault("no_prompt", 404) from None
    caller.house.asking.wake()
    return JSONResponse({"saved": True})


@router.post("/api/prompts/import", rule=Rule.OWNER)
def take(caller: Caller, body: Many) -> Response:
    """A text file with a prompt a line, or any data file whose rows have prompts; personal data is hidden."""
    masker, store = Masker(), caller.house.store
    if body.name.lower().endswith(".txt"):
        found, bad = lines_of(body.content), 0
    else:
        found, bad = rows_of(body.name, body.content)
    new = [
        NewPrompt(tuple(Message(m.role, masker(m.content)) for m in messages), "import", topic=body.topic)
        for messages in found
    ]
    if not new:
        raise Fault("no_prompts_found", 400)
    before = len(store.prompts())
    store.add_prompts(new)
    caller.house.asking.wake()
    added = len(store.prompts()) - before
    return JSONResponse({"added": added, "known": len(new) - added, "bad": bad, "masked": sums(masker.counts)})


def lines_of(content: str) -> list[tuple[Message, ...]]:
    try:
        text = base64.b64decode(content, validate=True).decode("utf-8-sig")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise Fault("not_utf8", 400) from None
    return [(Message("user", line.strip()),) for line in text.splitlines() if line.strip()]


def rows_of(name: str, content: str) -> tuple[list[tuple[Message, ...]], int]:
    """The turns before the last answer of each row, and how many rows had none."""
    found: list[tuple[Message, ...]] = []
    with upload(name, content) as path:
        reading = Reading([path], on_bad_rows="quarantine", prompts=True)
        for record in reading:
            match record:
                case Prompt():
                    found.append(record.messages)
                case Chat():
                    last = max((n for n, m in enumerate(record.messages) if m.role == "assistant"), default=0)
                    if last:
                        found.append(record.messages[:last])
                case _:
                    prompt = getattr(record, "prompt", ())
                    if prompt:
                        found.append(prompt)
        return found, len(reading.bad)
