"""The table for spreadsheets: Japanese opens as it is, nothing that somebody wrote is computed, nothing is left out."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.feedback.saying import hanako, judgement
from tests.feedback.test_exchange import TALK, fill
from tomoni.errors import UserError
from tomoni.feedback.exchange import export, import_
from tomoni.feedback.forms.table import COLUMNS, harmless, text_of
from tomoni.feedback.store import Store
from tomoni.records import Kind

FORMULAS = (
    '=HYPERLINK("http://x","y")',
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "=cmd|' /C calc'!A0",
    "＝1+1",
    "＋1",
    "－1",
    "＠x",
    "﹣1",
    "−1",
)
BEFORE = ("", " ", "\u3000", "\t", "\r", "\n", "\ufeff", "\u200b", "\u202e", "\0", " \u00a0\t")


def table(path: Path) -> list[dict[str, str]]:
    raw = path.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf") and not raw[3:].startswith(b"\xef\xbb\xbf")
    return list(csv.DictReader(io.StringIO(raw.decode("utf-8-sig"), newline="")))


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("before", BEFORE)
def test_what_a_spreadsheet_would_compute_becomes_text(before: str, formula: str) -> None:
    assert harmless(before + formula) == f"'{before}{formula}"


@pytest.mark.parametrize("text", ["", "はい", "九時-五時", "a=b", "3", "「=」です", "'=1", " はい", "1-1", "😀", "々"])
def test_other_text_is_left_as_it_is(text: str) -> None:
    assert harmless(text) == text


@given(st.text())
def test_any_text_is_kept_whole_behind_the_apostrophe(text: str) -> None:
    assert harmless(text) in (text, f"'{text}")


def test_each_judgement_that_counts_is_a_line_with_what_was_said(store: Store, tmp_path: Path) -> None:
    fill(store)
    assert export(store, tmp_path / "said.csv", form="csv") == {str(tmp_path / "said.csv"): len(store.judgements())}
    live = [entry.judgement for entry in store.judgements()]
    people = {person.id: person.name for person in store.people()}
    rows = table(tmp_path / "said.csv")
    assert [row["id"] for row in rows] == [one.id for one in live]
    assert set(rows[0]) == set(COLUMNS)
    for row, one in zip(rows, live, strict=True):
        assert (row["person"], row["kind"]) == (people[one.person], one.kind.value)
        assert row["answer 1"] == one.answers[0] and row["comment"] == one.comment
        match one.kind:
            case Kind.COMPARISON:
                assert row["verdict"] == one.value["verdict"] and row["answer 2"] == one.answers[1]
            case Kind.CORRECTION:
                assert row["correction"] == one.value["text"] and row["about answer"] == str(one.value["answer"] + 1)
            case Kind.THUMB:
                assert row["thumb"] == ("up" if one.value["up"] else "down")
            case Kind.RATING:
                assert row["stars"] == str(one.value["stars"])
            case Kind.FLAG:
                assert [row[name] == "yes" for name in ("harmful", "private", "untrue")] == [
                    one.value[name] for name in ("harmful", "private", "untrue")
                ]
    talk = next(row for row in rows if row["id"] == "bad")
    assert talk["prompt"] == "user: やあ\nassistant: こんにちは\nuser: 日本の首都は？" and talk["verdict"] == "both_bad"


def test_hostile_words_of_a_judgement_are_text_in_every_cell(store: Store) -> None:
    who = hanako(store)
    hostile = store.change_person(who.id, name="=1+1")
    said = judgement("j", who.id, prompt=TALK, comment='@x",\r\n=2', tags=("=tag",), answers=("-1", "+2"))
    store.judge(said, key="k")
    text, count = text_of(store.judgements(), {hostile.id: hostile.name})
    (row,) = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    assert count == 1
    assert [row[name] for name in ("person", "comment", "reasons", "answer 1", "answer 2")] == [
        "'=1+1", '\'@x",\r\n=2', "'=tag", "'-1", "'+2",
    ]  # fmt: skip


def test_a_table_is_not_taken_in(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="written and not read"):
        import_(store, [tmp_path / "said.csv"], form="csv")
