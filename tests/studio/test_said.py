"""What people said goes out in every form and comes back; a file with a bad row changes nothing unless one says so."""

from __future__ import annotations

import base64
import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.studio.rooms import Browser, add_pairs, annotator, house_in, owner
from tests.studio.test_judging import KEY, said
from tomoni.studio.house import House


def b64(content: bytes | str) -> str:
    return base64.b64encode(content.encode() if isinstance(content, str) else content).decode()


def judged(house: House, browser: Browser, count: int = 4) -> None:
    for number, pair in enumerate(add_pairs(house, count)):
        edits = {"left": "九時に開きます。"} if number == 0 else {}
        browser.post("/api/judge", said(pair.id, f"{KEY}{number}", edits=edits, reasons=["polite"]))


def take(browser: Browser, content: bytes | str, name: str = "x.jsonl", **more: Any) -> Any:
    return browser.post("/api/data/judgements", {"name": name, "content": b64(content), **more})


def test_everything_goes_out_and_another_workspace_takes_it_in_whole_and_once(
    house: House, browser: Browser, tmp_path: Path
) -> None:
    judged(house, browser)
    sent = browser.get("/api/data/export")
    assert sent.status_code == 200 and 'filename="tomoni-jsonl-' in sent.headers["content-disposition"]
    with house_in(tmp_path / "other") as there:
        reader = Browser(there).enter(owner(there))
        done = take(reader, sent.content).json()
        assert (done["judgements"], done["bad"]) == (5, 0)
        values = [one.judgement.value for one in there.store.judgements()]
        assert values == [one.judgement.value for one in house.store.judgements()]
        again = take(reader, sent.content).json()
        assert (again["judgements"], again["new"]) == (0, 0) and again["known"] > 0


def test_for_other_tools_there_is_a_file_that_comes_back_with_the_same_verdicts(
    house: House, browser: Browser, tmp_path: Path
) -> None:
    judged(house, browser)
    archive = zipfile.ZipFile(io.BytesIO(browser.get("/api/data/export?form=trl").content))
    rows = [json.loads(line) for name in archive.namelist() for line in archive.read(name).decode().splitlines()]
    assert any({"chosen", "rejected"} <= set(row) for row in rows)
    studio = zipfile.ZipFile(io.BytesIO(browser.get("/api/data/export?form=labelstudio").content))
    assert {Path(name).suffix for name in studio.namelist()} == {".json", ".xml"}
    tasks = next(studio.read(name) for name in studio.namelist() if name.endswith(".json"))
    verdicts = sorted(
        one.judgement.value["verdict"] for one in house.store.judgements() if "verdict" in one.judgement.value
    )
    for form, content in (("labelstudio", tasks), ("argilla", browser.get("/api/data/export?form=argilla").content)):
        with house_in(tmp_path / form) as there:
            done = take(Browser(there).enter(owner(there)), content, f"{form}.json", form=form)
            assert done.status_code == 200, done.text
            kept = [one.judgement.value for one in there.store.judgements()]
            assert sorted(value["verdict"] for value in kept if "verdict" in value) == verdicts


def test_a_file_with_a_bad_row_changes_nothing_unless_one_says_so(house: House, browser: Browser) -> None:
    good = {"prompt": "営業時間は？", "chosen": "九時からです。tel 03-1234-5678", "rejected": "知らない"}
    content = json.dumps(good, ensure_ascii=False) + "\n{broken\n"
    refused = take(browser, content, form="trl")
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "not_taken") and "x.jsonl" in error["message"]
    assert "/tmp" not in error["message"] and house.store.judgements() == []
    done = take(browser, content, form="trl", without_bad=True).json()
    assert (done["judgements"], done["bad"], done["masked"]) == (1, 1, 1)
    assert "03-1234" not in house.store.judgements()[0].judgement.answers[0]


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("x.csv", "a,b\n1,2\n", "trl"),
        ("x.exe", "MZ", "jsonl"),
        ("x.jsonl", " ", "jsonl"),
        ("x.jsonl", '{"a": 1}\n', "jsonl"),
        ("x.json", "\u0000", "argilla"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(
    shared: House, visitor: Browser, name: str, content: str, form: str
) -> None:
    answer = take(visitor, content, name, form=form)
    assert answer.status_code in (400, 422) and answer.json()["error"]["message"]
    assert shared.store.judgements() == []


def test_only_the_owner_takes_judgements_out_or_in(house: House, browser: Browser) -> None:
    other = Browser(house).enter(annotator(house))
    assert other.get("/api/data/export").status_code == 403
    assert take(other, "{}").status_code == 403
    assert browser.get("/api/data/export?form=secrets").status_code == 422
    assert browser.get("/api/data/export?form=trl").json()["error"]["code"] == "nothing_said"
    exported = browser.get("/api/data/export").text
    assert "password" not in exported and "token_hash" not in exported


def test_the_table_opens_in_excel_with_japanese_and_without_formulas(house: House, browser: Browser) -> None:
    assert browser.get("/api/data/export?form=csv").json()["error"]["code"] == "nothing_said"
    (pair,) = add_pairs(house, 1)
    browser.post("/api/judge", said(pair.id, comment="=1+1"))
    sent = browser.get("/api/data/export?form=csv")
    assert sent.headers["content-type"] == "text/csv; charset=utf-8" and sent.content.startswith(b"\xef\xbb\xbf")
    assert ".csv" in sent.headers["content-disposition"]
    (row,) = csv.DictReader(io.StringIO(sent.content.decode("utf-8-sig"), newline=""))
    assert (row["prompt"], row["answer 1"], row["comment"]) == ("何時に開きますか0", "開きます。0", "'=1+1")
    assert "/api/data/export?form=csv" in browser.get("/data").text
