"""What people, models, files and folders say is shown as text and never read as anything else: in a real browser, once with
the pages' policy as it is, and once without it, so that the policy is not what hides a hole."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.studio.payloads import payloads
from tests.studio.rooms import STANDIN, model_in, owner
from tests.studio.test_in_a_browser import CHROMIUM, Served, chromium, comes, served_in, waits_for_pair
from tests.studio.test_teaching import press
from tomoni.feedback.entries import Answer, NewPrompt, Pair
from tomoni.records import Judgement, Kind, Message
from tomoni.studio.answering import Status
from tomoni.studio.house import House
from tomoni.studio.pages.prompts import SHOWN

__all__ = ["chromium"]
pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"there is no {CHROMIUM}")
EVERY = payloads()
# what a page that was asked for in vain says in the console
IN_VAIN = "Failed to load resource: the server responded with a status of 4"


def test_there_are_more_than_three_hundred() -> None:
    assert len(EVERY) >= 300 and len(set(EVERY)) == len(EVERY)


def one_line(text: str) -> str:
    """As a name or a topic may be."""
    return " ".join("".join(letter for letter in text if letter.isprintable()).split())


# -- what is hostile ---------------------------------------------------------------------------------------------------


def fill(house: House, texts: Sequence[str]) -> None:
    """Every text in every place that keeps one."""
    store, me = house.store, owner(house)
    names = list(dict.fromkeys(one_line(text)[:60].strip() for text in texts))
    people = [store.add_person(name, role="annotator", lang="ja").id for name in names if name]
    version = house.registry.current()
    assert version is not None
    for number, text in enumerate(texts):
        by = people[number % len(people)]
        topic = one_line(text)[:80].strip()
        status = "active" if number % 4 else "proposed"
        row = store.add_prompts([NewPrompt((Message("user", text),), "typed", by=by, topic=topic, status=status)])[0]
        store.add_rule(text, by=by, status="active" if number % 3 else "proposed")
        answers = [Answer(f"{row.id}-{place}", row.id, version.id, "h", f"{text} {place}") for place in (0, 1)]
        store.add_answers(answers)
        store.add_pairs([Pair(f"pair-{row.id}", row.id, answers[0].id, answers[1].id, "train", "random")])
        opinion = Judgement(
            f"flag-{number}", by, (Message("user", text),), (text,), (0,), Kind.FLAG,
            {"answer": 0, "harmful": True, "private": False, "untrue": False}, tags=(topic or "t",), comment=text,
            model_versions=(version.id,), extra={"prompt": row.id, "purpose": "train"},
        )  # fmt: skip
        store.judge(opinion, key=f"flag-{number}")
        store.judge(
            replace(opinion, id=f"thumb-{number}", kind=Kind.THUMB, value={"answer": 0, "up": False}),
            key=f"thumb-{number}",
        )
    in_files(house, texts)
    house.registry.promote(version.id, reason=texts[0], by=names[0])
    house.registry.register(model_in(house.workspace, "other"), base="v1", method=texts[1], note=" ".join(texts[:40]))
    house.registry.promote("v2", by=" ".join(names[:40]))
    assert me.role == "owner"


def in_files(house: House, texts: Sequence[str]) -> None:
    """In the folders of runs and presses, and in a data file that is kept."""
    folder = house.training.folder / "run1"
    (folder / "model").mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps({"method": texts[0]}), encoding="utf-8")
    (folder / "status.json").write_text(
        json.dumps({"state": "failed", "error": "\n".join(texts), "step": 1, "steps": 2})
    )
    report = {
        "figures": [{"what": text, "before": text, "after": text} for text in texts],
        "answers": [{"prompt": text, "before": text, "after": text, "desired": text} for text in texts],
    }
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    trials = [
        {
            "id": f"t{number}",
            "topic": text,
            "prompt": [{"role": "user", "content": text}],
            "before": text,
            "after": f"{text}!",
        }
        for number, text in enumerate(texts)
    ]
    press_with(house, trials, list(texts))
    rows = "".join(json.dumps({"prompt": text, "completion": text}) + "\n" for text in texts)
    house.holding.keep(f"{texts[2]}.jsonl", base64.b64encode(rows.encode()).decode(), without_bad=True)


def press_with(house: House, trials: list[dict[str, Any]], notes: list[str]) -> None:
    press(house, trials=0, notes=notes)
    path = house.teaching.folder / "0001" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trials": trials}), encoding="utf-8")
    failed = house.teaching.folder / "0002"
    failed.mkdir()
    body = {"state": "failed", "stage": "training", "error": "\n".join(notes), "pid": 1 << 22}
    (failed / "status.json").write_text(json.dumps(body), encoding="utf-8")


# -- what is watched -----------------------------------------------------------------------------------------------------


@dataclass
class Watched:
    page: Any
    address: str
    complaints: list[str] = field(default_factory=list)

    def require_text_only(self, shows: Sequence[str] = ()) -> None:
        """Nothing was made of the texts, nothing ran, nothing was asked of anybody; and they are really there."""
        made = self.page.evaluate("[...document.querySelectorAll('[data-h]')].map(e => e.outerHTML.slice(0, 200))")
        assert made == [] and self.complaints == [], (self.page.url, made, self.complaints)
        assert self.page.evaluate("window.ran ?? null") is None
        if shows:
            said = " ".join(self.page.evaluate("document.body.textContent").split())
            absent = [text for text in shows if " ".join(text.split()) not in said]
            assert not absent, (self.page.url, absent[:3])

    def visit(self, path: str, shows: Sequence[str] = ()) -> None:
        self.page.goto(self.address + path, wait_until="load")
        self.require_text_only(shows)


@contextmanager
def watching(chromium: Any, served: Served, person: str | None = None, **how: Any) -> Iterator[Watched]:
    context = chromium.new_context(reduced_motion="reduce", **how)
    page = context.new_page()
    watched = Watched(page, served.address)
    told = watched.complaints
    page.on("console", lambda m: told.append(m.text) if m.type == "error" and not m.text.startswith(IN_VAIN) else None)
    page.on("pageerror", lambda error: told.append(f"a script failed: {error}"))
    page.on("dialog", lambda dialog: (told.append("a dialog"), dialog.dismiss()))
    page.on(
        "request", lambda r: told.append(f"asked {r.url}") if not r.url.startswith((served.address, "data:")) else None
    )
    page.on("response", lambda r: told.append(f"{r.status} {r.url}") if r.status >= 500 else None)
    page.on("popup", lambda _: told.append("a window opened"))
    page.goto(served.link(person))
    page.wait_for_url(served.address + "/")
    yield watched
    watched.require_text_only()
    context.close()


def go_everywhere(chromium: Any, served: Served, texts: Sequence[str], **how: Any) -> None:
    house = served.house
    with watching(chromium, served, **how) as on:
        on.visit("/")
        walk_the_lists(on, texts)
        on.visit("/runs/run1", texts)
        on.visit("/runs")
        on.visit("/learn/0001?show=1", texts)
        on.visit("/learn/0002", texts)
        on.visit("/learn")
        on.visit("/data", texts[:1])
        look_into_a_file(on, texts)
        in_addresses(on, texts[:: 1 + len(texts) // 100])
        talk(on, house, texts)
        judge(on, texts)
        house.answering.close()  # it would say in a moment that the model is there
        house.answering._set(Status("failed", said="\n".join(texts)))
        on.visit("/models", texts)
    as_people(chromium, served, texts, **how)
    as_a_stranger(chromium, served, texts[:30], **how)


def walk_the_lists(on: Watched, texts: Sequence[str]) -> None:
    on.visit("/guideline", texts)
    on.visit("/people")
    after, seen = "", ""
    for _ in range(len(texts) // SHOWN + 1):
        on.visit(f"/prompts{after}")
        seen += " ".join(on.page.evaluate("document.body.textContent").split())
        more = on.page.query_selector("a[href^='/prompts?after=']")
        if more is None:
            break
        after = more.get_attribute("href").removeprefix("/prompts")
    assert not [text for text in texts if " ".join(text.split()) not in seen]


def look_into_a_file(on: Watched, texts: Sequence[str]) -> None:
    """Good rows and bad ones, and a file whose name is hostile."""
    for start in range(0, len(texts), 30):
        part = texts[start : start + 30]
        rows = [json.dumps({"prompt": text, "completion": text}) for text in part[:3]]
        rows += [json.dumps({"prompt": 3, "completion": text}) for text in part] + [f"{text} no JSON" for text in part]
        on.page.goto(on.address + "/data")
        file = {"name": f"{one_line(part[0])}.jsonl", "mimeType": "text/plain", "buffer": "\n".join(rows).encode()}
        on.page.set_input_files("#file", file)
        comes(on.page, "document.querySelectorAll('#look .example').length > 0")
        on.require_text_only(part[:1])


def in_addresses(on: Watched, texts: Sequence[str]) -> None:
    """What stands in the address bar is told back as text, where it is told at all."""
    places = (
        "/prompts?topic=",
        "/prompts?after=",
        "/join?token=",
        "/nowhere/",
        "/runs/",
        "/learn/",
        "/runs?data=",
    )
    for number, text in enumerate(texts):
        on.visit(places[number % len(places)] + quote(text, safe=""))


def talk(on: Watched, house: House, texts: Sequence[str]) -> None:
    """A conversation as the page keeps it, then answers as they are written, letter by letter, and a correction."""
    turns = [
        {"role": role, "content": text, "id": f"a{number}", "version": "v1", "said": {"corrected": text, "keys": {}}}
        for number, text in enumerate(texts)
        for role in ("user", "assistant")
    ]
    on.page.goto(on.address + "/chat")
    kept = f"tomoni.talk.{owner(house).id}"
    on.page.evaluate(f"sessionStorage.setItem({json.dumps(kept)}, {json.dumps(json.dumps(turns))})")
    on.visit("/chat", texts)
    on.page.evaluate(f"sessionStorage.removeItem({json.dumps(kept)})")
    on.page.goto(on.address + "/chat")
    comes(on.page, lambda: house.answering.status.state == "ready")
    for text in random.Random(1).sample(list(texts), 3):
        on.page.fill("#message", f"repeat:{text}")
        on.page.keyboard.press("Enter")
        comes(
            on.page,
            "!document.querySelector('.bubble.writing') && document.querySelector('.bubble:last-child .acts')",
            60,
        )
        on.page.click(".bubble.assistant:last-child .acts button:nth-child(3)")
        on.page.fill(".editor textarea", text + "!")
        on.page.click(".editor .lead")
        on.require_text_only([text.removeprefix("repeat:")])


def judge(on: Watched, texts: Sequence[str]) -> None:
    on.page.goto(on.address + "/judge")
    for _ in range(len([text for number, text in enumerate(texts) if number % 4]) // 2):
        waits_for_pair(on.page)
        shown = on.page.inner_text("#question")
        on.page.keyboard.press("[")
        on.page.fill(".answer[data-side=left] textarea", shown + " <img data-h src=x onerror=alert(1)>")
        on.page.fill("#comment", shown)
        on.require_text_only()
        on.page.evaluate("document.activeElement.blur()")
        on.page.keyboard.press("ArrowLeft")
    comes(on.page, "document.querySelector('#saved').textContent.length > 0")
    on.require_text_only()


def as_people(chromium: Any, served: Served, texts: Sequence[str], **how: Any) -> None:
    """Names: one's own on every page and one's account, another's in what is refused, an invited one's in the invitation."""
    house = served.house
    named = [person for person in house.store.people() if person.role == "annotator"]
    for person in named[:: max(1, len(named) // 6)]:
        with watching(chromium, served, person.id, **how) as on:
            on.visit("/account", [person.name])
            on.page.fill("#name", named[-1].name if person is not named[-1] else named[0].name)
            on.page.fill("#password", "とても長い秘密の言葉です")
            on.page.click("form .lead")
            comes(on.page, "document.querySelector('[data-fault]').textContent.length > 0")
            on.require_text_only()
            invited = one_line(texts[0])[:60]
            on.visit(f"/join?token={house.doors.invite('annotator', invited)}")
            assert on.page.input_value("#name") == invited


def as_a_stranger(chromium: Any, served: Served, texts: Sequence[str], **how: Any) -> None:
    with watching(chromium, served, **how) as on:
        on.page.context.clear_cookies()
        for number, text in enumerate(texts):
            on.visit(("/?token=", "/join?token=", "/chat?")[number % 3] + quote(text, safe=""))


@contextmanager
def hostile(folder: Path, texts: Sequence[str]) -> Iterator[Served]:
    with served_in(folder, serve=STANDIN) as served:
        served.house.asking.close()  # its own questions are not needed
        fill(served.house, texts)
        yield served


def test_texts_of_every_kind_are_shown_as_text_on_every_page(chromium: Any, tmp_path: Path) -> None:
    texts = EVERY[:: len(EVERY) // 24]
    with hostile(tmp_path, texts) as served:
        go_everywhere(chromium, served, texts, bypass_csp=True)


@pytest.mark.slow
@pytest.mark.parametrize("without_policy", [True, False])
def test_all_hostile_texts_are_shown_as_text_on_every_page(chromium: Any, tmp_path: Path, without_policy: bool) -> None:
    with hostile(tmp_path, EVERY) as served:
        go_everywhere(chromium, served, EVERY, bypass_csp=without_policy)
