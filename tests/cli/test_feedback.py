"""`tomoni feedback`: what people meet at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.feedback.saying import ASKED, hanako, judgement, with_pair
from tomoni.cli.app import main
from tomoni.feedback.store import Store
from tomoni.records import Kind


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "w"
    with Store.open(folder) as store:
        who, other = hanako(store), store.add_person("太郎", role="annotator")
        with_pair(store)
        store.judge(judgement("a", who.id, extra={"pair": "p1"}), key="a")
        store.judge(judgement("b", other.id, value={"verdict": "tie"}), key="b")
        store.judge(judgement("c", who.id, Kind.CORRECTION), key="c")
        store.judge(judgement("d", who.id, Kind.THUMB), key="d")
        store.judge(judgement("e", who.id, value={"verdict": "both_bad"}, prompt=ASKED[1:]), key="e")
    return folder


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["feedback", *map(str, words)])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_help_names_every_verb_and_each_has_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys)
    assert code == 0
    for verb in ("export", "import", "resolve", "erase", "people", "backup"):
        assert f"  {verb}" in out
        code, own, _ = said(capsys, "W", verb, "--help")
        assert code == 0 and f"tomoni feedback W {verb}" in own


def test_a_misspelt_verb_is_told_its_name(capsys: pytest.CaptureFixture[str], workspace: Path) -> None:
    code, _, err = said(capsys, workspace, "exprot")
    assert code == 2 and 'did you mean "export"' in err and "next:" in err


def test_the_verb_may_stand_before_the_workspace(capsys: pytest.CaptureFixture[str], workspace: Path) -> None:
    assert said(capsys, "people", workspace)[1] == said(capsys, workspace, "people")[1]


def test_a_folder_that_is_no_workspace_is_not_made_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for verb in (["people"], ["resolve"], ["erase", "x", "--yes"], ["import", tmp_path / "f.jsonl"]):
        code, _, err = said(capsys, tmp_path / "new", *verb)
        assert code == 2 and "no workspace" in err
    assert not (tmp_path / "new").exists()


def test_people_are_listed_with_how_much_they_said(capsys: pytest.CaptureFixture[str], workspace: Path) -> None:
    code, out, _ = said(capsys, workspace, "people")
    assert code == 0 and "花子 (owner): 4 judgements" in out and "太郎 (annotator): 1 judgement " in out
    listed = json.loads(said(capsys, workspace, "people", "--json")[1])
    assert {row["name"]: row["judgements"] for row in listed} == {"花子": 4, "太郎": 1}


def test_resolving_says_what_became_of_what_was_said(capsys: pytest.CaptureFixture[str], workspace: Path) -> None:
    code, out, _ = said(capsys, workspace, "resolve")
    assert code == 0
    for part in (
        "2 comparisons",
        "1 tie",
        "1 correction",
        "1 thumb",
        "left out: 1 both bad",
        "4 judgements of 2 people",
    ):
        assert part in out
    body = json.loads(said(capsys, workspace, "resolve", "--json")[1])
    assert body["counts"] == {"comparisons": 2, "ties": 1, "corrections": 1, "thumbs": 1}
    assert (workspace / "snapshots" / body["hash"] / "pairs.jsonl").exists()


@pytest.mark.parametrize(("file", "method"), [("pairs", "dpo"), ("sft", "sft"), ("thumbs", "kto"), ("pairs", "reward")])
def test_what_was_resolved_is_read_by_the_trainers_as_it_is(
    capsys: pytest.CaptureFixture[str], workspace: Path, file: str, method: str
) -> None:
    said(capsys, workspace, "resolve")
    (folder,) = (workspace / "snapshots").iterdir()
    data = ["--train_file", str(folder / f"{file}.jsonl"), "--model_name_or_path", "bundled:small", "--method", method]
    code = main(["check", *data])
    out = capsys.readouterr().out
    assert code == 0 and " 0 bad" in out and "error: " not in out


@pytest.mark.parametrize("form", ["jsonl", "argilla", "labelstudio"])
def test_what_is_exported_is_imported(
    capsys: pytest.CaptureFixture[str], workspace: Path, tmp_path: Path, form: str
) -> None:
    file = tmp_path / ("out.jsonl" if form == "jsonl" else "out.json")
    code, out, _ = said(capsys, workspace, "export", "--to", file, "--form", form)
    assert code == 0 and str(file) in out
    Store.open(tmp_path / "new").close()
    code, out, _ = said(capsys, tmp_path / "new", "import", file, "--form", form)
    assert code == 0 and "5 judgements" in out
    code, out, _ = said(capsys, tmp_path / "new", "import", file, "--form", form, "--json")
    body = json.loads(out)
    assert body["new"] == {} and body["known"] > 0 and body["bad"] == []


def test_an_import_says_what_was_hidden_and_which_rows_were_bad(
    capsys: pytest.CaptureFixture[str], workspace: Path, tmp_path: Path
) -> None:
    rows = [
        {"q": "090-1234-5678 に電話して", "chosen": "はい", "rejected": "いいえ"},
        {"q": "x", "chosen": "same", "rejected": "same"},
    ]
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [workspace, "import", file, "--form", "trl", "--column", "prompt=q", "--person", "太郎"]
    code, _, err = said(capsys, *words)
    assert code == 2 and "p.jsonl:2" in err and "same_answers" in err
    code, out, _ = said(capsys, *words, "--on-bad-rows", "quarantine")
    assert code == 0 and "1 judgement" in out and "hidden: 1 phone" in out and "p.jsonl:2" in out
    with Store.read(workspace) as store:
        newest = store.judgements()[-1].judgement
        assert newest.prompt[0].content == "[phone] に電話して"
        assert store.person(newest.person).name == "太郎"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["import", "x.jsonl", "--form", "csv"], "possible: jsonl"),
        (["import", "x.jsonl", "--on-bad-rows", "skip"], "possible: stop"),
        (["import", "x.jsonl", "--column", "prompt"], "OURS=THEIRS"),
        (["import", "x.jsonl", "--person", "花"], "did you mean"),
        (["export", "--to", "x", "--form", "xlsx"], "possible: jsonl"),
        (["export"], "--to"),
        (["erase", "花子"], "add --yes"),
        (["erase", "誰か", "--yes"], "possible: 花子"),
        (["people", "--loud"], "--loud"),
    ],
    ids=str,
)
def test_mistakes_are_told_with_what_is_possible(
    capsys: pytest.CaptureFixture[str], workspace: Path, words: list[str], told: str
) -> None:
    code, _, err = said(capsys, workspace, *words)
    assert code == 2 and told in err and "Traceback" not in err


def test_a_person_is_erased_and_the_versions_that_saw_it_are_named(
    capsys: pytest.CaptureFixture[str], workspace: Path
) -> None:
    said(capsys, workspace, "resolve")
    snapshot = next((workspace / "snapshots").iterdir()).name
    version = workspace / "versions" / "v2"
    version.mkdir(parents=True)
    (version / "version.json").write_text(json.dumps({"id": "v2", "snapshot": snapshot}))
    code, out, _ = said(capsys, workspace, "erase", "花子", "--yes")
    assert code == 0 and "4 judgements" in out and "v2" in out and "snapshots removed: 1" in out
    listed = json.loads(said(capsys, workspace, "people", "--json")[1])
    assert [row["name"] for row in listed] == ["太郎"]


def test_a_backup_is_made_while_the_studio_writes(
    capsys: pytest.CaptureFixture[str], workspace: Path, tmp_path: Path
) -> None:
    with Store.open(workspace) as store:
        code, out, _ = said(capsys, workspace, "backup", "--to", tmp_path / "copy.db")
        assert code == 0 and "copy.db" in out and (tmp_path / "copy.db").stat().st_size > 0
        code, _, err = said(capsys, workspace, "backup", "--to", tmp_path / "copy.db")
        assert code == 2 and "exists already" in err
        code, _, err = said(capsys, workspace, "erase", "花子", "--yes")
        assert code == 2 and "being written to by process" in err
        assert store.count_judgements() == 5
