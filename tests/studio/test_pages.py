"""Prompts, guideline, data, runs, people, models: what each does, and that each says what to do where it is empty."""

from __future__ import annotations

import base64
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.studio.rooms import STANDIN, Browser, add_pairs, annotator, house_in, model_in, owner, until
from tests.studio.test_judging import KEY, said
from tomoni.studio import answering as answering_module
from tomoni.studio.answering import Answering
from tomoni.studio.faults import Fault
from tomoni.studio.house import House
from tomoni.studio.insight import words_in
from tomoni.studio.processes import Processes
from tomoni.studio.training import settings

PAGES = ("/", "/chat", "/judge", "/learn", "/prompts", "/guideline", "/data", "/runs", "/people", "/models", "/account")


def coded(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def rows(*values: dict[str, Any]) -> str:
    return coded("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


@pytest.mark.parametrize("model", [True, False], ids=["with a model", "without one"])
@pytest.mark.parametrize("lang", ["ja", "en"])
def test_every_page_of_an_empty_workspace_opens_in_both_languages(tmp_path: Path, model: bool, lang: str) -> None:
    with house_in(tmp_path, model=model) as house:
        browser = Browser(house).enter(owner(house))
        assert browser.post("/api/language", {"lang": lang}).status_code == 200
        for path in PAGES:
            page = browser.get(path)
            assert page.status_code == 200, (path, page.text[:400])
            assert f'<html lang="{lang}">' in page.text


def test_prompts_are_added_by_the_owner_and_proposed_by_others(house: House, browser: Browser) -> None:
    other = Browser(house).enter(annotator(house))
    assert other.post("/api/prompts/add", {"text": "何時まで？", "topic": "営業"}).json()["status"] == "proposed"
    assert browser.post("/api/prompts/add", {"text": "どこ？"}).json()["status"] == "active"
    assert browser.post("/api/prompts/add", {"text": "どこ？"}).json()["known"] is True
    (proposed,) = house.store.prompts(status="proposed")
    assert other.post("/api/prompts/change", {"id": proposed.id, "status": "active"}).status_code == 403
    assert browser.post("/api/prompts/change", {"id": proposed.id, "status": "active"}).status_code == 200
    assert {prompt.topic for prompt in house.store.prompts(status="active")} == {"営業", ""}
    assert browser.post("/api/prompts/change", {"id": "0" * 16, "status": "active"}).status_code == 404


def test_imported_prompts_have_personal_data_hidden_and_come_once(house: House, browser: Browser) -> None:
    body = {
        "name": "質問.txt",
        "content": coded("山田@example.com へ yamada@example.jp で送れますか\n\n電話は090-1234-5678ですか\n"),
    }
    done = browser.post("/api/prompts/import", body).json()
    assert done["added"] == 2 and done["masked"] >= 2
    texts = " ".join(prompt.messages[0].content for prompt in house.store.prompts())
    assert "yamada" not in texts and "090" not in texts
    assert browser.post("/api/prompts/import", body).json() == {**done, "added": 0, "known": 2}
    named = {
        "name": "x.jsonl",
        "content": rows({"prompt": "A?", "completion": "B"}, {"prompt": "C?", "completion": "D"}),
    }
    assert browser.post("/api/prompts/import", named).json()["added"] == 2


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("x.exe", "eA==", "file_kind"), ("x.parquet", "eA==", "file_kind"), ("../../etc/passwd", "eA==", "file_kind"),
        ("x.jsonl", "", "file_empty"), ("x.jsonl", "???", "invalid"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read_are_refused_with_a_reason(
    visitor: Browser, name: str, content: str, code: str
) -> None:
    answer = visitor.post("/api/data/look", {"name": name, "content": content})
    assert 400 <= answer.status_code < 500 and answer.json()["error"]["code"] == code


def test_a_file_without_a_good_row_is_shown_and_not_kept(house: House, browser: Browser) -> None:
    file = {"name": "x.jsonl", "content": coded("nonsense")}
    look = browser.post("/api/data/look", file).json()
    assert (look["good"], look["bad_count"], look["bad"][0]["line"]) == (0, 1, 1)
    assert browser.post("/api/data/import", {**file, "without_bad": True}).json()["error"]["code"] == "no_good_rows"
    assert house.holding.all() == []


def test_data_is_looked_at_first_and_bad_rows_are_kept_out_only_on_ones_word(house: House, browser: Browser) -> None:
    text = rows(
        {"prompt": "店は？", "completion": "担当は a.tanaka@example.com です"},
        {"prompt": "値段は？", "completion": "百円"},
    )
    file = {
        "name": "お手本.jsonl",
        "content": coded(base64.b64decode(text).decode() + '{"prompt": 3, "completion": "x"}\n'),
    }
    look = browser.post("/api/data/look", file).json()
    assert (look["good"], look["bad_count"], look["masked"]) == (2, 1, {"e-mail": 1})
    assert look["bad"][0]["line"] == 3 and look["bad"][0]["reason"] == "must be text and is not"
    assert house.holding.all() == []
    assert browser.post("/api/data/import", file).json()["error"]["code"] == "bad_rows"
    held = browser.post("/api/data/import", {**file, "without_bad": True}).json()
    kept = house.holding.path(held["id"]).read_text(encoding="utf-8")
    assert held["rows"] == 2 and "tanaka" not in kept and "[e-mail]" in kept and len(kept.splitlines()) == 2
    assert {path.suffix for path in house.holding.folder.iterdir()} == {".jsonl", ".json"}
    assert browser.post("/api/data/remove", {"id": held["id"]}).status_code == 200
    for id in ("0123456789ab", "town"):
        assert browser.post("/api/data/remove", {"id": id}).status_code == 404
    assert browser.post("/api/data/remove", {"id": "../x"}).status_code == 422


def test_a_run_is_started_with_what_the_form_says_and_becomes_a_version_that_is_served(
    house: House, browser: Browser
) -> None:
    held = browser.post(
        "/api/data/import", {"name": "a.jsonl", "content": rows({"prompt": "A?", "completion": "B"})}
    ).json()
    program = (
        "import json, pathlib, sys, yaml; cfg = yaml.safe_load(open(sys.argv[2])); out = pathlib.Path(cfg['output_dir']);"
        "(out / 'model').mkdir(parents=True); (out / 'config.yaml').write_text(open(sys.argv[2]).read());"
        "[(out / 'model' / n).write_text('{}') for n in ('config.json', 'tokenizer.json')];"
        "(out / 'model' / 'model.safetensors').write_text('w');"
        "(out / 'metrics.jsonl').write_text(''.join(json.dumps({'step': s, 'loss': 1 / s, 'seconds': s}) + chr(10) for s in (1, 2, 3)));"
        "(out / 'report.json').write_text(json.dumps({'figures': [{'what': 'loss', 'before': '2', 'after': '1'}], 'answers': []}));"
        "(out / 'status.json').write_text(json.dumps({'state': 'finished', 'step': 3, 'steps': 3}))"
    )
    house.training.processes = Processes(command=[sys.executable, "-c", program])
    started = browser.post("/api/runs/start", {"name": "first", "data": held["id"], "effort": "short", "use": True})
    assert started.json() == {"name": "first"}
    until(lambda: house.registry.current() is not None and house.registry.current().id == "v2")  # type: ignore[union-attr]
    version = house.registry.get("v2")
    assert (version.base, version.method, version.run) == ("v1", "sft", str(house.training.folder / "first"))
    config = (house.training.folder / "first.yaml").read_text(encoding="utf-8")
    assert "num_train_epochs: 1" in config and "validation_share: 0.1" in config
    page = browser.get("/runs/first").text
    assert "<polyline" in page and "in use" in page
    assert browser.get("/api/runs/first").json()["state"] == "finished"
    assert browser.post("/api/runs/start", {"name": "first", "data": held["id"]}).json()["error"]["code"] == "name_used"


@pytest.mark.parametrize("name", ["../x", "-rf", ".hidden", "a b", "a;rm", "", "x" * 64, "名前", "a/b", "$(id)"])
def test_hostile_run_names_are_refused(visitor: Browser, name: str) -> None:
    assert visitor.post("/api/runs/start", {"name": name, "data": "0123456789ab"}).status_code == 422
    assert visitor.get(f"/runs/{name or '%20'}").status_code in (404, 422)


@pytest.mark.parametrize("form", ["messages", "preference", "unpaired"])
@pytest.mark.parametrize("amount", ["all", "part"])
def test_the_configs_that_are_written_are_valid(form: str, amount: Any, tmp_path: Path) -> None:
    from tomoni.run.methods import config_class

    for model in ("bundled:small", "org/name"):
        body = settings(model, tmp_path / "x.jsonl", form, amount, "usual")
        config_class(body["method"]).model_validate(body | {"output_dir": "x"})
    with pytest.raises(Fault):
        settings("bundled:small", tmp_path / "x.jsonl", "prompt", amount, "usual")


def test_rules_are_edited_by_the_owner_and_proposed_by_others(house: House, browser: Browser) -> None:
    other = Browser(house).enter(annotator(house))
    rule = other.post("/api/guideline/add", {"text": "丁寧に答える"}).json()
    assert rule["status"] == "proposed"
    assert other.post("/api/guideline/change", {"id": rule["id"], "status": "active"}).status_code == 403
    changed = {"id": rule["id"], "status": "active", "text": "いつも丁寧に答える"}
    assert browser.post("/api/guideline/change", changed).status_code == 200
    assert [rule.text for rule in house.store.rules()] == ["いつも丁寧に答える"]
    assert "いつも丁寧に答える" in other.get("/guideline").text


def test_people_learn_how_sure_their_judgement_is_and_only_the_owner_sees_all(house: House, browser: Browser) -> None:
    pairs = add_pairs(house, 40)
    other = Browser(house).enter(annotator(house))
    for number, pair in enumerate(pairs):  # the owner always chooses the polite one; the other always the left one
        polite = "left" if house.order(owner(house).id, pair.id)[0] == 0 else "right"
        body = said(pair.id, f"{KEY[:-3]}{number:06}", seconds=6)
        assert browser.post("/api/judge", body | {"verdict": polite}).status_code == 200
        assert other.post("/api/judge", body | {"verdict": "left"}).status_code == 200
    fitted = house.insight.fitted(fresh=True)
    assert fitted is not None
    good, bad = fitted.people.of(owner(house).id), fitted.people.of(annotator(house).id)
    assert good.value > 0.7 and bad.value < 0.3
    page, own = browser.get("/people").text, other.get("/people").text
    assert "花子" in page and owner(house).name in page
    assert f"<strong>{owner(house).name}</strong>" not in own
    assert browser.get("/guideline").text.count("votes") >= 1  # where they differ


def test_erasing_a_person_needs_their_name_and_takes_what_they_said(house: House, browser: Browser) -> None:
    (pair,) = add_pairs(house, 1)
    other = annotator(house)
    Browser(house).enter(other).post("/api/judge", said(pair.id))
    assert (
        browser.post("/api/people/erase", {"person": other.id, "name": "太郎"}).json()["error"]["code"]
        == "name_differs"
    )
    assert browser.post("/api/people/erase", {"person": other.id, "name": "花子"}).json()["judgements"] == 1
    assert house.store.judgements(live=False) == []
    me = owner(house)
    assert (
        browser.post("/api/people/erase", {"person": me.id, "name": me.name}).json()["error"]["code"] == "not_yourself"
    )


def test_words_of_reading_are_counted_in_both_languages() -> None:
    assert words_in("one two three") == 3
    assert words_in("今日は晴れです") == 3  # 7 characters at 2.5 a word
    assert words_in("tomoni は 良い") == 2  # 1 and 3 characters


# -- the model behind the pages ------------------------------------------------------------------------------------------


def test_pairs_are_made_ahead_with_two_different_answers_and_the_model_comes_back_when_it_dies(tmp_path: Path) -> None:
    with house_in(tmp_path, answering=True) as house:
        browser = Browser(house).enter(owner(house))
        for number in range(6):
            browser.post("/api/prompts/add", {"text": f"店{number}は何時からですか"})
        pairs = until(lambda: house.store.pairs(purpose="train"))
        for pair in pairs:
            first, second = house.store.answer(pair.first), house.store.answer(pair.second)
            assert first.text != second.text and first.prompt == second.prompt == pair.prompt
            assert first.features is not None and first.version == "v1"
        process = house.answering._process
        assert process is not None
        process.kill()
        until(lambda: house.answering.status.state != "ready", 10)
        until(lambda: house.answering.status.state == "ready", 30)
        assert house.answering.sample([{"role": "user", "content": "何時？"}])[0].text
        pid = house.answering._process
    assert pid is not None and pid.poll() is not None  # it ends with the studio


def test_held_out_prompts_are_never_put_before_people(tmp_path: Path) -> None:
    from tomoni.feedback.entries import NewPrompt
    from tomoni.records import Message

    with house_in(tmp_path, answering=True) as house:
        house.asking.reads(owner(house).id, "ja")  # before anybody's language is known, only a few are made
        new = [NewPrompt((Message("user", f"質問{n}"),), "world", held_out=n % 2 == 0) for n in range(10)]
        held_out = {row.id for row in house.store.add_prompts(new) if row.held_out}
        until(lambda: len(house.store.pairs(purpose="train")) >= 5)
        assert not held_out & {pair.prompt for pair in house.store.pairs()}


def test_a_model_that_will_not_start_is_said_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering_module, "TRIES", 1)
    answering = Answering(tmp_path, command=[sys.executable, "-c", "print('no such model'); raise SystemExit(2)"])
    answering.start()
    try:
        status = answering.wait(20)
        assert status.state == "failed" and "no such model" in status.said
        with pytest.raises(Fault, match="model_failed"):
            answering.sample([{"role": "user", "content": "?"}])
    finally:
        answering.close()


def test_two_versions_answer_side_by_side(tmp_path: Path) -> None:
    with house_in(tmp_path, answering=True) as house:
        house.registry.register(model_in(tmp_path, "other"), base="v1")
        browser = Browser(house).enter(owner(house))
        house.answering.wait(20)
        body = {"messages": [{"role": "user", "content": "何時？"}], "versions": ["v1", "v2"]}
        answers = browser.post("/api/models/both", body).json()["answers"]
        assert [answer["version"] for answer in answers] == ["v1", "v2"] and all(answer["text"] for answer in answers)


def test_the_model_knows_its_key_and_nobody_else_does(tmp_path: Path) -> None:
    import httpx

    with house_in(tmp_path, answering=True) as house:
        house.answering.wait(20)
        address = house.answering._address
        assert httpx.get(f"{address}/tomoni/state", trust_env=False).status_code == 401
        folder = house.answering._folder
        assert folder is not None and folder.stat().st_mode & 0o077 == 0
        assert house.answering._key not in (folder / "key").read_text()
    assert not folder.exists() and STANDIN


def test_the_studio_imports_in_an_instant_and_without_torch() -> None:
    import subprocess

    code = (
        "import sys; import tomoni.studio.run, tomoni.studio.app, tomoni.cli.studio; "
        "print([m for m in ('torch', 'transformers', 'peft', 'pyarrow', 'sklearn') if m in sys.modules])"
    )
    begin = time.process_time()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and begin >= 0


@pytest.mark.parametrize("number", ["INT", "TERM"])
def test_one_command_prints_an_address_that_opens_and_ends_with_all_it_started(tmp_path: Path, number: str) -> None:
    """The real command; its model is a stand-in."""
    import os
    import re
    import signal
    import subprocess

    import httpx

    code = (
        "import sys; from tomoni.studio import run; run.SERVE = tuple(sys.argv[1].split()); "
        "run.opened.__wrapped__.__kwdefaults__['serve'] = run.SERVE; "
        "from tomoni.cli.app import main; sys.exit(main(sys.argv[2:]))"
    )
    words = [
        "studio",
        str(tmp_path / "ws"),
        "--model",
        str(model_in(tmp_path)),
        "--port",
        "0",
        "--no-browser",
        "--lang",
        "ja",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", code, " ".join(STANDIN), *words],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        said_so_far = ""
        while not (found := re.search(r"(http://127\.0\.0\.1:\d+)/\?token=(\S+)", said_so_far)):
            said_so_far += process.stdout.readline()
        with httpx.Client(trust_env=False) as client:
            assert client.get(found[0]).status_code == 200
            home = client.get(found[1] + "/")
            assert home.status_code == 200 and 'lang="ja"' in home.text
            until(lambda: client.get(found[1] + "/api/state").json()["model"] == "ready")
        children = [int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    finally:
        process.send_signal(getattr(signal, f"SIG{number}"))
        assert process.wait(20) == 0
        process.stdout.close()
    until(lambda: all(not os.path.exists(f"/proc/{child}") for child in children))


def test_one_person_may_ask_so_many_answers_a_minute_and_is_told_when_again(
    house: House, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.answers_a_minute = 3
    monkeypatch.setattr(Answering, "require", lambda _: "http://127.0.0.1:9")  # nobody answers there
    ask = {"messages": [{"role": "user", "content": "何時？"}]}
    other = Browser(house).enter(annotator(house))
    for _ in range(3):
        assert browser.post("/api/chat", ask).status_code != 429
    refused = browser.post("/api/chat", ask)
    assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
    error = refused.json()["error"]
    assert error["code"] == "too_many_asked" and f"{refused.headers['retry-after']} s" in error["next"]
    assert other.post("/api/chat", ask).status_code != 429  # the others are not kept waiting
    both = ask | {"versions": ["v1", "v1"]}
    assert other.post("/api/models/both", both).status_code != 429
    refused = other.post("/api/models/both", both)  # two answers
    assert refused.status_code == 429 and "秒ほど待ってから" in refused.json()["error"]["next"]
    house.answers_a_minute = 0
    assert browser.post("/api/chat", ask).status_code != 429


def test_too_many_tries_at_the_door_say_when_again(house: House) -> None:
    stranger = Browser(house)
    body = {"name": "太郎", "password": "間違いの合言葉です"}
    answers = [stranger.post("/api/sign-in", body) for _ in range(9)]
    assert [answer.status_code for answer in answers[-2:]] == [403, 429]
    assert 200 < int(answers[-1].headers["retry-after"]) <= 300
