"""What is asked at every click and every look takes as long as the pairs are many, not as long as all that was ever said."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, event

from tomoni.feedback import judging, pool
from tomoni.feedback.store import Store
from tomoni.studio import rounding


def plans(connection: Connection) -> list[str]:
    """How SQLite goes about what `asked` asks of it."""
    found: list[tuple[str, object]] = []

    def keep(_: object, __: object, statement: str, parameters: object, *___: object) -> None:
        found.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", keep)
    pool.list_pairs(connection, purpose="gate", judged=False)
    rounding._count(connection, "r0001-")
    connection.execute(judging.COMPARED, {"its_pair": "a", "its_person": "b"})
    event.remove(connection, "before_cursor_execute", keep)
    return [
        " ".join(str(row[3]) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {said}", values))
        for said, values in found
    ]


def test_judgements_of_a_pair_are_found_by_the_pair(tmp_path: Path) -> None:
    with Store.open(tmp_path / "ws") as store:
        found = store.look(plans)
    assert len(found) == 3
    for plan in found:
        assert "ix_judgements_pair" in plan and "ix_judgements_state_sequence" not in plan, plan
