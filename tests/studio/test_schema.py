"""Requests made up from the document of the studio's routes: nothing breaks it, and what it answers is in the document."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.studio.rooms import OWN, Browser, add_pairs, annotator, house_in, owner
from tests.studio.test_teaching import press
from tomoni.studio.access import rules_of
from tomoni.studio.app import create
from tomoni.studio.house import House

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
MODEL_AWAY = (502, 503)  # said of the model behind the studio, and documented where it is asked


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A studio in which there is one of everything."""
    with house_in(tmp_path_factory.mktemp("schema"), answering=True) as house:
        house.training.processes.command = ["/bin/true"]
        add_pairs(house, 12)
        house.store.add_rule("丁寧に", by=owner(house).id, status="active")
        press(house)
        browser = Browser(house).enter(owner(house))
        file = base64.b64encode(b'{"prompt": "a", "completion": "b"}\n').decode()
        assert browser.post("/api/data/import", {"name": "a.jsonl", "content": file}).status_code == 200
        house.answering.wait(20)
        yield house


def there_is(house: House) -> dict[str, Any]:
    """A value that exists, by the names that fields and holes of paths have."""
    return {
        "pair": house.store.pairs()[0].id,
        "person": annotator(house, "次郎").id,
        "version": "v1",
        "versions": ["v1", "v2"],
        "data": house.holding.all()[0].id if house.holding.all() else "town",
        "number": "1",
        "trial": "0001",
        "content": base64.b64encode(json.dumps({"prompt": "何時？", "completion": "九時です"}).encode()).decode(),
    }


def id_of(house: House, path: str) -> str:
    if path.startswith("/api/guideline"):
        return house.store.rules()[0].id
    if path.startswith("/api/prompts"):
        return house.store.prompts(limit=1)[0].id
    return str(there_is(house)["data"])


def aimed(house: House, path: str, case: Any) -> None:
    """What is made up at random hits nothing that exists: some requests are given names that do."""
    known = there_is(house) | {"id": id_of(house, path)}
    if isinstance(case.body, dict):
        case.body.update({name: known[name] for name in known.keys() & case.body.keys()})
        if "file" not in path and "name" in case.body and "content" in case.body:
            case.body["name"] = "a.jsonl"
    case.path_parameters.update({name: known[name] for name in known.keys() & (case.path_parameters or {}).keys()})


def attack(house: House, browser: Browser, examples: int, *, signed_in: bool) -> Counter[int]:
    """So many requests to each operation; how often each status came."""
    schema: Any = schemathesis.openapi.from_dict(browser.app.openapi())
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == len(rules_of(browser.app.routes))
    seen: Counter[int] = Counter()
    number = count()
    for operation in operations:

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            if next(number) % 2:
                aimed(house, case.operation.path, case)
            if signed_in and browser.get("/api/state").status_code == 401:
                browser.enter(owner(house))  # signed out, or a new password
            sent = case.as_transport_kwargs(base_url=f"http://{browser.client.base_url.host}:8420")
            sent["headers"] = {**sent["headers"], **OWN}
            response = browser.client.request(**{key: sent[key] for key in sent if key not in ("cookies", "timeout")})
            seen[response.status_code] += 1
            checks = CHECKS if response.status_code not in MODEL_AWAY else CHECKS[1:]
            case.validate_response(Response.from_any(response), checks=checks)

        ask()
    return seen


@pytest.mark.parametrize("signed_in", [True, False])
def test_requests_made_up_from_the_document_are_answered_as_it_says(lived_in: House, signed_in: bool) -> None:
    browser = Browser(lived_in, create(lived_in))
    seen = attack(lived_in, browser, 1, signed_in=signed_in)
    assert sum(seen.values()) >= 50
    assert seen[200] > 10 if signed_in else seen[401] + seen[303] > 30


@pytest.mark.slow
@pytest.mark.parametrize(("signed_in", "examples"), [(True, 50), (False, 20)])
def test_two_thousand_requests_made_up_from_the_document_are_answered_as_it_says(
    lived_in: House, signed_in: bool, examples: int
) -> None:
    seen = attack(lived_in, Browser(lived_in, create(lived_in)), examples, signed_in=signed_in)
    assert sum(seen.values()) >= (1_500 if signed_in else 500), seen
