"""Figures and hints of a round's report that need no round: drift of traffic and of people, what is new."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tomoni.feedback.roundfolders import for_everybody
from tomoni.loop.report import FEW_PROMPTS, apart
from tomoni.loop.report_pages import across, one_round

PERSON: dict[str, Any] = {
    "weight": 0.8, "value": 0.6, "low": 0.3, "high": 0.8, "n": 90, "blind": False, "gold": None, "gold_n": 0,
    "recent": 0.7,
}  # fmt: skip


def body(**more: Any) -> dict[str, Any]:
    decision = {
        "outcome": "promote", "more": None, "e": 40.0, "log_e": 3.7, "needed": 3.5, "path": [1.0, 3.7],
        "win_rate": [0.7, 0.6, 0.8], "controlled": [0.7, 0.6], "said": 50, "counted": 50, "reasons": [],
    }  # fmt: skip
    cost = {
        "machine_seconds": 60, "usd": 0.002, "price_per_hour": 0.1, "teaching_seconds": 60, "judging_seconds": 60,
    }  # fmt: skip
    counts = {"comparisons": 10, "ties": 0, "corrections": 0, "thumbs": 0}
    return {
        "number": 2, "state": "promoted", "base": "v2", "candidate": "v3", "method": "learn", "decision": decision,
        "learnt_from": {"counts": counts, "left_out": {}, "judgements": 10}, "asked": {"asked": 50, "alike": 3},
        "drift": None, "probes": {"safety": None, "capability": None}, "people": {"葵": PERSON},
        "alpha": None, "value": 0.6, "understood": None, "information_per_minute": None, "uses": None, "judges": 3,
        "cost": cost, "shown": [],
    } | more  # fmt: skip


def test_topics_are_apart_by_their_total_variation() -> None:
    old, new = Counter({"price": 60, "place": 40}), Counter({"price": 10, "hours": 30})
    # .6 against .25, .4 against 0, 0 against .75
    assert apart(new, old) == pytest.approx((0.35 + 0.4 + 0.75) / 2)
    assert apart(old, old) == 0
    assert apart(Counter({"price": FEW_PROMPTS - 1}), old) is None


def test_what_is_new_and_what_has_moved_is_said_as_what_to_do_next() -> None:
    page = one_round(body(uses={"prompts": 40, "topics": ["返品"], "moved": 0.5}), lang="ja")
    assert "前の回のあとに加わった話題：返品" in page and "尋ねられる話題が前と変わってきました" in page
    calm = one_round(body(uses={"prompts": 40, "topics": [], "moved": 0.1}), lang="ja")
    assert "加わった話題" not in calm and "変わってきました" not in calm


def test_after_rounds_that_found_nothing_better_people_are_asked_less_and_told_what_would_help() -> None:
    kept = body()["decision"] | {
        "outcome": "keep",
        "reasons": [{"key": "limit", "status": "failed", "numbers": {"most": 400.0}, "about": ""}],
    }

    def page(rounds: int, lang: str = "en") -> str:
        return one_round(body(decision=kept, kept_in_a_row=rounds), lang=lang)

    assert "Teach more before the next round" in page(1) and "rounds in a row" not in page(1)
    assert "3 rounds in a row found nothing better" in page(3) and "Teach more before" not in page(3)
    assert "3回続けて、はっきりした改善がありませんでした" in page(3, "ja")


def test_somebody_whose_latest_judgements_fit_less_is_named() -> None:
    assert "葵さんの最近の判断は" not in one_round(body(), lang="ja")
    waning = one_round(body(people={"葵": PERSON | {"recent": 0.3}}), lang="ja")
    assert "葵さんの最近の判断は、以前ほど他の人と合っていません" in waning


def test_what_the_head_foretells_stands_beside_what_it_could() -> None:
    known = {"accuracy": 0.71, "ceiling": 0.86, "ece": 0.05, "loss": 0.5, "n": 120}
    page = one_round(body(understood=known, information_per_minute=2.5), lang="en")
    assert "foretells 71% of 120 answers" in page and "at most 86%" in page and "2.5 perfect labels a minute" in page


def test_what_is_said_of_single_people_is_for_the_owner() -> None:
    blind = PERSON | {"blind": True, "recent": 0.3, "gold": 0.4, "gold_n": 7}
    page = one_round(body(people={"葵": PERSON | {"recent": 0.3}, "<!--/owner-->蓮": blind}), lang="ja")
    assert page.count("葵") > 2 and page.count("蓮") > 1
    shown = for_everybody(page)
    assert "葵" not in shown and "蓮" not in shown and "40% / 7" not in shown
    assert "次にすること" in shown and shown.rstrip().endswith("</main></body></html>")


def test_while_people_judge_nothing_tells_how_the_candidates_answers_look() -> None:
    drift = {
        "length": [51.0, 83.0], "distinct": [0.412, 0.377], "different": [0.91, 0.92], "kl": 1.23, "kl_first": 4.56,
    }  # fmt: skip
    waiting = body(state="waiting", drift=drift)
    for page in (one_round(waiting, lang="en"), across([waiting], lang="en")):
        assert not any(figure in page for figure in (">83<", "0.377", "1.23", "4.56", "0.41 "))
    decided = one_round(body(drift=drift), lang="en")
    assert ">83<" in decided and "0.377" in decided and "1.23" in decided


def test_text_from_outside_stays_text() -> None:
    page = one_round(
        body(people={"<script>x</script>": PERSON}, uses={"prompts": 30, "topics": ["<b>"], "moved": None}), lang="en"
    )
    assert "<script>" not in page and "<b>," not in page and "&lt;script&gt;" in page
