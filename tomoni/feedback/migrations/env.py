"""What Alembic runs; `tomoni.feedback.database.migrate` gives it an open transaction and is the only caller."""

from __future__ import annotations

from alembic import context

from tomoni.feedback.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,  # SQLite cannot alter a table in place
    transactional_ddl=True,  # all steps in the caller's transaction: killed in the middle, none has happened
)
context.run_migrations()
