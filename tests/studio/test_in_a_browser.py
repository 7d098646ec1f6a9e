"""The studio in Chromium, as people use it: by keyboard, with the network cut, in Japanese, on a phone.

The model is a stand-in, so that these run in seconds; `test_for_real` has the bundled one. Where TOMONI_PICTURES names a
folder, pictures for the documents are left there.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.studio.rooms import STANDIN, add_pairs, annotator, model_in, owner, until
from tomoni.records import Kind
from tomoni.studio import run
from tomoni.studio.house import House
from tomoni.studio.words import Lang

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = "/usr/bin/chromium"
pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"there is no {CHROMIUM}")
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@dataclass(frozen=True)
class Served:
    house: House
    address: str

    def link(self, person: str | None = None) -> str:
        return f"{self.address}/?token={self.house.doors.link(person or owner(self.house).id)}"


@contextmanager
def served_in(
    folder: Path, *, serve: list[str] | None = STANDIN, model: str | None = None, lang: Lang | None = "ja"
) -> Iterator[Served]:
    settings = run.Settings(folder / "ws", model=model or str(model_in(folder)), port=0, lang=lang)
    with run.listening(settings) as listener:
        port = listener.getsockname()[1]
        with run.opened(settings, port, serve=serve) as house:
            server = run.server_of(settings, house, port)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
            thread.start()
            until(lambda: server.started)
            try:
                yield Served(house, f"http://127.0.0.1:{port}")
            finally:
                server.should_exit = True
                thread.join(timeout=10)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with served_in(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(chromium: Any, served: Served, *, person: str | None = None, **how: Any) -> Iterator[Any]:
    """A signed-in page; the test fails for whatever the browser complains of."""
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 860}, "locale": "ja-JP", **how})
    page = context.new_page()
    complaints: list[str] = []
    expected = ("ERR_INTERNET_DISCONNECTED", "ERR_FAILED", "ERR_CONNECTION")  # what a cut network looks like
    page.on(
        "console",
        lambda m: complaints.append(m.text) if m.type == "error" and not any(e in m.text for e in expected) else None,
    )
    page.on("response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 500 else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append("a dialog"), dialog.dismiss()))
    page.on(
        "request",
        lambda r: complaints.append(f"asked {r.url}") if not r.url.startswith((served.address, "data:")) else None,
    )
    page.goto(served.link(person))
    page.wait_for_url(served.address + "/")
    yield page
    context.close()
    assert complaints == []


def picture(page: Any, name: str) -> None:
    folder = os.environ.get("TOMONI_PICTURES")
    if folder:
        page.screenshot(path=f"{folder}/studio-{name}.png")


def comes(page: Any, what: str | Callable[[], Any], seconds: float = 20) -> Any:
    """Waits for an expression in the page (by the debugger: the page's policy forbids scripts to evaluate text), or for a
    fact of the studio, while the browser goes on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(playwright.Error):  # the page may be on its way to another
            if found := page.evaluate(what) if isinstance(what, str) else what():
                return found
        page.wait_for_timeout(25)
    raise AssertionError(f"it did not come about: {what}")


def waits_for_pair(page: Any) -> None:
    comes(
        page,
        "document.querySelector('#place').getAttribute('aria-busy') === 'false' && document.querySelector('#none').hidden",
    )


def judge(page: Any, key: str) -> None:
    waits_for_pair(page)
    page.keyboard.press(key)


def said(served: Served, kind: Kind = Kind.COMPARISON) -> list[Any]:
    return [entry.judgement for entry in served.house.store.judgements(kinds=[kind])]


def test_one_command_and_ten_keys_make_learn_possible(chromium: Any, served: Served) -> None:
    add_pairs(served.house, 14)
    with opened(chromium, served) as page:
        assert "?" not in page.url  # the token is gone from the address
        page.click(".hero a.button.lead")
        page.wait_for_url("**/judge")
        for key in (
            "ArrowLeft",
            "ArrowRight",
            "ArrowUp",
            "ArrowDown",
            "=",
            "x",
            "ArrowLeft",
            "ArrowLeft",
            "ArrowRight",
            "ArrowRight",
        ):
            judge(page, key)
        comes(page, lambda: len(said(served)) == 10)
        comes(page, "document.querySelectorAll('#dots .saved').length === 10")
        verdicts = [one.value["verdict"] for one in said(served)]
        assert verdicts.count("tie") == 2 and verdicts.count("both_bad") == 2
        page.goto(served.address + "/learn")
        assert page.get_attribute("#learn", "aria-disabled") == "false"


@pytest.mark.slow
def test_strength_reasons_comment_and_an_edit_by_keyboard_alone(chromium: Any, served: Served) -> None:
    add_pairs(served.house, 3)
    with opened(chromium, served) as page:
        page.goto(served.address + "/judge")
        waits_for_pair(page)
        for key in ("3", "r", "q", "c"):
            page.keyboard.press(key)
        page.keyboard.type("x z s 1")  # letters in the comment are no shortcuts
        page.keyboard.press("Escape")
        page.keyboard.press("[")
        page.keyboard.press("End")
        page.keyboard.type("毎日です。")
        page.keyboard.press("Escape")
        assert said(served) == []
        page.keyboard.press("ArrowLeft")
        (comparison,) = comes(page, lambda: said(served))
        assert comparison.value["strength"] == 3 and comparison.comment == "x z s 1"
        assert set(comparison.tags) == {"polite", "accurate"}
        (correction,) = comes(page, lambda: said(served, Kind.CORRECTION))
        assert correction.value["text"].endswith("毎日です。")


@pytest.mark.slow
def test_undo_brings_the_pair_back_with_what_was_entered(chromium: Any, served: Served) -> None:
    add_pairs(served.house, 3)
    with opened(chromium, served) as page:
        page.goto(served.address + "/judge")
        waits_for_pair(page)
        question = page.inner_text("#question")
        page.keyboard.press("2")
        page.keyboard.press("ArrowRight")
        comes(page, lambda: len(said(served)) == 1)
        waits_for_pair(page)
        page.keyboard.press("z")
        comes(page, lambda: said(served) == [])
        assert page.inner_text("#question") == question
        assert page.get_attribute("[data-strength='2']", "aria-pressed") == "true"
        judge(page, "ArrowLeft")
        assert comes(page, lambda: said(served))[0].value["strength"] == 2


@pytest.mark.slow
def test_nothing_is_lost_when_the_network_is_cut_and_the_page_reloaded(chromium: Any, served: Served) -> None:
    add_pairs(served.house, 8)
    with opened(chromium, served) as page:
        page.goto(served.address + "/judge")
        judge(page, "ArrowLeft")
        comes(page, lambda: len(said(served)) == 1)
        waits_for_pair(page)
        page.context.set_offline(True)
        for _ in range(2):
            judge(page, "ArrowRight")
        comes(page, "document.querySelector('#offline').textContent.includes('2')")
        assert "保存しました" not in page.inner_text("#saved") and len(said(served)) == 1
        # nobody is told "saved", and a closed tab keeps them
        page.close()
        page = page.context.new_page()
        page.context.set_offline(False)
        page.goto(served.address + "/people")
        comes(page, lambda: len(said(served)) == 3)
        comes(page, "document.querySelector('#offline').hidden")
        assert len({one.extra["pair"] for one in said(served)}) == 3


@pytest.mark.slow
def test_a_waiting_answer_is_sent_once_though_the_acknowledgement_was_lost(chromium: Any, served: Served) -> None:
    add_pairs(served.house, 4)
    with opened(chromium, served) as page:
        page.goto(served.address + "/judge")
        waits_for_pair(page)
        lost: list[int] = []

        def lose(route: Any) -> None:
            route.fetch()  # the studio stored it
            lost.append(1)
            route.abort()  # and its answer never came back

        page.route("**/api/judge", lose, times=1)
        page.keyboard.press("ArrowLeft")
        comes(page, lambda: lost)
        comes(page, "document.querySelector('#saved').textContent.includes('保存しました')")
        assert len(said(served)) == 1
        assert len(served.house.store.judgements(live=False)) == 1


@pytest.mark.slow
def test_composing_japanese_neither_sends_nor_chooses(chromium: Any, served: Served) -> None:
    add_pairs(served.house, 3)
    with opened(chromium, served) as page:
        page.goto(served.address + "/judge")
        waits_for_pair(page)
        page.evaluate(
            """() => { for (const key of ["ArrowLeft", "x", "z", "s", "1"])
                document.body.dispatchEvent(new KeyboardEvent("keydown", { key, isComposing: true, bubbles: true })); }"""
        )
        page.goto(served.address + "/chat")
        page.wait_for_selector("#message")
        page.fill("#message", "にほんご")
        page.evaluate(
            """() => document.querySelector("#message").dispatchEvent(
                new KeyboardEvent("keydown", { key: "Enter", isComposing: true, bubbles: true, cancelable: true }))"""
        )
        assert page.input_value("#message") == "にほんご" and page.query_selector(".bubble") is None
        assert said(served) == []
        comes(page, lambda: served.house.answering.status.state == "ready")
        page.keyboard.press("Enter")
        page.wait_for_selector(".bubble.assistant .acts")


@pytest.mark.slow
def test_chat_streams_and_what_is_said_of_an_answer_is_kept(chromium: Any, served: Served) -> None:
    until(lambda: served.house.answering.status.state == "ready")
    with opened(chromium, served) as page:
        page.goto(served.address + "/chat")
        page.fill("#message", "むねか書店は何時に開きますか。")
        page.keyboard.press("Enter")
        page.wait_for_selector(".bubble.assistant .acts")
        text = page.inner_text(".bubble.assistant .said")
        assert text
        page.click(".bubble.assistant [aria-label='よくない答え']")
        (thumb,) = comes(page, lambda: said(served, Kind.THUMB))
        assert thumb.value == {"answer": 0, "up": False} and thumb.answers == (text,)
        page.click(".bubble.assistant [aria-label='答えを直す']")
        page.fill(".editor textarea", "むねか書店は九時に開きます。")
        page.click(".editor .button.lead")
        (correction,) = comes(page, lambda: said(served, Kind.CORRECTION))
        assert correction.value["text"] == "むねか書店は九時に開きます。"
        page.reload()
        assert page.inner_text(".bubble .corrected .said") == "むねか書店は九時に開きます。"
        page.click("#new")
        assert page.query_selector(".bubble") is None


@pytest.mark.slow
def test_an_answer_can_be_stopped(chromium: Any, served: Served) -> None:
    until(lambda: served.house.answering.status.state == "ready")
    with opened(chromium, served) as page:
        page.goto(served.address + "/chat")
        page.fill("#message", "repeat:" + "長い答え" * 200)
        page.keyboard.press("Enter")
        comes(page, "(document.querySelector('.bubble.assistant .said')?.textContent || '').length > 8")
        page.click("#stop")
        page.wait_for_selector("#send:visible")
        assert len(page.inner_text(".bubble.assistant .said")) < 600


@pytest.mark.slow
def test_hostile_texts_stay_texts(chromium: Any, served: Served) -> None:
    until(lambda: served.house.answering.status.state == "ready")
    add_pairs(served.house, 2, question=HOSTILE, topic=HOSTILE[:40])
    served.house.store.add_rule(HOSTILE, status="active")
    with opened(chromium, served) as page:
        for path in ("/", "/judge", "/prompts", "/guideline", "/people"):
            page.goto(served.address + path)
            page.wait_for_timeout(150)
            assert "owned" not in page.title()
        page.goto(served.address + "/chat")
        page.fill("#message", f"repeat:{HOSTILE}")
        page.keyboard.press("Enter")
        page.wait_for_selector(".bubble.assistant .acts")
        assert page.inner_text(".bubble.assistant .said") == HOSTILE
        assert "owned" not in page.title()


PAGES = ("/", "/chat", "/judge", "/learn", "/prompts", "/guideline", "/data", "/runs", "/people", "/models", "/account")


@pytest.mark.slow
def test_every_page_fits_a_phone_and_its_targets_a_finger(chromium: Any, served: Served) -> None:
    add_pairs(served.house, 4, question="とても長い質問がここに入ります。" * 4)
    with opened(chromium, served, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True) as page:
        for path in PAGES:
            page.goto(served.address + path)
            page.wait_for_timeout(120)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
            small = page.evaluate(
                """() => [...document.querySelectorAll("button, .button, nav a, select, .input, textarea")]
                    .filter((e) => e.offsetParent && !e.closest("[hidden]"))
                    .filter((e) => { const r = e.getBoundingClientRect(); return r.width && (r.height < 43.5 || r.width < 43.5); })
                    .map((e) => `${e.tagName} ${e.className} ${Math.round(e.getBoundingClientRect().width)}x${Math.round(e.getBoundingClientRect().height)}`)"""
            )
            assert small == [], path
        page.goto(served.address + "/judge")
        waits_for_pair(page)
        page.tap("[data-verdict=left]")
        comes(page, lambda: said(served))


@pytest.mark.slow
def test_every_control_has_a_name_and_the_page_its_landmarks(chromium: Any, served: Served) -> None:
    add_pairs(served.house, 2)
    with opened(chromium, served) as page:
        for path in PAGES:
            page.goto(served.address + path)
            page.wait_for_timeout(100)
            nameless = page.evaluate(
                """() => [...document.querySelectorAll("button, a[href], input:not([type=hidden]), textarea, select, progress, svg[role=img]")]
                    .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length || e.getAttribute("aria-labelledby") || e.getAttribute("title")))
                    .map((e) => e.outerHTML.slice(0, 90))"""
            )
            assert nameless == [], path
            assert page.locator("main").count() == 1 and page.locator("h1").count() == 1, path
            ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
            assert len(ids) == len(set(ids)), path


@pytest.mark.slow
def test_text_stands_out_from_its_ground_in_light_and_dark(chromium: Any, served: Served) -> None:
    """WCAG AA: 4.5 for text, measured on what is drawn."""
    add_pairs(served.house, 2)
    measure = """() => {
      const parse = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
      const lum = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
      const ground = (e) => { for (; e; e = e.parentElement) { const s = getComputedStyle(e); if (s.backgroundImage !== "none" && !e.matches(".frame")) return null;
        const c = parse(s.backgroundColor); if (c.length < 4 && c.length || c[3] === 1) return c; } return parse(getComputedStyle(document.body).backgroundColor); };
      const bad = [];
      const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      while (walk.nextNode()) {
        const e = walk.currentNode.parentElement;
        if (!walk.currentNode.textContent.trim() || !e.offsetParent || e.closest("script, svg, [disabled], [aria-disabled=true], [aria-busy=true], .visually-hidden")) continue;
        const back = ground(e); if (!back) continue;
        const [a, b] = [lum(parse(getComputedStyle(e).color)), lum(back)];
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (ratio < 4.5) bad.push(`${ratio.toFixed(2)} ${e.className} ${e.textContent.trim().slice(0, 20)}`);
      }
      return bad;
    }"""
    for scheme in ("light", "dark"):
        with opened(chromium, served, color_scheme=scheme) as page:
            for path in PAGES:
                page.goto(served.address + path)
                page.wait_for_timeout(120)
                assert page.evaluate(measure) == [], f"{path} in {scheme}"


@pytest.mark.slow
def test_an_annotator_sees_their_own_pages_and_signs_out(chromium: Any, served: Served) -> None:
    person = annotator(served.house)
    add_pairs(served.house, 2)
    with opened(chromium, served, person=person.id) as page:
        assert page.locator(".side nav a[href='/runs']").count() == 0
        page.goto(served.address + "/prompts")
        page.fill("#text", "駅前の店は何時まで？")
        page.click("#add button")
        comes(page, lambda: any(prompt.status == "proposed" for prompt in served.house.store.prompts()))
        page.goto(served.address + "/account")
        page.click("[data-act=sign-out]")
        page.wait_for_url("**/sign-in")
        page.goto(served.address + "/judge")
        assert page.url.endswith("/sign-in")


@pytest.mark.slow
def test_the_language_and_the_look_can_be_changed_and_stay(chromium: Any, served: Served) -> None:
    with opened(chromium, served) as page:
        assert page.get_attribute("html", "lang") == "ja"
        page.click(".side [data-act=language]")
        comes(page, "document.documentElement.lang === 'en'")
        page.click(".side [data-act=theme]")
        assert page.get_attribute("html", "data-theme") == "dark"
        page.goto(served.address + "/models")
        assert page.get_attribute("html", "lang") == "en" and page.get_attribute("html", "data-theme") == "dark"


def test_pages_are_in_the_browsers_language_until_one_is_chosen_which_is_kept_everywhere(
    chromium: Any, tmp_path: Path
) -> None:
    with served_in(tmp_path, serve=None, lang=None) as served:
        for locale in ("en-GB", "ja-JP"):
            with opened(chromium, served, locale=locale) as page:
                assert page.get_attribute("html", "lang") == locale[:2]
        with opened(chromium, served, locale="ja-JP") as page:
            page.click(".side [data-act=language]")
            comes(page, "document.documentElement.lang === 'en'")
        with opened(chromium, served, locale="ja-JP") as page:  # another browser of the same person
            assert page.get_attribute("html", "lang") == "en"


def test_a_question_asked_while_the_model_loads_is_answered_once_it_is_there(chromium: Any, served: Served) -> None:
    answering = served.house.answering
    ready = answering.wait(20)
    assert ready.state == "ready"
    loading = replace(ready, state="loading")
    with opened(chromium, served) as page:
        answering._set(loading)
        page.goto(served.address + "/chat")
        page.fill("#message", "店は何時からですか")
        page.keyboard.press("Enter")
        comes(
            page, "document.querySelector('.bubble.assistant [role=status]')?.textContent.includes('読み込んでいます')"
        )
        answering._set(ready)
        page.wait_for_selector(".bubble.assistant .acts")
        assert page.query_selector(".bubble.assistant .fault") is None
