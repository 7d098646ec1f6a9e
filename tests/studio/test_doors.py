"""Who comes in, who may do what, and what is turned away at the door."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from tests.studio.conftest import RECOMMENDED
from tests.studio.rooms import HOST, OWN, Browser, annotator, house_in, owner
from tomoni.errors import ConfigError
from tomoni.studio import doors as doors_module
from tomoni.studio import run
from tomoni.studio.access import Routes, Rule, require_rules, rules_of
from tomoni.studio.app import create
from tomoni.studio.doors import digest, hashed
from tomoni.studio.guard import CSP, FILE_PATHS, MOST
from tomoni.studio.house import House

ROLES = ("anonymous", "annotator", "owner")


def example(path: str) -> str:
    """The path with something in its holes."""
    for hole, value in {"mark": "0", "name": "run1", "trial": "1", "number": "1"}.items():
        path = path.replace("{" + hole + "}", value)
    assert "{" not in path, f"no example for {path}"
    return path


# every route, from the routes themselves: a new one is in the matrix without a line here
def routes(house: House) -> list[tuple[str, str, Rule]]:
    found = rules_of(create(house).routes)
    return [(method, path, rule) for (method, path), rule in found.items() if rule is not None]


def test_every_route_lets_in_whom_its_rule_names_and_nobody_else(house: House) -> None:
    app = create(house)
    who = {"anonymous": Browser(house, app)}
    who["annotator"] = Browser(house, app).enter(annotator(house))
    who["owner"] = Browser(house, app).enter(owner(house))
    seen: set[Rule] = set()
    for (method, path, rule), role in itertools.product(routes(house), ROLES):
        if path in ("/api/sign-out", "/"):
            continue  # these end or begin what the others need
        seen.add(rule)
        send = who[role].get if method == "GET" else who[role].post
        answer = send(example(path))
        refused = answer.status_code in (401, 403) or answer.headers.get("location") == "/sign-in"
        told = (
            "owner" in answer.text
            or "sign in" in answer.text.lower()
            or answer.status_code == 303
            or "管理者" in answer.text
        )
        allowed = rule is Rule.ANYONE or role == "owner" or (rule is Rule.PERSON and role == "annotator")
        if rule is Rule.ANYONE:
            assert answer.status_code != 401, f"{role} {method} {path}"
        else:
            assert refused != allowed, f"{role} {method} {path}: {answer.status_code}"
            assert allowed or told, f"{role} {method} {path} is refused without a reason"
        assert answer.status_code < 500, f"{role} {method} {path}: {answer.status_code} {answer.text[:200]}"
    assert seen == set(Rule)


def test_an_app_with_a_route_that_has_no_rule_does_not_start(house: House) -> None:
    app = create(house)

    @app.get("/forgotten")
    def forgotten() -> dict[str, str]:
        return {}

    with pytest.raises(RuntimeError, match="/forgotten"):
        require_rules(app)
    with pytest.raises(TypeError):
        Routes().get("/also")  # type: ignore[call-arg]


def test_a_link_works_once_and_leaves_a_cookie_that_scripts_cannot_read(house: House) -> None:
    browser = Browser(house)
    link = f"/?token={house.doors.link(owner(house).id)}"
    answer = browser.get(link)
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie
    assert browser.get("/").status_code == 200
    other = Browser(house).get(link)
    assert other.status_code == 403 and "set-cookie" not in other.headers


def test_a_link_that_is_too_old_opens_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors_module, "LINK", -1)
    assert Browser(house).get(f"/?token={house.doors.link(owner(house).id)}").status_code == 403


def test_the_store_keeps_only_the_hash_of_a_session_and_signing_out_ends_it_everywhere(house: House) -> None:
    browser = Browser(house).enter(owner(house))
    token = browser.client.cookies[house.doors.cookie]
    database = b"".join(path.read_bytes() for path in house.workspace.glob("tomoni.db*"))
    assert token.encode() not in database and digest(token).encode() in database
    thief = Browser(house)
    thief.client.cookies.set(house.doors.cookie, token)
    assert thief.get("/api/state").status_code == 200
    assert browser.post("/api/sign-out").status_code == 200
    assert thief.get("/api/state").status_code == 401


def test_a_person_who_is_no_longer_active_is_out_at_once(house: House, browser: Browser) -> None:
    other = Browser(house).enter(annotator(house))
    assert other.get("/api/state").status_code == 200
    assert browser.post("/api/people/change", {"person": annotator(house).id, "active": False}).status_code == 200
    assert other.get("/api/state").status_code == 401


def test_names_and_passwords_let_in_and_wrong_ones_are_told_alike(house: House) -> None:
    house.store.add_person("太郎", role="annotator", lang="ja", password_hash=hashed("正しい馬の電池ホチキス"))
    browser = Browser(house)
    wrong = browser.post("/api/sign-in", {"name": "太郎", "password": "間違った言葉です！"})
    nobody = browser.post("/api/sign-in", {"name": "次郎", "password": "間違った言葉です！"})
    assert wrong.status_code == nobody.status_code == 403 and wrong.json() == nobody.json()
    assert browser.post("/api/sign-in", {"name": "太郎", "password": "正しい馬の電池ホチキス"}).status_code == 200
    assert browser.get("/judge").status_code == 200


def test_guessing_is_slowed_down_per_account(house: House) -> None:
    house.store.add_person("太郎", role="annotator", lang="ja", password_hash=hashed("正しい馬の電池ホチキス"))
    browser = Browser(house)
    answers = [browser.post("/api/sign-in", {"name": "太郎", "password": f"guess number {n}"}) for n in range(9)]
    assert [answer.status_code for answer in answers] == [403] * 8 + [429]
    assert browser.post("/api/sign-in", {"name": "太郎", "password": "正しい馬の電池ホチキス"}).status_code == 429


def test_an_invitation_makes_one_account_with_the_role_that_was_offered(house: House, browser: Browser) -> None:
    path = browser.post("/api/people/invite", {"role": "annotator", "name": "花子"}).json()["path"]
    guest = Browser(house)
    page = guest.get(path)
    assert page.status_code == 200 and "花子" in page.text
    token = path.split("=")[1]
    assert guest.post("/api/join", {"token": token, "name": "花子", "password": "short"}).status_code == 400
    assert (
        guest.post("/api/join", {"token": token, "name": "花子", "password": "長い長い長い秘密の言葉"}).status_code
        == 200
    )
    assert guest.get("/judge").status_code == 200 and guest.get("/runs").status_code == 403
    again = Browser(house).post("/api/join", {"token": token, "name": "別人", "password": "長い長い長い秘密の言葉"})
    assert again.status_code == 403 and house.store.person_named("別人") is None


def test_a_new_password_ends_the_other_sessions(house: House) -> None:
    person = owner(house)
    here, there = Browser(house).enter(person), Browser(house).enter(person)
    body = {"name": person.name, "password": "とても長い新しい言葉"}
    assert here.post("/api/account/password", body).status_code == 200
    assert here.get("/api/state").status_code == 200
    assert there.get("/api/state").status_code == 401


# -- the guard -----------------------------------------------------------------------------------------------------------


def test_every_answer_carries_the_policy(visitor: Browser) -> None:
    for path in ("/", "/judge", "/nowhere", "/api/state", "/static/x/dom.js"):
        headers = visitor.get(path).headers
        assert headers["content-security-policy"] == CSP, path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "unsafe" not in CSP and "*" not in CSP and CSP.startswith("default-src 'none'")


FORGED: list[dict[str, str]] = [
    {"origin": "http://evil.example", "sec-fetch-site": "cross-site"},
    {"origin": f"http://{HOST}", "sec-fetch-site": "cross-site"},
    {"origin": f"http://{HOST}", "sec-fetch-site": "same-site"},
    {"origin": f"http://{HOST}", "sec-fetch-site": "none"},
    {"origin": "http://127.0.0.1:9999", "sec-fetch-site": "same-origin"},
    {"origin": f"https://{HOST}"},
    {"origin": "null"},
    {"origin": "http://localhost.evil.example:8420"},
    {"sec-fetch-site": "cross-site"},
    {},
]


@pytest.mark.parametrize("headers", FORGED, ids=str)
def test_no_unsafe_route_takes_a_request_of_another_site(visitor: Browser, headers: dict[str, str]) -> None:
    for method, path, _ in routes(visitor.house):
        if method == "POST":
            answer = visitor.forge("POST", example(path), {**headers, "content-type": "application/json"})
            assert answer.status_code == 403, path
    assert visitor.get("/api/state").status_code == 200  # still signed in: nothing was carried out


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8420", "127.0.0.1", "127.0.0.1:9999", f"{HOST}/?x=", f"{HOST}@evil.example", ""],
)
def test_a_host_that_is_not_ours_is_turned_away_on_every_route(visitor: Browser, host: str) -> None:
    for method, path, _ in routes(visitor.house):
        answer = visitor.forge(method, example(path), {**OWN, "host": host, "content-type": "application/json"})
        assert answer.status_code == 421, path


def test_only_json_is_taken(visitor: Browser) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = visitor.forge("POST", "/api/guideline/add", {**OWN, "content-type": kind}, b'{"text": "x"}')
        assert answer.status_code == 415, kind
    assert not visitor.house.store.rules()


def test_other_methods_and_reads_from_other_sites_are_refused(visitor: Browser) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert visitor.forge(method, "/api/guideline/add", OWN).status_code == 405
    fetched = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert visitor.forge("GET", "/api/state", fetched).status_code == 403
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert visitor.forge("GET", "/judge", followed).status_code == 200


def test_a_body_that_is_too_large_is_refused_by_its_length_and_without_one(browser: Browser) -> None:
    headers = {**OWN, "content-type": "application/json"}
    large = b'{"text": "' + b"x" * MOST + b'"}'
    assert browser.forge("POST", "/api/guideline/add", headers, large).status_code == 413

    def pieces() -> Any:
        for start in range(0, len(large), 4096):
            yield large[start : start + 4096]

    assert browser.client.post("/api/guideline/add", headers=headers, content=pieces()).status_code == 413
    assert not browser.house.store.rules()
    assert {path for _, path, _ in routes(browser.house)} >= FILE_PATHS


def test_no_get_changes_anything(browser: Browser) -> None:
    before = browser.house.store.sequence
    for method, path, _ in routes(browser.house):
        if method == "GET":
            browser.get(example(path))
    assert browser.house.store.sequence == before


# -- starting ------------------------------------------------------------------------------------------------------------


def test_another_address_needs_tls_and_an_owner_with_an_account(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="in the clear"):
        run.require_sense(run.Settings(tmp_path, host="192.0.2.1"))
    with pytest.raises(ConfigError, match="no name"):
        run.require_sense(run.Settings(tmp_path, behind_proxy=True))
    settings = run.Settings(tmp_path, behind_proxy=True, names=("studio.example.jp",))
    run.require_sense(settings)
    with house_in(tmp_path, model=False) as house:
        person = run.owner_of(house.store, settings)
        with pytest.raises(ConfigError, match="no account"):
            run.require_account(settings, person)
        person = house.store.change_person(person.id, password_hash=hashed("とても長い言葉です"))
        run.require_account(settings, person)


def test_an_owner_account_takes_its_password_from_the_environment(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, run.PASSWORD, "とても長い秘密の言葉")
    person = run.owner_of(house.store, run.Settings(Path(), owner="社長"))
    assert person.name == "社長" and person.role == "owner"
    assert Browser(house).post("/api/sign-in", {"name": "社長", "password": "とても長い秘密の言葉"}).status_code == 200


def test_two_workspaces_draw_different_secrets(tmp_path: Path) -> None:
    orders = []
    for name in ("a", "b"):
        with house_in(tmp_path / name, model=False) as house:
            orders.append([house.order("p", f"pair{n}") for n in range(64)])
    assert orders[0] != orders[1]
    assert {tuple(order) for order in orders[0]} == {(0, 1), (1, 0)}


def test_the_language_is_the_browsers_until_somebody_chooses_one(house: House) -> None:
    house.lang = None
    me = house.store.change_person(owner(house).id, lang="")
    browser = Browser(house).enter(me)
    for header, lang in (("ja,en-US;q=0.7", "ja"), ("en-GB,ja;q=0.9", "en"), ("de-DE", "en")):
        assert f'<html lang="{lang}">' in browser.get("/", **{"accept-language": header}).text
    assert (
        browser.get("/api/nothing", **{"accept-language": "ja"}).json()["error"]["message"] == "ページが見つかりません"
    )
    browser.post("/api/language", {"lang": "ja"})
    assert '<html lang="ja">' in browser.get("/", **{"accept-language": "en-GB"}).text
    other = Browser(house).enter(me)  # it goes with the person, not with the browser
    assert '<html lang="ja">' in other.get("/", **{"accept-language": "en-GB"}).text


@pytest.mark.parametrize("choice", ["", "ja"])
def test_who_accepts_an_invitation_keeps_what_they_chose_and_else_follows_their_browser(
    house: House, choice: str
) -> None:
    house.lang = None
    token = house.doors.invite("annotator")
    browser = Browser(house)
    if choice:
        browser.post("/api/language", {"lang": choice})
    body = {"token": token, "name": "次郎", "password": "正しい馬の電池ホチキス"}
    assert browser.post("/api/join", body, **{"accept-language": "en"}).status_code == 200
    joined = house.store.person_named("次郎")
    assert joined is not None and joined.lang == choice
    assert f'<html lang="{choice or "en"}">' in browser.get("/", **{"accept-language": "en"}).text


def test_pairs_are_made_in_the_language_of_the_pages_that_people_look_at(house: House) -> None:
    house.lang = None
    me = house.store.change_person(owner(house).id, lang="")
    assert house.asking.languages_read() == set()
    Browser(house).enter(me).get("/", **{"accept-language": "ja"})
    assert house.asking.languages_read() == {"ja"}


def test_passwords_are_kept_by_argon2_as_it_is_recommended() -> None:
    kept = RECOMMENDED().hash("正しい馬の電池ホチキス")
    kind, _, work = kept.split("$")[1:4]
    cost = {name: int(value) for name, value in (part.split("=") for part in work.split(","))}
    assert kind == "argon2id" and cost["m"] >= 19 * 1024 and cost["t"] >= 2  # OWASP, Password Storage Cheat Sheet
