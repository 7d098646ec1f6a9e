"""Both languages say the same things, and nothing that is said nowhere is kept."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import pytest

from tomoni.studio.words import LANGS, Words, catalogue, chosen

STUDIO = Path(__file__).parents[2] / "tomoni" / "studio"
SOURCES = [path for path in sorted(STUDIO.rglob("*")) if path.suffix in (".py", ".html", ".js")]
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
# keys that are put together from a value: "stage." ~ stage, `none.${state}`, t("learn.state." ~ press.state ~ ".text")
FAMILIES = sorted(set(re.findall(r"[\"'`(]([a-z_]+(?:\.[a-z_]+)*\.)(?=[\"'`]|\$\{|\{)", TEXT)), key=len, reverse=True)


def holes(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def used(key: str) -> bool:
    plain = key.removesuffix(".one")
    if plain.endswith(".next") and plain.startswith("fault."):
        plain = plain.removesuffix(".next")
    if re.search(rf"[\"'`]{re.escape(plain)}[\"'`]", TEXT):
        return True
    if plain.startswith("fault."):
        return re.search(rf"[\"']{re.escape(plain.removeprefix('fault.'))}[\"']", TEXT) is not None
    return any(plain.startswith(family) for family in FAMILIES)


def test_both_languages_have_the_same_keys_with_the_same_holes() -> None:
    japanese, english = catalogue("ja"), catalogue("en")
    assert list(japanese) == list(english)
    assert [key for key in japanese if holes(japanese[key]) != holes(english[key])] == []


def test_no_text_is_empty_or_left_in_the_other_language() -> None:
    assert [key for lang in LANGS for key, text in catalogue(lang).items() if not text.strip()] == []
    kana = re.compile("[\u3041-\u30ff]")
    both = ("nav.other_language", "terminal.open", "terminal.team")  # name the other language, or the product
    assert [key for key, text in catalogue("en").items() if kana.search(text) and key not in both] == []
    plain = re.compile(r"[\u3041-\u30ff\u4e00-\u9fff]")
    # what has no Japanese letter: symbols, numbers and proper names
    without = [key for key, text in catalogue("ja").items() if not plain.search(re.sub(r"\{\w+\}", "", text))]
    assert set(without) <= {"nav.other_lang", "nav.other_language", "learn.rate_of", "count.and"} | {
        k for k in without if "{" in catalogue("ja")[k]
    }


def test_no_key_is_unused() -> None:
    assert [key for key in catalogue("en") if not used(key)] == []


def test_every_key_that_pages_name_is_there() -> None:
    named = set(re.findall(r"\bt\(\s*[\"']([a-z_]+\.[A-Za-z0-9_.]+)[\"']", TEXT))
    named |= set(re.findall(r"\bwords\(\s*[\"']([a-z_]+\.[A-Za-z0-9_.]+)[\"']", TEXT))
    faults = {f"fault.{code}" for code in re.findall(r"Fault\(\s*[\"']([a-z_0-9]+)[\"']", TEXT)}
    beginnings = {key for key in named if key.endswith((".", "_"))}  # the rest comes from a value
    assert sorted((named | faults) - beginnings - set(catalogue("en"))) == []


@pytest.mark.parametrize(
    ("asked", "lang"),
    [
        (("ja",), "ja"), ((None, "en"), "en"), (("ja-JP,ja;q=0.9,en;q=0.8",), "ja"), (("fr-FR,de,en-GB",), "en"),
        (("ja_JP.UTF-8",), "ja"), (("xx",), "en"), ((), "en"), (("", None, "ja"), "ja"),
        (("en;q=0.5,ja",), "ja"), (("ja;q=0,en-US",), "en"), (("en;q=0.3, ja ; q=0.30",), "en"), (("ja;nonsense",), "en"),
    ],
)  # fmt: skip
def test_the_first_known_language_that_is_asked_for_is_chosen(asked: tuple[str | None, ...], lang: str) -> None:
    assert chosen(asked) == lang


def test_counts_are_written_with_separators_and_one_has_its_own_text() -> None:
    words = Words("en")
    assert words("home.versions", n=1) == "1 version"
    assert words("home.versions", n=1200) == "1,200 versions"


# -- what scripts and templates may not do -------------------------------------------------------------------------------


def test_no_script_parses_markup_and_no_page_holds_script_or_style() -> None:
    banned = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|setHTML"
    )
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".js":
            assert not banned.search(text), path.name
            assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path.name
        if path.suffix == ".html":
            assert not re.search(r"\|\s*safe\b|<style|\sstyle=|\son\w+=", text), path.name
            for attributes in re.findall(r"<script([^>]*)>", text):
                assert "src=" in attributes or 'type="application/json"' in attributes, path.name
