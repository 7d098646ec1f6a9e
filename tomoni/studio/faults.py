"""What goes wrong, told to a person in their language with what to do; a page for pages, JSON for scripts."""

from __future__ import annotations

from typing import Any


class Fault(Exception):
    """`code` names the texts `fault.CODE` and, where there is something to do, `fault.CODE.next`."""

    def __init__(self, code: str, status: int = 400, **values: Any) -> None:
        self.code, self.status, self.values = code, status, values
        super().__init__(f"{status} {code}")
