"""Every method's course on a tiny model is the one that is stored: whatever moves a number shows here, and is either a
mistake or stands in CHANGELOG.md (see make_curves)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.methods.every import METHODS
from tests.methods.make_curves import FILE, course

STORED: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))


def test_every_method_has_a_stored_course() -> None:
    assert set(STORED) == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_the_course_is_the_stored_one(method: str) -> None:
    found, stored = course(method), STORED[method]
    assert found.keys() == stored.keys()
    for name, values in found.items():
        for step, (value, expected) in enumerate(zip(values, stored[name], strict=True)):
            assert (value is None) == (expected is None), (name, step)
            if value is not None:
                assert value == pytest.approx(expected, rel=2e-3, abs=1e-4), (name, step)


@pytest.mark.parametrize("method", ["reward", "dpo", "orpo", "simpo", "kto"])
def test_the_loss_of_a_course_falls(method: str) -> None:
    """Over the eight steps each record was seen four times."""
    loss = STORED[method]["loss"]
    assert sum(loss[-2:]) < sum(loss[:2])
