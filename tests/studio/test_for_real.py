"""The road of the studio with the bundled model, in a browser: tune it, judge ten pairs, learn, compare, take it into use.

Where TOMONI_PICTURES names a folder, pictures for the documents are left there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.studio.test_in_a_browser import CHROMIUM, chromium, comes, opened, picture, served_in, waits_for_pair
from tomoni.studio.run import SERVE

__all__ = ["chromium"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"there is no {CHROMIUM}"),
]
POLITE = ("です", "ます", "ました")


def polite(text: str) -> bool:
    return any(ending in text for ending in POLITE)


def prefer_the_polite(page: Any) -> None:
    """One judgement as somebody makes it who likes politeness."""
    texts = [page.inner_text(f".answer[data-side={side}] [data-text]") for side in ("left", "right")]
    left, right = map(polite, texts)
    page.keyboard.press("ArrowUp" if left == right else "ArrowLeft" if left else "ArrowRight")


def test_ten_judgements_teach_the_bundled_model_and_people_see_it(chromium: Any, tmp_path: Path) -> None:
    with served_in(tmp_path, serve=list(SERVE), model="bundled:small") as served, opened(chromium, served) as page:
        page.click(".hero a.button.lead")
        page.wait_for_url("**/runs")
        page.check("input[name=effort][value=short]")
        page.click("#start button")
        page.wait_for_url("**/runs/run1")
        try:
            comes(page, "document.querySelector('#state').textContent === '完了'", 500)
        except AssertionError:
            served.house.training.stop("run1")  # it would go on without the studio, as it should
            raise
        comes(page, lambda: served.house.registry.current().id == "v2", 30)
        comes(page, lambda: served.house.answering.status.version == "v2", 30)
        comes(page, lambda: served.house.asking.waiting() >= 8, 60)
        page.goto(served.address + "/")
        picture(page, "home")
        page.goto(served.address + "/judge")
        for number in range(16):
            waits_for_pair(page)
            if number == 3:
                page.keyboard.press("r")
                picture(page, "judge")
                page.keyboard.press("r")
            prefer_the_polite(page)
            page.wait_for_timeout(200)
        comes(page, lambda: served.house.teaching.gathered().enough)
        page.goto(served.address + "/chat")
        page.fill("#message", "すみません、「にたさ生花店」は何時からやっていますか。")
        page.keyboard.press("Enter")
        page.wait_for_selector(".bubble.assistant .acts")
        picture(page, "chat")
        page.goto(served.address + "/learn")
        page.click("#learn")
        page.wait_for_url("**/learn/0001")
        comes(page, "!document.querySelector('#stages')", 500)
        before = served.house.registry.current().id
        page.click("a.button.lead")
        page.wait_for_url("**/learn/0001/judge")
        while page.url.endswith("/judge"):
            if page.evaluate("document.querySelector('#place')?.getAttribute('aria-busy') === 'false'"):
                prefer_the_polite(page)
            page.wait_for_timeout(250)
        page.wait_for_selector(".verdict")
        picture(page, "result")
        tally = served.house.teaching.tally(served.house.teaching.press("0001"))
        assert tally.won > tally.lost, "what it learnt is not what was taught"
        assert served.house.registry.current().id == before == "v2"
        page.click("#promote")
        comes(page, lambda: served.house.registry.current().id == "v3")
        comes(page, lambda: served.house.answering.status.version == "v3", 30)
        page.goto(served.address + "/people")
        picture(page, "people")
        page.goto(served.address + "/models")
        picture(page, "models")
