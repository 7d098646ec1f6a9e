"""Requests made up from the server's own OpenAPI document: nothing breaks it, and what it answers is documented."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serve.running import Running, serving, workspace

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = 9


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("schema")
    workspace(folder)
    with serving(workspace=folder) as server:
        yield server


def attack(running: Running, examples: int) -> dict[str, int]:
    """So many made-up requests to each operation; how often each status came."""
    document = running.app.app.openapi()
    schema: Any = schemathesis.openapi.from_dict(document)
    seen: dict[str, int] = {}
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == OPERATIONS
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
            body = case.body
            if isinstance(body, dict):  # a name that exists, and answers that end soon
                if "model" in body:
                    body["model"] = "tiny"
                for key in ("max_tokens", "max_completion_tokens"):
                    if isinstance(body.get(key), int) and body[key] > 8:
                        body[key] = 8
                if "messages" in body or "prompt" in body:
                    body.setdefault("max_tokens", 4)
            response = case.call(base_url=running.url)
            seen[str(response.status_code)] = seen.get(str(response.status_code), 0) + 1
            case.validate_response(response, checks=CHECKS)

        ask()
    return seen


def test_a_hundred_requests_made_up_from_the_document_are_answered_as_it_says(running: Running) -> None:
    seen = attack(running, 16)
    assert seen["200"] > 10 and sum(seen.values()) >= 80 and not any(status.startswith("5") for status in seen)


@pytest.mark.slow
def test_two_thousand_requests_made_up_from_the_document_are_answered_as_it_says(running: Running) -> None:
    seen = attack(running, 400)
    assert sum(seen.values()) >= 2_000 and not any(status.startswith("5") for status in seen)
