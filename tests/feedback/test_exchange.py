"""What goes out comes back the same; what other tools write is read, and every row that is not is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.feedback.conftest import Opener
from tests.feedback.saying import ASKED, hanako, judgement, with_pair
from tomoni.data.read import read
from tomoni.errors import DataError, UserError
from tomoni.feedback.entries import Answer, NewPrompt
from tomoni.feedback.exchange import FORMS, Imported, export, import_
from tomoni.feedback.resolve import resolve
from tomoni.feedback.store import Store
from tomoni.records import Chat, Comparison, Judgement, Kind, Message, Rated, Verdict

TALK = (Message("user", "やあ"), Message("assistant", "こんにちは"), Message("user", "日本の首都は？"))


def fill(store: Store) -> None:
    """Some of everything that can be said."""
    who, other = hanako(store), store.add_person("Tarō", role="annotator", lang="en", password_hash="geheim")
    store.change_person(other.id, active=False)
    pair = with_pair(store, purpose="gold", person=other.id, expected=Verdict.TIE, selected_by="vopt")
    (prompt,) = store.add_prompts([NewPrompt(TALK, "traffic", by=who.id, topic="地理", held_out=True)])
    features = np.array([0.1, -0.0, 1e-40], dtype=np.float32)
    store.add_answers([Answer("a", prompt.id, "v2", "cd", "NUL\0 ﾊﾟ 👘", features, -1.25, 3, {"seed": 1})])
    rule = store.add_rule("簡潔に", by=who.id, examples=["はい。"])
    store.change_rule(rule.id, status="active")
    for number, kind in enumerate(kind for kind in Kind if kind is not Kind.UNDO):
        extra = {"pair": pair.id, "purpose": "overlap"}
        store.judge(judgement(f"j{number}", who.id, kind, tags=("簡潔",), seconds=1.5, extra=extra), key=f"k{number}")
    store.judge(judgement("tie", other.id, value={"verdict": "tie"}), key="tie")
    store.judge(judgement("bad", who.id, value={"verdict": "both_bad"}, prompt=TALK, comment="どちらも"), key="bad")
    store.judge(judgement("j0b", who.id, value={"verdict": "second", "strength": 1}, replaces="j0"), key="j0b")
    store.judge(judgement("gone", who.id, prompt=TALK), key="gone")
    store.undo("gone", person=who.id, key="u")


def say_same(one: Store, other: Store) -> None:
    for ask in (
        lambda store: [(p.id, p.name, p.role, p.lang, p.active, p.created) for p in store.people()],
        lambda store: store.prompts(),
        lambda store: [(a.id, a.text, a.features is not None and a.features.tobytes(), a.how) for a in store.answers()],
        lambda store: store.pairs(),
        lambda store: store.rules(history=True),
        lambda store: [(one.judgement, one.received) for one in store.judgements(live=False)],
        lambda store: [one.judgement.id for one in store.judgements()],
        lambda store: resolve(store.judgements(live=False)).files(),
    ):
        assert ask(one) == ask(other)


def test_our_own_form_makes_the_same_workspace_again_in_either_database(opened: Opener, tmp_path: Path) -> None:
    store = opened()
    fill(store)
    file = tmp_path / "all.jsonl"
    written = export(store, file)
    assert "geheim" not in file.read_text(encoding="utf-8")
    with Store.open(tmp_path / "other") as other:
        done = import_(other, [file])
        assert sum(done.new.values()) == written[str(file)] - 1 and done.known == 0
        say_same(store, other)
        again = tmp_path / "again.jsonl"
        export(other, again)
        assert again.read_bytes() == file.read_bytes()
        done = import_(other, [file])
        assert sum(done.new.values()) == 0 and done.known == written[str(file)] - 1
        say_same(store, other)


def test_people_of_the_same_name_stay_apart(tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    with Store.open(tmp_path / "a") as store:
        store.judge(judgement("j", hanako(store).id), key="k")
        export(store, file)
    with Store.open(tmp_path / "b") as store:
        mine = hanako(store)
        import_(store, [file])
        assert sorted(person.name for person in store.people()) == ["花子", "花子 (2)"]
        assert store.person(mine.id).name == "花子"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "w") as made:
        yield made


BAD_LINES: list[tuple[str, str]] = [
    ("{broken", "broken_json"),
    ("[]", "not_an_object"),
    ('{"type": "dance"}', "possible: person"),
    ('{"type": "person", "id": "x"}', "missing_column: name"),
    ('{"type": "prompt", "id": "x", "messages": [{"role": "user", "content": "y"}]}', "is not that of its messages"),
    ('{"type": "judgement", "key": "k", "received": "t", "judgement": {"id": "j"}}', "missing_column: person"),
]


@pytest.mark.parametrize(("line", "said"), BAD_LINES)
def test_a_bad_line_of_ours_is_named_and_nothing_is_changed(store: Store, tmp_path: Path, line: str, said: str) -> None:
    fill(store)
    good = tmp_path / "good.jsonl"
    export(store, good)
    bad = tmp_path / "bad.jsonl"
    lines = good.read_text(encoding="utf-8").splitlines()
    bad.write_text("\n".join([*lines[:3], line, *lines[3:]]) + "\n", encoding="utf-8")
    with Store.open(tmp_path / "new") as new:
        with pytest.raises(DataError, match=r"bad\.jsonl:4") as caught:
            import_(new, [bad])
        assert said in str(caught.value)
        assert new.people() == [] and new.sequence == 0
        done = import_(new, [bad], on_bad_rows="quarantine")
        assert [row.line for row in done.bad] == [4] and new.count_judgements() == store.count_judgements()


def test_a_file_that_is_not_ours_is_not_read_as_ours(store: Store, tmp_path: Path) -> None:
    for text in ('{"prompt": "x"}\n', '{"tomoni": "feedback", "schema": 9}\n'):
        (tmp_path / "x.jsonl").write_text(text)
        with pytest.raises(DataError, match=r"first line|schema is 9"):
            import_(store, [tmp_path / "x.jsonl"])


def test_what_cannot_be_done_is_said(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text("{}")
    with pytest.raises(UserError, match=r"xlsx.*not known"):
        export(store, tmp_path / "new", form="xlsx")
    with pytest.raises(UserError, match=r"possible: jsonl, trl"):
        import_(store, [file], form="xml")
    with pytest.raises(UserError, match="exists already"):
        export(store, file)
    with pytest.raises(UserError, match="no ending"):
        import_(store, [tmp_path / "x.csv"])
    with pytest.raises(UserError, match="no file"):
        import_(store, [])
    with pytest.raises(UserError, match="does not exist"):
        import_(store, [tmp_path / "none.jsonl"])
    with pytest.raises(UserError, match="no person"):
        import_(store, [file], form="trl", person="nobody")
    with pytest.raises(UserError, match="read as it is"):
        import_(store, [file], mask=True)


# -- TRL -------------------------------------------------------------------------------------------------------------


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def said(store: Store) -> list[Judgement]:
    return [one.judgement for one in store.judgements()]


def test_trl_gets_what_would_be_trained_on_in_its_own_columns(store: Store, tmp_path: Path) -> None:
    fill(store)
    export(store, tmp_path / "trl", form="trl")
    preference = [json.loads(line) for line in (tmp_path / "trl" / "preference.jsonl").read_text().splitlines()]
    assert all(set(row) == {"prompt", "chosen", "rejected", "margin"} for row in preference)
    assert [type(record) for record in read([tmp_path / "trl" / "preference.jsonl"])] == [Comparison] * len(preference)
    assert [type(record) for record in read([tmp_path / "trl" / "unpaired.jsonl"])] == [Rated]
    assert [type(record) for record in read([tmp_path / "trl" / "prompt_completion.jsonl"])] == [Chat]
    snapshot = resolve(store.judgements(live=False))
    assert len(preference) == len(snapshot.comparisons) - snapshot.ties


def test_trls_rows_become_judgements_and_resolve_to_the_same_training_data(store: Store, tmp_path: Path) -> None:
    rows = [
        {"prompt": "日本の首都は？", "chosen": "東京", "rejected": "京都", "margin": 0.5},
        {"prompt": [{"role": "user", "content": "ｶﾅ"}], "chosen": [{"role": "assistant", "content": "あ"}],
         "rejected": [{"role": "assistant", "content": "い"}]},
    ]  # fmt: skip
    files = [
        write_rows(tmp_path / "preference.jsonl", rows),
        write_rows(tmp_path / "unpaired.jsonl", [{"prompt": "p", "completion": "c", "label": False}]),
        write_rows(tmp_path / "sft.jsonl", [{"prompt": "p", "completion": "c"}]),
    ]
    for file in files:
        import_(store, [file], form="trl")
    snapshot = resolve(store.judgements(live=False))
    better = {
        (c.first if c.verdict is Verdict.FIRST else c.second)[0].content: (c.margin, c.prompt)
        for c in snapshot.comparisons
    }
    assert better == {"東京": (0.5, (Message("user", "日本の首都は？"),)), "あ": (0.0, (Message("user", "ｶﾅ"),))}
    assert [(rated.completion[0].content, rated.good) for rated in snapshot.thumbs] == [("c", False)]
    assert [chat.messages[-1].content for chat in snapshot.corrections] == ["c"]
    assert {judgement.person for judgement in said(store)} == {"import:trl"}
    assert {prompt.provenance for prompt in store.prompts()} == {"import"}


def test_the_place_of_an_imported_answer_does_not_tell_which_is_better(store: Store, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "chosen": f"{n * 7919 % 100}", "rejected": f"{n * 104729 % 97}x"} for n in range(60)]
    import_(store, [write_rows(tmp_path / "p.jsonl", rows)], form="trl")
    firsts = sum(judgement.value["verdict"] == "first" for judgement in said(store))
    assert 15 < firsts < 45


def test_a_bad_row_of_trl_is_named_by_file_line_and_reason(store: Store, tmp_path: Path) -> None:
    file = write_rows(
        tmp_path / "p.jsonl",
        [
            {"prompt": "p", "chosen": "a", "rejected": "b"},
            {"prompt": "p", "chosen": "a", "rejected": "a"},
            {"prompt": "p", "chosen": "", "rejected": "b"},
            {"prompt": "p", "text": "b"},
            {"prompt": "p", "chosen": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"},
                                       {"role": "assistant", "content": "c"}], "rejected": "b"},
        ],
    )  # fmt: skip
    with pytest.raises(DataError) as caught:
        import_(store, [file], form="trl")
    for place in ("p.jsonl:2", "p.jsonl:3", "p.jsonl:4", "p.jsonl:5"):
        assert place in str(caught.value)
    assert said(store) == []
    done = import_(store, [file], form="trl", on_bad_rows="quarantine")
    assert done.new["judgement"] == 1 and [row.reason for row in done.bad] == [
        "same_answers", "empty", "wrong_value", "wrong_value",
    ]  # fmt: skip


def test_columns_of_other_names_are_mapped_and_a_person_may_be_named(store: Store, tmp_path: Path) -> None:
    who = hanako(store)
    file = write_rows(tmp_path / "p.jsonl", [{"質問": "p", "良": "a", "悪": "b"}])
    columns = {"prompt": "質問", "chosen": "良", "rejected": "悪"}
    import_(store, [file], form="trl", columns=columns, person=who.id)
    assert [judgement.person for judgement in said(store)] == [who.id]


# -- Argilla and Label Studio ----------------------------------------------------------------------------------------


def meaning(judgements: list[Judgement], form: str) -> list[tuple[Any, ...]]:
    """What is said, without what a form has no place for: how much better in Label Studio's; in Argilla's a comment of
    its own, which goes to whatever else the person says there."""
    told = []
    for one in judgements:
        value = {"strength": 0} | dict(one.value) if one.kind is Kind.COMPARISON else dict(one.value)
        if form == "labelstudio":
            value.pop("strength", None)
        if not (form == "argilla" and one.kind is Kind.COMMENT):
            who = one.person.removeprefix("import:")
            told.append((one.kind.value, json.dumps(value, sort_keys=True), repr(one.prompt), one.answers, who))
    return sorted(told)


@pytest.mark.parametrize("form", ["argilla", "labelstudio"])
def test_what_goes_out_in_another_form_says_the_same_when_it_comes_back(
    store: Store, tmp_path: Path, form: str
) -> None:
    fill(store)
    file = tmp_path / "out.json"
    export(store, file, form=form)
    with Store.open(tmp_path / "new") as new:
        done = import_(new, [file], form=form, mask=False)
        assert done.bad == []
        assert meaning(said(new), form) == meaning(said(store), form)
        lines = [{line for one in said(there) for line in one.comment.splitlines()} for there in (store, new)]
        assert lines[0] == lines[1]
        known = import_(new, [file], form=form, mask=False)
        assert known.new["judgement"] == 0 and known.known == done.new["judgement"]


def argilla(**responses: Any) -> dict[str, Any]:
    fields = {"instruction": "首都は？", "response_1": "東京", "response_2": "京都"}
    given = {question: [{"value": value, "user_id": "u1"}] for question, value in responses.items()}
    return {"id": "r1", "fields": fields, "metadata": {}, "suggestions": {"ranking": {"value": ["response_2"]}},
            "responses": given, "vectors": {}}  # fmt: skip


ARGILLA: list[tuple[dict[str, Any], list[tuple[Kind, dict[str, Any]]]]] = [
    ({"preference": "response_2"}, [(Kind.COMPARISON, {"verdict": "second", "strength": 0})]),
    ({"ranking": ["response_1", "response_2"]}, [(Kind.COMPARISON, {"verdict": "first", "strength": 0})]),
    (
        {"ranking": [{"value": "response_2", "rank": 1}, {"value": "response_1", "rank": 2}]},
        [(Kind.COMPARISON, {"verdict": "second", "strength": 0})],
    ),
    (
        {"ranking": [{"value": "response_2", "rank": 1}, {"value": "response_1", "rank": 1}]},
        [(Kind.COMPARISON, {"verdict": "tie", "strength": 0})],
    ),
    (
        {"rating_1": 5, "rating_2": 2},
        [(Kind.RATING, {"answer": 0, "stars": 5}), (Kind.RATING, {"answer": 1, "stars": 2})],
    ),
    ({"verdict": "both_bad", "strength": 2}, [(Kind.COMPARISON, {"verdict": "both_bad", "strength": 2})]),
    ({"correction_response_2": "東京です"}, [(Kind.CORRECTION, {"answer": 1, "text": "東京です"})]),
    ({"comment": "うーん"}, [(Kind.COMMENT, {})]),
    ({}, []),
]


@pytest.mark.parametrize(("responses", "wanted"), ARGILLA, ids=str)
def test_argillas_questions_are_understood(
    store: Store, tmp_path: Path, responses: dict[str, Any], wanted: list[tuple[Kind, dict[str, Any]]]
) -> None:
    (tmp_path / "a.json").write_text(json.dumps([argilla(**responses)]), encoding="utf-8")
    import_(store, [tmp_path / "a.json"], form="argilla")
    assert [(judgement.kind, dict(judgement.value)) for judgement in said(store)] == wanted
    assert all(judgement.person == "import:u1" for judgement in said(store))


def test_argillas_drafts_and_suggestions_are_no_judgements(store: Store, tmp_path: Path) -> None:
    row = argilla(preference="response_1")
    row["responses"]["preference"] = [
        {"value": "response_1", "user_id": "u1", "status": "draft"},
        {"value": "response_2", "user_id": "u2", "status": "submitted"},
        {"value": "response_2", "user_id": "u3", "status": "discarded"},
    ]
    (tmp_path / "a.json").write_text(json.dumps([row]), encoding="utf-8")
    import_(store, [tmp_path / "a.json"], form="argilla")
    assert [(judgement.person, judgement.value["verdict"]) for judgement in said(store)] == [("import:u2", "second")]


@pytest.mark.parametrize(
    "row",
    [
        {"fields": "x"},
        argilla(preference="response_3"),
        argilla(rating_1=9),
        argilla(flags="harmful"),
        argilla() | {"responses": {"q": [{"user_id": "u"}]}},
        argilla() | {"fields": {"instruction": "q"}},
        argilla() | {"fields": {"a": "q"}},
    ],
    ids=lambda row: json.dumps(row)[:60],
)
def test_records_that_are_not_understood_are_named(store: Store, tmp_path: Path, row: dict[str, Any]) -> None:
    file = write_rows(tmp_path / "a.jsonl", [argilla(preference="response_1"), row])
    with pytest.raises(DataError, match=r"a\.jsonl:2"):
        import_(store, [file], form="argilla")
    assert said(store) == [] and store.prompts() == []


def test_label_studios_export_is_understood(store: Store, tmp_path: Path) -> None:
    def result(kind: str, value: dict[str, Any], name: str = "x") -> dict[str, Any]:
        return {"from_name": name, "to_name": "answer1", "type": kind, "value": value, "id": "Dx"}

    task = {
        "id": 7,
        "data": {"prompt": "首都は？", "answer1": "東京", "answer2": "京都"},
        "annotations": [
            {"id": 1, "completed_by": {"id": 3, "email": "ann@example.com"}, "lead_time": 12.5, "was_cancelled": False,
             "result": [result("pairwise", {"selected": "right"}), result("textarea", {"text": ["よい", "短い"]})]},
            {"id": 2, "completed_by": 4, "was_cancelled": True, "result": []},
            {"id": 3, "completed_by": 4, "result": [result("rating", {"rating": 4}), result("choices", {"choices": ["tie"]}),
                result("choices", {"choices": ["harmful", "untrue"]}, "flags_2"),
                result("textarea", {"text": ["東京です"]}, "correction_2")]},
        ],
    }  # fmt: skip
    (tmp_path / "ls.json").write_text(json.dumps([task], ensure_ascii=False), encoding="utf-8")
    import_(store, [tmp_path / "ls.json"], form="labelstudio")
    told = [(one.kind, one.person, one.value) for one in said(store)]
    assert told == [
        (Kind.COMPARISON, "import:ann@example.com", {"verdict": "second", "strength": 0}),
        (Kind.COMMENT, "import:4", {}),
        (Kind.RATING, "import:4", {"answer": 0, "stars": 4}),
        (Kind.COMPARISON, "import:4", {"verdict": "tie", "strength": 0}),
        (Kind.FLAG, "import:4", {"answer": 1, "harmful": True, "private": False, "untrue": True}),
        (Kind.CORRECTION, "import:4", {"answer": 1, "text": "東京です"}),
    ]
    assert (said(store)[0].comment, said(store)[0].seconds) == ("よい\n短い", 12.5)
    assert said(store)[1].extra["skipped"] is True


@pytest.mark.parametrize(
    "results",
    [
        [{"type": "pairwise", "value": {"selected": "up"}}],
        [{"type": "polygon", "value": {}}],
        [{"type": "choices", "value": {"choices": ["nice"]}}],
        [{"type": "rating", "value": {"rating": 6}}],
        "x",
        [{"type": "textarea", "value": {"text": [""]}}],
    ],
    ids=str,
)
def test_annotations_that_are_not_understood_are_named(store: Store, tmp_path: Path, results: Any) -> None:
    task = {"id": 1, "data": {"prompt": "q", "answer1": "a", "answer2": "b"}, "annotations": [{"result": results}]}
    with pytest.raises(DataError, match=r"ls\.jsonl:1"):
        import_(store, [write_rows(tmp_path / "ls.jsonl", [task])], form="labelstudio")
    assert said(store) == []


# -- personal data ---------------------------------------------------------------------------------------------------


def test_personal_data_is_hidden_before_it_is_stored_and_counted(store: Store, tmp_path: Path) -> None:
    row = argilla(
        preference="response_1", comment="私は０９０－１２３４－５６７８です", correction_response_2="a@b.jp へ"
    )
    row["fields"]["instruction"] = "taro@example.com に送って"
    row["fields"]["response_1"] = "4111 1111 1111 1111 です"
    file = write_rows(tmp_path / "a.jsonl", [row])
    done = import_(store, [file], form="argilla")
    assert (
        dict(done.masked)["e-mail"] >= 2 and dict(done.masked)["phone"] >= 1 and dict(done.masked)["credit card"] >= 1
    )
    everything = json.dumps([[m.content for m in j.prompt] + [*j.answers, j.comment, j.value] for j in said(store)])
    for secret in ("taro@", "4111", "１２３４", "a@b"):
        assert json.dumps(secret)[1:-1] not in everything
    assert said(store)[0].prompt[0].content == "[e-mail] に送って"
    assert import_(store, [file], form="argilla").new["judgement"] == 0  # the same row, hidden as before


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["value", "user_id", "result", "type", "choices", "text", "selected", "rank", "fields", "data", "annotations", "responses"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.sampled_from([form for form in FORMS if form != "jsonl"]), st.dictionaries(st.sampled_from(["fields", "responses", "data", "annotations", "id", "prompt", "chosen", "rejected"]), VALUE, max_size=4))  # fmt: skip
@settings(max_examples=120)
def test_whatever_a_file_holds_it_is_read_or_named_and_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, form: str, row: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    file = write_rows(folder / "x.jsonl", [row])
    with OPEN as store:
        try:
            done = import_(store, [file], form=form)
        except DataError as error:
            assert "x.jsonl:1" in str(error)
        else:
            assert isinstance(done, Imported) and not done.bad


class Shared:
    """One store for all examples: opening one for each would take most of the time."""

    store: Store | None = None

    def __enter__(self) -> Store:
        assert self.store is not None
        return self.store

    def __exit__(self, *_: object) -> None:
        pass


OPEN = Shared()


@pytest.fixture(autouse=True, scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with Store.open(tmp_path_factory.mktemp("shared")) as store:
        OPEN.store = store
        yield


def test_prompts_of_an_import_have_the_ids_they_would_have_anywhere(store: Store, tmp_path: Path) -> None:
    (typed,) = store.add_prompts([NewPrompt(ASKED, "typed")])
    messages = [{"role": message.role, "content": message.content} for message in ASKED]
    file = write_rows(tmp_path / "p.jsonl", [{"prompt": messages, "chosen": "a", "rejected": "b"}])
    import_(store, [file], form="trl")
    assert [prompt.id for prompt in store.prompts()] == [typed.id]
    assert said(store)[0].extra["prompt"] == typed.id
