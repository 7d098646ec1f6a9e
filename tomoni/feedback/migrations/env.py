"""What Alembic runs; `tomoni.feedback.database.migrate` is the only caller, and gives it an open transaction: killed in
the middle, no step has happened."""

from __future__ import annotations

from alembic import context

from tomoni.feedback.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,  # SQLite cannot alter a table in place
)
context.run_migrations()
